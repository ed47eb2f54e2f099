"""What a cache may not change: decode, chunks, batches and the crossing of the trained length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from parity_oracles import decoder_oracle, decoder_part, oracle_logits, random_weights, small_config

from internvl.errors import InternalError
from internvl.model_config import InternVLConfig
from llm_service.model.batch import Chunk, VisualSpan
from llm_service.model.rope import RopeRegime, regime_for
from llm_service.model.runner import ModelRunner
from tests.unit.paged_samples import PagedSequence, Pages

CONFIG = small_config(llm={"num_attention_heads": 6, "num_key_value_heads": 2})
WEIGHTS = random_weights(CONFIG, seed=11)


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return ModelRunner.load(decoder_part(WEIGHTS), CONFIG)


def random_ids(length: int, seed: int = 0, config: InternVLConfig = CONFIG) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.llm.vocab_size, length)


def whole(runner: ModelRunner, ids: np.ndarray, regime: RopeRegime = RopeRegime.SHORT) -> np.ndarray:
    return Pages(runner).sequence(len(ids), regime).all(ids)


def test_decode_with_cache_equals_full_prefill(runner, assert_parity):
    ids = random_ids(48)
    sequence = Pages(runner).sequence(48)
    steps = [sequence.last(ids[:20])]
    steps += [sequence.last(ids[position : position + 1]) for position in range(20, 48)]

    decoded = np.concatenate(steps)
    assert_parity("cache: decode equals full prefill", decoded, whole(runner, ids)[19:])
    oracle = oracle_logits(decoder_oracle(CONFIG.llm, WEIGHTS), ids)
    assert_parity("cache: decode equals oracle", decoded, oracle[19:])


@pytest.mark.parametrize("sizes", [(1, 46, 1), (16, 16, 16), (47, 1), (5, 7, 11, 13, 12)])
@pytest.mark.parametrize("regime", RopeRegime)
def test_chunked_prefill_equals_whole_prefill(runner, sizes, regime, assert_parity):
    ids = random_ids(48, seed=1)
    picture = np.random.default_rng(1).standard_normal((6, CONFIG.llm.hidden_size), dtype=np.float32)
    pages = Pages(runner, block_size=5)
    expected = pages.sequence(48, regime).all(ids, VisualSpan(30, picture))

    sequence, start, parts = pages.sequence(48, regime), 0, []
    for size in sizes:
        spans = _part_of_span(30, picture, start, start + size)
        parts.append(sequence.all(ids[start : start + size], *spans))
        start += size

    assert_parity("cache: chunked prefill equals whole", np.concatenate(parts), expected)


def _part_of_span(offset: int, rows: np.ndarray, start: int, end: int) -> tuple[VisualSpan, ...]:
    """What of a span at `offset` falls into tokens `start` to `end`, as the engine would cut it."""
    first, last = max(offset, start), min(offset + len(rows), end)
    return (VisualSpan(first - start, rows[first - offset : last - offset]),) if first < last else ()


def test_mixed_batch_equals_each_alone(runner, assert_parity):
    """Prefill, decode, both regimes and a picture in one call."""
    lengths, news, regimes = (17, 1, 30, 8), (9, 1, 1, 12), [*RopeRegime, *RopeRegime]
    picture = np.random.default_rng(2).standard_normal((4, CONFIG.llm.hidden_size), dtype=np.float32)
    spans = [(VisualSpan(3, picture),), (), (), (VisualSpan(0, picture), VisualSpan(7, picture))]

    def chunks() -> list[Chunk]:
        pages, made = Pages(runner), []
        for index, (length, new, regime) in enumerate(zip(lengths, news, regimes, strict=True)):
            sequence = pages.sequence(length + new, regime)
            sequence.last(random_ids(length, seed=index))
            made.append(sequence.next(random_ids(new, seed=10 + index), *spans[index]))
        return made

    alone = np.concatenate([runner.forward([chunk])[0] for chunk in chunks()])
    assert_parity("cache: mixed batch equals alone", np.concatenate(runner.forward(chunks())), alone)
    positions = [np.concatenate(runner.forward_all([chunk])) for chunk in chunks()]
    for ours, expected in zip(runner.forward_all(chunks()), positions, strict=True):
        assert_parity("cache: mixed batch equals alone", ours, expected)


def test_rejected_tokens_leave_no_trace(runner, assert_parity):
    ids, other = random_ids(30, seed=3), random_ids(30, seed=4)
    sequence = Pages(runner).sequence(40)
    sequence.last(np.concatenate([ids[:12], other[:15]]))

    sequence.computed = 12

    assert_parity("cache: rejected tokens", sequence.all(ids[12:]), whole(runner, ids)[12:])


def test_copied_blocks_continue_apart(runner, assert_parity):
    """Two answers to one prompt: full blocks shared, the partial one copied."""
    prompt, ends = random_ids(21, seed=5), [random_ids(9, seed=seed) for seed in (6, 7)]
    pages = Pages(runner, block_size=8)
    first = pages.sequence(30)
    first.last(prompt)

    second = PagedSequence(runner, [*first.blocks[:2], *pages.sequence(16).blocks], RopeRegime.SHORT)
    second.computed = first.computed
    runner.copy_blocks([(first.blocks[2], second.blocks[2])])

    logits = runner.forward_all([answer.next(end) for answer, end in zip((first, second), ends, strict=True)])
    for ours, end in zip(logits, ends, strict=True):
        assert_parity("cache: forked", ours, whole(runner, np.concatenate([prompt, end]))[21:])


@pytest.mark.parametrize(("limit", "layers"), [(96, 3), (4096, 1)])
def test_crossing_while_decoding_recomputes(limit, layers, assert_parity):
    """Past the trained length every key is rotated with the long factors, as if the cache had never been.

    The judge is transformers' generate() without a cache. With one, 4.57 recomputes at the same token but
    under the mask of a single query, so that its recomputed prompt is no longer causal (docs/parity.md).
    """
    config = crossing_config(limit, layers)
    weights = random_weights(config, seed=12)
    ids = random_ids(limit - 1, config=config)
    tokens, expected = generated_without_cache(config, weights, ids, count=4)

    ours = decode(ModelRunner.load(decoder_part(weights), config), ids, tokens, recompute=True)

    assert_parity(f"cache: crossing {limit} while decoding", ours, expected)
    np.testing.assert_array_equal(ours.argmax(-1), tokens)


def test_crossing_without_recomputation_breaks_parity(assert_parity, assert_breaks_parity):
    config = crossing_config(limit=96, layers=3)
    weights = random_weights(config, seed=12)
    ids = random_ids(95, config=config)
    tokens, expected = generated_without_cache(config, weights, ids, count=4)

    ours = decode(ModelRunner.load(decoder_part(weights), config), ids, tokens, recompute=False)

    assert_parity("cache: up to the crossing", ours[:2], expected[:2])
    assert_breaks_parity(ours[2:], expected[2:])


def crossing_config(limit: int, layers: int) -> InternVLConfig:
    """Heads and factors of the released model, trained on `limit` tokens."""
    heads = {"hidden_size": 192, "num_attention_heads": 2, "num_key_value_heads": 2}
    return small_config(llm=heads | {"num_hidden_layers": layers, "original_max_position_embeddings": limit})


def generated_without_cache(
    config: InternVLConfig, weights: Mapping[str, np.ndarray], ids: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy tokens [count] and their logits [count, vocab] from transformers."""
    output = decoder_oracle(config.llm, weights).generate(
        torch.from_numpy(ids)[None],
        attention_mask=torch.ones(1, len(ids)),  # or id 0 would count as padding
        max_new_tokens=count,
        do_sample=False,
        use_cache=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return output.sequences[0, len(ids) :].numpy(), torch.cat(output.logits).numpy()


def decode(runner: ModelRunner, ids: np.ndarray, tokens: np.ndarray, recompute: bool) -> np.ndarray:
    """Logits [tokens, vocab] of the prompt and then each token, with the engine's policy or without."""
    sequence = Pages(runner).sequence(len(ids) + len(tokens), regime_for(len(ids), runner.config))
    logits, history = [sequence.last(ids)], ids
    for token in tokens[:-1]:
        history = np.append(history, token)
        regime = regime_for(len(history), runner.config)
        if recompute and regime is not sequence.regime:
            sequence.regime, sequence.computed = regime, 0
        logits.append(sequence.last(history[sequence.computed :]))
    return np.concatenate(logits)


def test_what_would_corrupt_the_cache_is_refused(runner):
    pages = Pages(runner, block_size=4)
    blocks = pages.sequence(8).blocks
    one, many = random_ids(1), random_ids(4)
    wide = np.zeros((2, CONFIG.llm.hidden_size + 1), dtype=np.float32)
    fits = np.zeros((2, CONFIG.llm.hidden_size), dtype=np.float32)

    def chunk(ids: np.ndarray, *spans: VisualSpan, start: int = 4, **changed: Any) -> Chunk:
        fields = {"blocks": blocks, "regime": RopeRegime.SHORT} | changed
        return Chunk(ids, spans, start, **fields)

    refused = {
        "no chunks": [],
        "tokens 5 to 9 exceed its blocks' 8": [chunk(many, start=5)],
        "tokens -1 to 0 exceed": [chunk(one, start=-1)],
        "outside the cache of 1500": [chunk(one, blocks=[0, 1500])],
        "two tokens would be written to one place": [chunk(one), chunk(one, start=5)],
        "2 logits wanted of 1 tokens": [chunk(one, wanted=2)],
        "outside the vocabulary of 101": [chunk(one + 101)],
        "int64 \\[n >= 1\\]": [chunk(one[:0])],
        "expected \\[k, 48\\]": [chunk(many[:2], VisualSpan(0, wide))],
        "leaves the chunk": [chunk(one, VisualSpan(0, fits))],
        "overlaps": [chunk(many[:3], VisualSpan(0, fits), VisualSpan(1, fits))],
    }
    for message, chunks in refused.items():
        with pytest.raises(InternalError, match=message):
            runner.forward(chunks)


def test_model_without_a_cache_is_refused():
    config = small_config(llm={"num_hidden_layers": 1})
    runner = ModelRunner.load(decoder_part(random_weights(config, seed=0)), config)
    with pytest.raises(InternalError, match="cache: not opened"):
        runner.forward([Chunk(random_ids(1), (), 0, [0], RopeRegime.SHORT)])


def test_wild_embeddings_do_not_reach_the_next_owner_of_their_blocks(runner, assert_parity):
    """Masked tokens weigh nothing, and 0 * NaN would not be nothing."""
    ids = random_ids(40)
    wild = np.full((8, CONFIG.llm.hidden_size), np.nan, dtype=np.float32)
    wild[1], wild[2], wild[3] = np.inf, -np.inf, 3e38
    expected = whole(runner, ids)
    sequence = Pages(runner).sequence(40)
    sequence.last(ids, VisualSpan(20, wild))

    sequence.computed = 0

    decoded = np.concatenate([sequence.last(ids[i : i + 1]) for i in range(40)])
    assert_parity("cache: after wild embeddings", decoded, expected)

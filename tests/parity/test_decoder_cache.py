"""What a cache may not change: decode, chunks, batches and the crossing of the trained length."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from parity_oracles import decoder_oracle, decoder_part, oracle_logits, random_weights, small_config

from internvl.errors import InternalError
from internvl.model_config import InternVLConfig
from llm_service.model.batch import Chunk, VisualSpan
from llm_service.model.rope import RopeRegime, regime_for
from llm_service.model.runner import ModelRunner

CONFIG = small_config(llm={"num_attention_heads": 6, "num_key_value_heads": 2})
WEIGHTS = random_weights(CONFIG, seed=11)


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return ModelRunner.load(decoder_part(WEIGHTS), CONFIG)


def random_ids(length: int, seed: int = 0, config: InternVLConfig = CONFIG) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.llm.vocab_size, length)


def whole(runner: ModelRunner, ids: np.ndarray, regime: RopeRegime = RopeRegime.SHORT) -> np.ndarray:
    return runner.forward_all([Chunk(ids, (), runner.new_cache(len(ids)), regime)])[0]


def test_decode_with_cache_equals_full_prefill(runner, assert_parity):
    ids = random_ids(48)
    cache = runner.new_cache(48)
    steps = [runner.forward([Chunk(ids[:20], (), cache, RopeRegime.SHORT)])]
    for position in range(20, 48):
        steps.append(runner.forward([Chunk(ids[position : position + 1], (), cache, RopeRegime.SHORT)]))

    assert cache.length == 48
    decoded = np.concatenate(steps)
    assert_parity("cache: decode equals full prefill", decoded, whole(runner, ids)[19:])
    oracle = oracle_logits(decoder_oracle(CONFIG.llm, WEIGHTS), ids)
    assert_parity("cache: decode equals oracle", decoded, oracle[19:])


@pytest.mark.parametrize("sizes", [(1, 46, 1), (16, 16, 16), (47, 1), (5, 7, 11, 13, 12)])
@pytest.mark.parametrize("regime", RopeRegime)
def test_chunked_prefill_equals_whole_prefill(runner, sizes, regime, assert_parity):
    ids = random_ids(48, seed=1)
    picture = np.random.default_rng(1).standard_normal((6, CONFIG.llm.hidden_size), dtype=np.float32)
    expected = runner.forward_all([Chunk(ids, (VisualSpan(30, picture),), runner.new_cache(48), regime)])[0]

    cache, start, parts = runner.new_cache(48), 0, []
    for size in sizes:
        spans = _part_of_span(30, picture, start, start + size)
        parts += runner.forward_all([Chunk(ids[start : start + size], spans, cache, regime)])
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
        made = []
        for index, (length, new, regime) in enumerate(zip(lengths, news, regimes, strict=True)):
            cache = runner.new_cache(length + new)
            runner.forward([Chunk(random_ids(length, seed=index), (), cache, regime)])
            made.append(Chunk(random_ids(new, seed=10 + index), spans[index], cache, regime))
        return made

    alone = np.concatenate([runner.forward([chunk]) for chunk in chunks()])
    assert_parity("cache: mixed batch equals alone", runner.forward(chunks()), alone)
    positions = [np.concatenate(runner.forward_all([chunk])) for chunk in chunks()]
    for ours, expected in zip(runner.forward_all(chunks()), positions, strict=True):
        assert_parity("cache: mixed batch equals alone", ours, expected)


def test_truncated_cache_continues_as_if_never_longer(runner, assert_parity):
    ids, other = random_ids(30, seed=3), random_ids(30, seed=4)
    cache = runner.new_cache(40)
    runner.forward([Chunk(np.concatenate([ids[:12], other[:15]]), (), cache, RopeRegime.SHORT)])

    cache.truncate(12)
    logits = runner.forward_all([Chunk(ids[12:], (), cache, RopeRegime.SHORT)])[0]

    assert_parity("cache: truncated", logits, whole(runner, ids)[12:])


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
    cache, history = runner.new_cache(len(ids) + len(tokens)), ids
    regime = regime_for(len(history), runner.config)
    logits = [runner.forward([Chunk(history, (), cache, regime)])]
    for token in tokens[:-1]:
        history = np.append(history, token)
        if recompute and regime_for(len(history), runner.config) is not regime:
            regime = regime_for(len(history), runner.config)
            cache.truncate(0)
        logits.append(runner.forward([Chunk(history[cache.length :], (), cache, regime)]))
    return np.concatenate(logits)


def test_cache_refuses_what_would_corrupt_it(runner):
    cache = runner.new_cache(8)
    runner.forward([Chunk(random_ids(5), (), cache, RopeRegime.SHORT)])
    one, many = random_ids(1), random_ids(4)
    wide = np.zeros((2, CONFIG.llm.hidden_size + 1), dtype=np.float32)
    fits = np.zeros((2, CONFIG.llm.hidden_size), dtype=np.float32)
    refused = {
        "5 \\+ 4 tokens exceed its 8": [Chunk(many, (), cache, RopeRegime.SHORT)],
        "the other rope regime": [Chunk(one, (), cache, RopeRegime.LONG)],
        "share one cache": [Chunk(one, (), cache, RopeRegime.SHORT)] * 2,
        "no chunks": [],
        "outside the vocabulary of 101": [Chunk(one + 101, (), cache, RopeRegime.SHORT)],
        "int64 \\[n >= 1\\]": [Chunk(one[:0], (), cache, RopeRegime.SHORT)],
        "expected \\[k, 48\\]": [Chunk(many[:2], (VisualSpan(0, wide),), cache, RopeRegime.SHORT)],
        "leaves the chunk": [Chunk(one, (VisualSpan(0, fits),), cache, RopeRegime.SHORT)],
        "overlaps": [
            Chunk(many[:3], (VisualSpan(0, fits), VisualSpan(1, fits)), cache, RopeRegime.SHORT),
        ],
    }
    for message, chunks in refused.items():
        with pytest.raises(InternalError, match=message):
            runner.forward(chunks)
    with pytest.raises(InternalError, match="cannot cut 5 tokens to 6"):
        cache.truncate(6)
    assert cache.length == 5

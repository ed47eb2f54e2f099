"""What keeping keys and values in fewer bits costs, against the cache in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from parity_error import relative_error
from parity_oracles import decoder_oracle, decoder_part, oracle_logits, random_weights, small_config

from internvl.checkpoint import Part, open_checkpoint
from internvl.model_config import read_model_config
from kernels.dispatch import open_ops
from kernels.ops import Ops
from kernels.paddle_ops import PaddleOps
from kernels.paged import KvDtype
from kernels.runtime import CPU
from kernels.weights import load_weights, specs_of
from llm_service.model.runner import ModelRunner
from tests.unit.paged_samples import Pages

NANO = Path(__file__).parents[2] / "models" / "nano"

# Stated limits on max|ours - float32| / max|float32| of the logits.
LIMITS = {KvDtype.BFLOAT16: 2e-2, KvDtype.INT8: 5e-2}
IMPLEMENTATIONS = {"plain": PaddleOps, "best": open_ops}


def prefill_and_decode(runner: ModelRunner, ids: np.ndarray, dtype: KvDtype) -> np.ndarray:
    """Logits of every token: a third at once, a third in pieces, the rest token by token."""
    sequence = Pages(runner, len(ids) + 16, dtype=dtype).sequence(len(ids))
    third = len(ids) // 3
    pieces = [ids[:third], ids[third : third + 7], ids[third + 7 : 2 * third]]
    pieces += [ids[i : i + 1] for i in range(2 * third, len(ids))]
    return np.concatenate([sequence.all(piece) for piece in pieces])


def nano(ops: Ops) -> ModelRunner:
    config = read_model_config(NANO)
    checkpoint = open_checkpoint(NANO, config)
    weights = load_weights(checkpoint.tensors(Part.DECODER.value), specs_of(config, Part.DECODER), ops)
    return ModelRunner(weights, config, ops)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", LIMITS)
def test_random_model_stays_within_the_limit_of_the_oracle(name: str, dtype: KvDtype) -> None:
    config = small_config(llm={"num_attention_heads": 6, "num_key_value_heads": 2})
    weights = random_weights(config, seed=31)
    ops = IMPLEMENTATIONS[name](CPU)
    specs = specs_of(config, Part.DECODER)
    runner = ModelRunner(load_weights(decoder_part(weights), specs, ops), config, ops)
    ids = np.random.default_rng(31).integers(0, config.llm.vocab_size, 90)

    oracle = oracle_logits(decoder_oracle(config.llm, weights), ids)

    assert relative_error(prefill_and_decode(runner, ids, KvDtype.FLOAT32), oracle) < 2e-4
    assert 1e-5 < relative_error(prefill_and_decode(runner, ids, dtype), oracle) < LIMITS[dtype]


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_trained_model_keeps_its_mind(name: str) -> None:
    """On the embedded model the next token is another one at few positions of any text."""
    runner = nano(IMPLEMENTATIONS[name](CPU))
    ids = np.random.default_rng(32).integers(3, 600, 300)
    exact = prefill_and_decode(runner, ids, KvDtype.FLOAT32)
    for dtype, limit in LIMITS.items():
        ours = prefill_and_decode(runner, ids, dtype)
        assert 1e-5 < relative_error(ours, exact) < limit
        assert np.mean(ours.argmax(-1) != exact.argmax(-1)) < 0.05

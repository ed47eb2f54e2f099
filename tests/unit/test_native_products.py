"""Packed products against plain Paddle on the same numbers, and against what quantising may cost."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from internvl.checkpoint.weight_format import WeightFormat, stored
from kernels.native.library import Library
from kernels.native.ops import NativeOps
from kernels.ops import Activation, Linear, Norm, Ops
from kernels.paddle_ops import PaddleOps
from kernels.runtime import CPU

FORMATS = [form for form in WeightFormat if form is not WeightFormat.FLOAT32]

# Largest error over the deviation of the outputs. bf16: the order of sums, or rounded activations where the
# processor multiplies bfloat16. The others: activations rounded to 8 bits, a group of them at a time.
TOLERANCE = {
    WeightFormat.BFLOAT16: 2e-2,
    WeightFormat.INT8: 6e-2,
    WeightFormat.W8: 6e-2,
    WeightFormat.W4: 6e-2,
}

# Ragged ends of panels and groups, widths of the embedded model, several groups of every format.
SHAPES = [(1, 1), (7, 5), (138, 192), (192, 512), (64, 588), (70, 2304)]

# What may be done to a row within its product, of a matrix with ragged ends.
BEFORE = ("RMSNorm", "LayerNorm", "GELU", "SWIGLU")
OUTPUTS, INPUTS = 138, 320


def opened(form: WeightFormat, library: Library) -> tuple[NativeOps, PaddleOps]:
    device = replace(CPU, weights=form)
    return NativeOps(device, library), PaddleOps(device)


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def before_of(kind: str, ops: Ops) -> Norm | Activation:
    if kind in Activation.__members__:
        return Activation[kind]
    gain, shift = (ops.tensor(normal(INPUTS, seed=seed)) for seed in (5, 6))
    return Norm(gain, shift if kind == "LayerNorm" else None, 1e-5)


def entering(kind: str) -> int:
    """Numbers of a row that enter."""
    return 2 * INPUTS if kind == "SWIGLU" else INPUTS


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_product_equals_plain_operators(
    levelled: Library, form: WeightFormat, outputs: int, inputs: int, bias: bool
) -> None:
    weight = normal(outputs, inputs, seed=1) / np.sqrt(np.float32(inputs))
    x, added = normal(2, 7, inputs, seed=2), normal(outputs, seed=3)
    results = []
    for ops in opened(form, levelled):
        layer = Linear(ops.pack(weight), ops.tensor(added) if bias else None)
        assert layer.weight.shape == (outputs, inputs)
        results.append(ops.to_numpy(ops.linear(ops.tensor(x), layer)))
    assert results[0].shape == (2, 7, outputs)
    np.testing.assert_allclose(*results, atol=TOLERANCE[form])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rows", [1, 7, 600])
@pytest.mark.parametrize("kind", BEFORE)
def test_what_is_within_a_product_equals_what_is_around_it(
    levelled: Library, form: WeightFormat, rows: int, kind: str
) -> None:
    """To the last bit: what a norm or activation gives goes into the same product, and sums are the same."""
    ops, _ = opened(form, levelled)
    before = before_of(kind, ops)
    weight, bias, factors = normal(OUTPUTS, INPUTS, seed=1), normal(OUTPUTS, seed=3), normal(OUTPUTS, seed=7)
    layer, scale = Linear(ops.pack(weight), ops.tensor(bias)), ops.tensor(factors)
    x = ops.tensor(normal(rows, entering(kind), seed=4))
    residual = ops.tensor(normal(rows, OUTPUTS, seed=5))
    apart = ops.norm(x, before) if isinstance(before, Norm) else ops.activate(x, before)
    product = ops.linear(apart, layer)
    for within, around in (
        (ops.linear(x, layer, before=before), product),
        (ops.linear(x, layer, before=before, residual=residual), product + residual),
        (ops.linear(x, layer, before=before, scale=scale), product * scale),
        (ops.linear(x, layer, before=before, scale=scale, residual=residual), product * scale + residual),
    ):
        np.testing.assert_array_equal(ops.to_numpy(within), ops.to_numpy(around))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", BEFORE)
def test_all_of_a_product_equals_plain_operators(levelled: Library, form: WeightFormat, kind: str) -> None:
    weight = normal(OUTPUTS, INPUTS, seed=1) / np.sqrt(np.float32(INPUTS))
    x, residual = normal(2, 7, entering(kind), seed=2), normal(2, 7, OUTPUTS, seed=4)
    results = []
    for ops in opened(form, levelled):
        layer = Linear(ops.pack(weight), ops.tensor(normal(OUTPUTS, seed=3)))
        scale, added = ops.tensor(np.linspace(-1, 1, OUTPUTS)), ops.tensor(residual)
        out = ops.linear(ops.tensor(x), layer, before=before_of(kind, ops), scale=scale, residual=added)
        results.append(ops.to_numpy(out))
    np.testing.assert_allclose(*results, atol=TOLERANCE[form])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", BEFORE)
def test_a_row_never_depends_on_its_batch(levelled: Library, form: WeightFormat, kind: str) -> None:
    """Alone, in any place and among up to 600 others: equal to the last bit."""
    ops, _ = opened(form, levelled)
    layer = Linear(ops.pack(normal(OUTPUTS, INPUTS, seed=1)), ops.tensor(normal(OUTPUTS, seed=2)))
    x, residual = normal(600, entering(kind), seed=3), normal(600, OUTPUTS, seed=4)
    before, scale = before_of(kind, ops), ops.tensor(normal(OUTPUTS, seed=5))

    def rows(first: int, count: int) -> np.ndarray:
        own, added = (ops.tensor(each[first : first + count]) for each in (x, residual))
        return ops.to_numpy(ops.linear(own, layer, before=before, scale=scale, residual=added))

    whole = rows(0, 600)
    for first, count in [(0, 1), (5, 2), (7, 3), (0, 4), (100, 5), (511, 6), (509, 7), (1, 33), (540, 60)]:
        np.testing.assert_array_equal(rows(first, count), whole[first : first + count])


@pytest.mark.parametrize("form", FORMATS)
def test_levels_agree(library: Library, form: WeightFormat) -> None:
    """Numbers that fit every format exactly give exact products, at the best level as without any.

    The first two outputs and rows give the greatest sums, which 16 bits must hold where they are used.
    """
    random = np.random.default_rng(0)
    weight = random.integers(0, 2, (65, 256)).astype(np.float32) * (form.levels or 15)
    weight[:2, 32:] = weight.max()
    x = random.integers(-127, 128, (3, 256)).astype(np.float32)
    x[:2] = [[127], [-127]]
    x[:, ::32] = 127
    best = library.level
    outputs = []
    for level in ("baseline", best):
        assert library.use_level(level)
        ops, _ = opened(form, library)
        outputs.append(ops.to_numpy(ops.linear(ops.tensor(x), Linear(ops.pack(weight)))))
    for output in outputs:
        np.testing.assert_array_equal(output, x @ weight.T)


@pytest.mark.parametrize("form", FORMATS)
def test_bfloat16_weights_are_taken_as_they_are(levelled: Library, form: WeightFormat) -> None:
    weight = normal(70, 96, seed=1).astype(ml_dtypes.bfloat16)
    ops, _ = opened(form, levelled)
    x = ops.tensor(normal(2, 96, seed=2))
    short, wide = (ops.linear(x, Linear(ops.pack(w))) for w in (weight, weight.astype(np.float32)))
    np.testing.assert_array_equal(ops.to_numpy(short), ops.to_numpy(wide))


@pytest.mark.parametrize("form", FORMATS)
def test_constant_and_zero_weights_and_rows(levelled: Library, form: WeightFormat) -> None:
    ops, _ = opened(form, levelled)
    weight = np.zeros((3, 64), np.float32)
    weight[1], weight[2] = 0.5, -2
    x = np.stack([np.zeros(64, np.float32), np.ones(64, np.float32)])
    out = ops.to_numpy(ops.linear(ops.tensor(x), Linear(ops.pack(weight))))
    np.testing.assert_allclose(out, [[0, 0, 0], [0, 32, -128]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("form", "limit"),
    [
        (WeightFormat.BFLOAT16, 0.004),
        (WeightFormat.INT8, 0.018),
        (WeightFormat.W8, 0.014),
        (WeightFormat.W4, 0.12),
    ],
)
def test_what_a_format_keeps(form: WeightFormat, limit: float) -> None:
    """Relative error of the weights, root mean square; twice of what normal numbers would have."""
    weight = normal(64, 2048, seed=1)
    error = np.sqrt(np.mean((stored(weight, form) - weight) ** 2))
    assert 0 < error < limit


@pytest.mark.parametrize("form", FORMATS)
def test_token_table_gives_its_rows(library: Library, form: WeightFormat) -> None:
    ops, _ = opened(form, library)
    table = normal(20, 12, seed=1).astype(ml_dtypes.bfloat16)
    ids = np.array([3, 19, 3])
    for linear in (True, False):
        rows = ops.to_numpy(ops.embedding(ids, ops.pack_table(table, linear=linear)))
        np.testing.assert_array_equal(rows, table[ids].astype(np.float32))
    both = ops.pack_table(table, linear=True)
    x = normal(2, 12, seed=2)
    np.testing.assert_allclose(
        ops.to_numpy(ops.linear(ops.tensor(x), Linear(both))), x @ table.astype(np.float32).T, atol=1e-5
    )

"""How near the native operators come to what the processor can do, at the shapes of InternVL2-4B.

    python -m benchmarks.kernels --json FILE
    python -m benchmarks.kernels --whole w4
    python -m benchmarks.kernels --divergence

Two minutes. Weights and activations are made up, one layer of each. Reading memory and multiply-adds between
registers are measured in the same rounds: they are what the operators are compared with, beside plain Paddle.
docs/kernels.md says what the rows mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from benchmarks.kernels.attention import decode_attention, prefill_attention, tower_attention
from benchmarks.kernels.divergence import divergence_rows
from benchmarks.kernels.limits import Limits
from benchmarks.kernels.products import DECODER, PACKED, TOWER, Products, decode_rows, prefill_rows
from benchmarks.kernels.rowwise import rowwise_rows
from benchmarks.kernels.whole import decoder_rows, tower_rows
from benchmarks.report import Row, add_report_flags, report
from internvl.checkpoint.weight_format import WeightFormat
from internvl.telemetry import configure_logging
from kernels.native.library import open_library


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument(
        "--whole",
        type=WeightFormat,
        choices=PACKED,
        metavar="FORMAT",
        help="instead the whole decoder and tower in this format: bf16 takes 9 GiB of memory, w4 4",
    )
    parser.add_argument(
        "--divergence",
        action="store_true",
        help="instead what each format does to the probabilities of the embedded model",
    )
    add_report_flags(parser)
    args = parser.parse_args(argv)
    configure_logging("warning")
    library = open_library()
    if library is None:
        parser.exit(1, "The native operators are not built: python -m kernels.native\n")
    if args.divergence:
        rows = divergence_rows()
    elif args.whole:
        rows = _whole(args.whole, Limits(library))
    else:
        rows = _rows(Limits(library))
    report(list(rows), args.json)


def _whole(form: WeightFormat, limits: Limits) -> Iterator[Row]:
    yield from tower_rows(form)
    yield from decoder_rows(form, limits)


def _rows(limits: Limits) -> Iterator[Row]:
    decoder = Products(DECODER, limits.library)
    for rows in (1, 4, 8):
        yield from decode_rows(decoder, rows, limits)
    for rows in (256, 512):
        yield from prefill_rows("prefill", decoder, rows, limits)
    del decoder
    yield from prefill_rows("tower", Products(TOWER, limits.library), 1025, limits)
    yield from decode_attention(1, limits)
    yield from decode_attention(8, limits)
    yield from prefill_attention(512, limits)
    yield from tower_attention(limits)
    yield from rowwise_rows(limits)
    yield Row("read_gb_s", limits.read_gb_s(), "GB/s", "memory in pages of 2 MiB, all threads")


if __name__ == "__main__":
    main()

"""`internvl checkpoint inspect | convert | quantize | random`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from internvl.checkpoint import FileFormat, Layout, WriteOptions, progress_bar, write_random_checkpoint
from internvl.checkpoint.conversion import convert_checkpoint
from internvl.checkpoint.inspection import Report, inspect_checkpoint
from internvl.checkpoint.quantisation import quantise_checkpoint
from internvl.checkpoint.reader import WEIGHT_DTYPES
from internvl.checkpoint.series import SERIES, series_config
from internvl.checkpoint.weight_format import WeightFormat
from internvl.cli import Command
from internvl.errors import ConfigError
from internvl.model_choice import QUANTIZATIONS
from internvl.model_config import load_raw_config


def configure(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _configure_inspect(
        actions.add_parser("inspect", help="say what a checkpoint holds and whether it is sound")
    )
    _configure_convert(actions.add_parser("convert", help="rewrite it in the other layout, format or dtype"))
    _configure_quantize(
        actions.add_parser("quantize", help="write it with its matrices as codes of 8 or 4 bits, or in bf16")
    )
    _configure_random(actions.add_parser("random", help="write random weights of a released shape"))


def run(arguments: Namespace) -> int:
    code: int = arguments.action(arguments)
    return code


command = Command("checkpoint", "Inspect, convert, quantise or make up a checkpoint.", configure, run)


def _configure_inspect(parser: ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(action=_inspect)


def _inspect(arguments: Namespace) -> int:
    report = inspect_checkpoint(arguments.folder)
    print(json.dumps(report.as_json(), indent=2) if arguments.json else _rendered(report))
    return 1 if report.problems else 0


def _configure_convert(parser: ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SRC")
    parser.add_argument("target", type=Path, metavar="DST", help="a folder that is empty or does not exist")
    parser.add_argument("--to", type=Layout, choices=list(Layout), required=True, help="layout to write")
    parser.add_argument("--dtype", choices=WEIGHT_DTYPES, help="cast; default: keep each tensor as it is")
    _add_file_options(parser)
    parser.set_defaults(action=_convert)


def _convert(arguments: Namespace) -> int:
    options = _write_options(arguments, arguments.to)
    with progress_bar("converting") as progress:
        convert_checkpoint(
            arguments.source, arguments.target, options, dtype=arguments.dtype, progress=progress
        )
    print(f"wrote {arguments.target} in {options.layout} layout")
    return 0


def _configure_quantize(parser: ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SRC")
    parser.add_argument("target", type=Path, metavar="DST", help="a folder that is empty or does not exist")
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--quantize", choices=QUANTIZATIONS, help="as the flag of the services")
    form.add_argument("--dtype", choices=("bf16",), help="likewise")
    _add_shard_option(parser)
    parser.set_defaults(action=_quantize)


def _quantize(arguments: Namespace) -> int:
    form = WeightFormat(arguments.quantize or arguments.dtype)
    options = WriteOptions(max_shard_bytes=_shard_bytes(arguments))
    with progress_bar("quantising") as progress:
        before, after = quantise_checkpoint(arguments.source, arguments.target, form, options, progress)
    print(f"wrote {arguments.target} in {form.value}: {before:,} bytes before, {after:,} after")
    return 0


def _configure_random(parser: ArgumentParser) -> None:
    parser.add_argument("target", type=Path, metavar="DST", help="a folder that is empty or does not exist")
    shape = parser.add_mutually_exclusive_group(required=True)
    shape.add_argument("--like", choices=SERIES, metavar="NAME", help=f"one of {', '.join(SERIES)}")
    shape.add_argument("--config", type=Path, metavar="FILE", help="a config.json of any shape")
    parser.add_argument("--layers", type=int, metavar="N", help="decoder layers instead of the config's")
    parser.add_argument(
        "--vision-layers", type=int, metavar="N", help="vision layers instead of the config's"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--dtype", choices=WEIGHT_DTYPES, help="default: the config's torch_dtype")
    parser.add_argument("--to", type=Layout, choices=list(Layout), default=Layout.HF, help="default: hf")
    _add_file_options(parser)
    parser.set_defaults(action=_random)


def _random(arguments: Namespace) -> int:
    raw = series_config(arguments.like) if arguments.like else load_raw_config(arguments.config)
    _set_layers(raw, "llm_config", arguments.layers, "--layers")
    _set_layers(raw, "vision_config", arguments.vision_layers, "--vision-layers")
    with progress_bar("drawing") as progress:
        has_tokenizer = write_random_checkpoint(
            arguments.target,
            raw,
            seed=arguments.seed,
            dtype=arguments.dtype,
            options=_write_options(arguments, arguments.to),
            progress=progress,
        )
    print(f"wrote {arguments.target}")
    if not has_tokenizer:
        print("without tokenizer files: only those of Phi-3 can be made up, for 280 tokens or more")
    return 0


def _set_layers(raw: dict[str, Any], section: str, layers: int | None, flag: str) -> None:
    if layers is None:
        return
    if layers < 1:
        raise ConfigError(f"{flag}: must be at least 1, found {layers}")
    raw[section] = {**raw.get(section, {}), "num_hidden_layers": layers}


def _add_file_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        type=FileFormat,
        choices=list(FileFormat),
        default=FileFormat.SAFETENSORS,
        help="file format; pdparams needs --to paddle; default: safetensors",
    )
    _add_shard_option(parser)


def _add_shard_option(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--max-shard-bytes",
        type=int,
        default=WriteOptions().max_shard_bytes,
        metavar="N",
        help="start a new file beyond this size; default: 5 GB",
    )


def _write_options(arguments: Namespace, layout: Layout) -> WriteOptions:
    if arguments.format is FileFormat.PDPARAMS and layout is not Layout.PADDLE:
        raise ConfigError("--format pdparams: such files always hold the Paddle layout; add --to paddle")
    return WriteOptions(layout, arguments.format, _shard_bytes(arguments))


def _shard_bytes(arguments: Namespace) -> int:
    limit: int = arguments.max_shard_bytes
    if limit < 1:
        raise ConfigError(f"--max-shard-bytes: must be at least 1, found {limit}")
    return limit


def _rendered(report: Report) -> str:
    lines = [f"layout    {report.layout or 'cannot be told'}"]
    lines += [f"          {sentence}" for sentence in report.evidence]
    lines += [f"file      {name}  {size:,} bytes" for name, size in report.shards.items()]
    for name, part in (*report.parts.items(), ("total", report.total)):
        lines.append(
            f"{name:<9} {part.tensors:,} tensors, {part.parameters:,} parameters, {part.bytes:,} bytes"
        )
    lines += [f"dtype     {name}: {count} tensors" for name, count in report.dtypes.items()]
    lines += [f"config    {key}: {value}" for key, value in report.config.items()]
    lines += [f"PROBLEM   {problem}" for problem in report.problems] or [
        "sound     every tensor is there and fits"
    ]
    return "\n".join(lines)

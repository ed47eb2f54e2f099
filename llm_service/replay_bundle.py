"""A request and its answer, written down so that it can be run again: made here, read by `replay`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from google.protobuf import json_format

from internvl.errors import ConfigError
from internvl.model_choice import ModelChoice
from internvl.v1 import content_pb2, llm_service_pb2, replay_pb2
from llm_service.engine.request import Request, VisualSlot

VERSION = 1

MAX_BUNDLE_TOKENS = 2**18
"""Most tokens of prompt and answers together in a bundle, which keeps its JSON below 2 MiB of ids."""

_PACKAGES = ("internvl-serve", "paddlepaddle", "paddlepaddle-gpu", "numpy")


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What answers every request of a service, as far as tokens may depend on it."""

    model: llm_service_pb2.ModelInfoResponse
    step_token_budget: int
    machine: replay_pb2.ReplayMachine


class BundleRecorder:
    """Takes down one request while it is answered."""

    def __init__(self, request: Request, opening: llm_service_pb2.GenerateOpen, engine: EngineFacts) -> None:
        """Begin with what is known of a checked request.

        Args:
            opening: the message that the request came with.
        """
        self._bundle = replay_pb2.ReplayBundle(
            version=VERSION,
            request_id=request.request_id,
            prompt_ids=request.prompt_ids.tolist(),
            slots=map(_slot, request.slots),
            visuals=_visuals(opening),
            sampling=opening.sampling,
            delivered_token_ids=request.delivered_ids,
            model=engine.model,
            step_token_budget=engine.step_token_budget,
            machine=engine.machine,
            choices=[replay_pb2.ReplayChoice() for _ in range(request.sampling.n)],
        )
        self._bundle.sampling.seed = request.sampling.seed
        self._bundle.sampling.max_tokens = request.sampling.max_tokens

    def note(self, response: llm_service_pb2.GenerateResponse) -> None:
        """Take down one message of the answer."""
        match response.WhichOneof("message"):
            case "admitted":
                self._bundle.cached_tokens = response.admitted.cached_tokens
            case "delta":
                self._bundle.choices[response.delta.choice].token_ids.extend(response.delta.token_ids)
            case "result":
                for choice, end in zip(self._bundle.choices, response.result.choices, strict=True):
                    choice.finish_reason = end.finish_reason
                    if end.HasField("stop_match"):
                        choice.stop_match = end.stop_match

    def to_json(self) -> bytes:
        """The bundle of a request that is complete. Takes time for long prompts."""
        return json_format.MessageToJson(
            self._bundle, preserving_proto_field_name=True, indent=None, ensure_ascii=False
        ).encode()


def read_bundle(data: bytes) -> replay_pb2.ReplayBundle:
    """Read what `BundleRecorder.to_json` wrote.

    Raises:
        ConfigError: not a bundle, or one of another version.
    """
    try:
        document = json.loads(data)
        found = document.get("version") if isinstance(document, dict) else None
        if found != VERSION:
            raise ConfigError(f"not a replay bundle of version {VERSION}, the one that this program reads")
        return json_format.ParseDict(document, replay_pb2.ReplayBundle())
    except RecursionError:
        raise ConfigError("not a replay bundle: nested too deeply") from None
    except (ValueError, json_format.ParseError) as error:  # damaged text and JSON are ValueErrors
        raise ConfigError(f"not a replay bundle: {str(error).splitlines()[0]}") from None


def this_machine(model: ModelChoice) -> replay_pb2.ReplayMachine:
    """What computes a model here, once its device is open."""
    from kernels.dispatch import operators_of  # Paddle, which must not be there before the device is chosen

    versions = {name: _version(name) for name in _PACKAGES}
    return replay_pb2.ReplayMachine(
        device=model.device,
        processor=_processor(),
        packages={name: number for name, number in versions.items() if number is not None},
        threads=int(os.environ.get("OMP_NUM_THREADS", "0")),
        operators=operators_of(model.device),
        weights=model.weights or "",
    )


def _slot(slot: VisualSlot) -> replay_pb2.ReplaySlot:
    return replay_pb2.ReplaySlot(
        offset=slot.offset, length=slot.length, visual_id=slot.tile.visual_id, tile=slot.tile.number
    )


def _visuals(opening: llm_service_pb2.GenerateOpen) -> list[content_pb2.VisualLayout]:
    """Every picture and film of the messages, each once, in order."""
    parts = (part for message in opening.messages for part in message.parts)
    layouts = {part.visual.visual_id: part.visual for part in parts if part.HasField("visual")}
    return list(layouts.values())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's own name; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")

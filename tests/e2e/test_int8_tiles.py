"""Embeddings as int8, from the vision service to an answer of the language service."""

from __future__ import annotations

from pathlib import Path

import pytest

from internvl.model_choice import ModelChoice
from internvl.rpc import ServerConfig
from internvl.v1 import content_pb2, llm_service_pb2, tensor_pb2
from tests.contract.llm_client import llm_service, opening, user
from tests.contract.vision_samples import Open, collect, requests, vision_stub
from tests.unit.event_loop import bounded
from vision_service.config import Config

NANO = Path(__file__).parents[2] / "models/nano"
PICTURE = (NANO / "demo/shapes.png").read_bytes()
TRUTH = "a red circle, a blue square and a green star"


@pytest.mark.parametrize("dtype", [tensor_pb2.DATA_TYPE_INT8, tensor_pb2.DATA_TYPE_BFLOAT16])
def test_the_answer_is_as_true_as_in_any_type(dtype: tensor_pb2.DataType.ValueType) -> None:
    @bounded
    async def scenario() -> None:
        config = Config(model=ModelChoice(NANO), server=ServerConfig(listen="127.0.0.1:0"))
        asked = Open(image=content_pb2.ImageOptions(), dtype=dtype)
        async with vision_stub(config) as vision:
            encoded = collect([each async for each in vision.Encode(requests(asked, PICTURE), timeout=60)])
        question = user(llm_service_pb2.PromptPart(visual=encoded.layout), "Describe the image.")
        async with llm_service(NANO) as service:
            answer = await service.answer(opening(question, max_tokens=60), encoded.tiles)
        assert answer.text == TRUTH
        assert encoded.layout.dtype == dtype

    scenario()

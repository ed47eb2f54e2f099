"""Tiers that follow the contract and compute nothing, to load a gateway with."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from internvl.v1 import content_pb2, llm_service_pb2, vision_service_pb2

TILE_BYTES = 3 * 2**19  # one tile of 4B: 256 tokens of 3072 channels in bfloat16
_STEP_S = 0.01

Context = grpc.aio.ServicerContext[Any, Any]


class TileVision:
    """Makes as many tiles of a file as the file says."""

    def register(self, server: grpc.aio.Server) -> None:
        """The one call that a turn needs."""
        handler: Any = grpc.stream_stream_rpc_method_handler(
            self._encode,
            request_deserializer=vision_service_pb2.EncodeRequest.FromString,
            response_serializer=vision_service_pb2.EncodeResponse.SerializeToString,
        )
        _add(
            server,
            vision_service_pb2.DESCRIPTOR.services_by_name["VisionService"].full_name,
            "Encode",
            handler,
        )

    async def _encode(
        self, requests: AsyncIterator[vision_service_pb2.EncodeRequest], context: Context
    ) -> AsyncIterator[vision_service_pb2.EncodeResponse]:
        file = b"".join([request.chunk async for request in requests])
        tiles, name = int(file.split()[0]), hashlib.sha256(file).hexdigest()
        layout = content_pb2.VisualLayout(
            visual_id=name,
            kind=content_pb2.MEDIA_KIND_IMAGE,
            grids=[content_pb2.TileGrid(columns=1, rows=tiles)],
            tiles=tiles,
            tokens_per_tile=256,
        )
        yield vision_service_pb2.EncodeResponse(layout=layout)
        tile = content_pb2.Tile(visual_id=name)
        tile.embeddings.data = bytes(TILE_BYTES)
        for index in range(tiles):
            tile.index = index
            yield vision_service_pb2.EncodeResponse(tile=tile)


class EchoLlm:
    """Takes all tiles and says one word.

    A question `hold` waits for `released` before it does; `say N` is answered by N words, one every 10 ms.
    """

    def __init__(self) -> None:
        self.released = asyncio.Event()

    def register(self, server: grpc.aio.Server) -> None:
        """By hand: the generated function would decode every tile."""
        handler: Any = grpc.stream_stream_rpc_method_handler(
            self._generate, response_serializer=llm_service_pb2.GenerateResponse.SerializeToString
        )
        _add(server, llm_service_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name, "Generate", handler)

    async def _generate(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[llm_service_pb2.GenerateResponse]:
        opening = llm_service_pb2.GenerateRequest.FromString(await anext(requests)).open
        parts = opening.messages[-1].parts
        shown = [part.visual for part in parts if part.HasField("visual")]
        needed = [llm_service_pb2.VisualNeed(visual_id=layout.visual_id) for layout in shown]
        yield llm_service_pb2.GenerateResponse(admitted=llm_service_pb2.Admitted(needed=needed))
        for _ in range(sum(layout.tiles for layout in shown)):
            await anext(requests)
        asked = parts[-1].text.split()
        if asked == ["hold"]:
            await self.released.wait()
        for number in range(int(asked[1]) if asked[0] == "say" else 1):
            await asyncio.sleep(_STEP_S if number else 0)
            delta = llm_service_pb2.TokenDelta(text="yes", token_ids=[number])
            yield llm_service_pb2.GenerateResponse(delta=delta)
        stop = llm_service_pb2.FINISH_REASON_STOP
        choices = [llm_service_pb2.ChoiceResult(finish_reason=stop)]
        result = llm_service_pb2.GenerateResult(finish_reason=stop, choices=choices)
        yield llm_service_pb2.GenerateResponse(result=result)


def _add(server: grpc.aio.Server, service: str, method: str, handler: Any) -> None:
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))

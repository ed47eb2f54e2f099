"""A decoder that a hostile file has taken over cannot reach the service, whatever it answers."""

from __future__ import annotations

import asyncio

import pytest

from internvl.errors import BadMedia
from tests.unit.media_samples import encoded, picture
from vision_service import decode_worker
from vision_service.decoding import DecodeConfig, MediaDecoder
from vision_service.limits import MediaLimits
from vision_service.options import ImageOptions
from vision_service.tiling import TilingOptions

PICTURE = encoded(picture())
OPTIONS = ImageOptions(TilingOptions(1, 4, True, 28))
HONEST_PROGRAM = decode_worker._PROGRAM

TAKEN_OVER = """
import sys
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
connection.send_bytes(b"{}")
connection.recv_bytes(), connection.recv_bytes()
connection.send_bytes(%s)
while True:
    connection.send_bytes(bytes(2**20))
"""
DESCRIBED = '{"type": "image/png", "kind": "picture", "frame_count": 1, "duration_s": 0'
ANSWERS = {  # as Python
    "no object": 'b"5"',
    "nothing": 'b"{}"',
    "no JSON": r'b"\xff"',
    "deep JSON": 'b"[" * 100_000',
    "unknown kind": f"""b'{DESCRIBED.replace("picture", "smell")}, "width": 1, "height": 1}}'""",
    "endless width": f"""b'{DESCRIBED}, "width": Infinity, "height": 1}}'""",
    "negative width": f"""b'{DESCRIBED}, "width": -1, "height": 1}}'""",
    "words for sizes": f"""b'{DESCRIBED}, "width": "wide", "height": "high"}}'""",
    "grids of nothing": """b'{"grids": [null]}'""",
    "fewer tiles than none": """b'{"grids": [[-1, 1, false]]}'""",
    "more tiles than there may be": """b'{"grids": [[100000, 100000, false]]}'""",
    "other pixels than tiles": """b'{"grids": [[2, 2, false]]}'""",
    "an error without a field": """b'{"problem": "x"}'""",
    "an answer of many MiB": """b'{"grids": "' + b"x" * 4_000_000 + b'"}'""",
}


@pytest.mark.parametrize("call", ["inspect", "decode"])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_it_is_replaced_and_its_file_refused(answer: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        decoder = MediaDecoder(DecodeConfig(workers=1, timeout_s=20), MediaLimits())
        monkeypatch.setattr(decode_worker, "_PROGRAM", TAKEN_OVER % answer)
        await decoder.start()
        monkeypatch.setattr(decode_worker, "_PROGRAM", HONEST_PROGRAM)
        try:
            with pytest.raises(BadMedia, match="the file is damaged: its decoder failed"):
                await (decoder.inspect(PICTURE) if call == "inspect" else decoder.decode(PICTURE, OPTIONS))
            assert (await decoder.inspect(PICTURE)).width == picture().width
        finally:
            await decoder.stop()

    asyncio.run(asyncio.wait_for(scenario(), 60))

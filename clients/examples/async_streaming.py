"""Stream answers about many pictures at once: `python clients/examples/async_streaming.py *.jpg`."""

import asyncio
import sys

from internvl_client import AsyncClient, InternVLError


async def describe(client: AsyncClient, path: str) -> None:
    """Print each piece of the answer under the picture's name."""
    try:
        async for text in client.chat("Describe the image.", images=[path], max_tokens=64):
            print(f"{path}: {text}")
    except InternVLError as error:
        print(f"{path}: {error}", file=sys.stderr)


async def main() -> None:
    async with AsyncClient() as client:
        await asyncio.gather(*(describe(client, path) for path in sys.argv[1:]))


asyncio.run(main())

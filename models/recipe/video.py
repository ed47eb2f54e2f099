"""Frames to an mp4 file and back, with the frame choice of InternVL2's `get_index`."""

import io

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

FRAMES_PER_PICTURE = 8
RATE = 8


def encode_video(pictures: list[Image.Image], repeats: int = FRAMES_PER_PICTURE) -> bytes:
    """An H.264 mp4 that shows each picture for `repeats` frames, at high quality."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "12", "preset": "medium"})
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_image(picture)
            for _ in range(repeats):
                container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    return buffer.getvalue()


def frame_indices(frames: int, segments: int) -> NDArray[np.int64]:
    """Which of `frames` frames stand for `segments` equal parts of a whole video."""
    seg = float(frames - 1) / segments
    return np.array([int(seg / 2 + np.round(seg * i)) for i in range(segments)])


def decode_video(data: bytes, segments: int) -> list[Image.Image]:
    """`segments` frames of a video file as RGB images."""
    with av.open(io.BytesIO(data)) as container:
        images = [frame.to_image() for frame in container.decode(video=0)]
    return [images[i] for i in frame_indices(len(images), segments)]

"""Ask one question about one picture: `python clients/examples/one_image.py photo.jpg "What is this?"`."""

import sys

from internvl_client import Client

path, question = sys.argv[1:3]

with Client() as client:
    answer = client.chat(question, images=[path])
    for text in answer:
        print(text, end="", flush=True)
    print(f"\n{answer.usage}")

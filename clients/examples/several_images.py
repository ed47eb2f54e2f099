"""Compare pictures, then ask on: `python clients/examples/several_images.py first.png second.png ...`."""

import sys

from internvl_client import Client

with Client() as client:
    conversation = client.conversation()
    print(conversation.say("What does each image show?", images=sys.argv[1:]).result().text)
    # The second question sends no picture: the server knows them.
    print(conversation.say("What is in the first image?").result().text)

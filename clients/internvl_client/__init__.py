"""Talk to InternVL2 about pictures and films.

from internvl_client import Client

with Client("127.0.0.1:50050") as client:
    for text in client.chat("What is this?", images=["photo.jpg"]):
        print(text, end="", flush=True)
"""

from internvl_client.aio import AsyncClient
from internvl_client.aio_conversation import AsyncConversation
from internvl_client.aio_stream import AsyncChatStream
from internvl_client.aio_turns import AsyncTurn
from internvl_client.answer import (
    Answer,
    Choice,
    Delta,
    Event,
    FinishReason,
    Grid,
    Layout,
    Plan,
    Progress,
    Started,
    Timings,
    TokenLogprob,
    Usage,
)
from internvl_client.channel import ServerInfo
from internvl_client.client import Client
from internvl_client.content import (
    Image,
    Media,
    MediaInfo,
    MediaSource,
    Message,
    Part,
    Video,
    assistant,
    system,
    user,
)
from internvl_client.conversation import Conversation
from internvl_client.conversation_info import ConversationInfo, TurnInfo
from internvl_client.errors import (
    AlreadyExists,
    BadMedia,
    Cancelled,
    Conflict,
    ContextTooLong,
    FailedPrecondition,
    InternVLError,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    ServerError,
    TimedOut,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from internvl_client.stream import ChatStream
from internvl_client.turn_status import BatchResult, Question, TurnStatus
from internvl_client.turns import Turn

__all__ = [
    "AlreadyExists",
    "Answer",
    "AsyncChatStream",
    "AsyncClient",
    "AsyncConversation",
    "AsyncTurn",
    "BadMedia",
    "BatchResult",
    "Cancelled",
    "ChatStream",
    "Choice",
    "Client",
    "Conflict",
    "ContextTooLong",
    "Conversation",
    "ConversationInfo",
    "Delta",
    "Event",
    "FailedPrecondition",
    "FinishReason",
    "Grid",
    "Image",
    "InternVLError",
    "InvalidRequest",
    "Layout",
    "Media",
    "MediaInfo",
    "MediaSource",
    "Message",
    "NotFound",
    "Overloaded",
    "Part",
    "PermissionDenied",
    "Plan",
    "Progress",
    "Question",
    "ServerError",
    "ServerInfo",
    "Started",
    "TimedOut",
    "Timings",
    "TokenLogprob",
    "Turn",
    "TurnInfo",
    "TurnStatus",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
    "Usage",
    "Video",
    "assistant",
    "system",
    "user",
]

"""The wire's messages, checked against the model: conversations whose visual parts are layouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from internvl.errors import ContextTooLong, InvalidField
from internvl.model_config import InternVLConfig
from internvl.tensors import DTYPES
from internvl.v1 import content_pb2, llm_service_pb2, tensor_pb2
from llm_service.text.content import ChatMessage, ImagePart, Part, Role, TextPart, VideoPart

MAX_VISUAL_ID_CHARS = 128

_ROLES = {
    content_pb2.ROLE_SYSTEM: Role.SYSTEM,
    content_pb2.ROLE_USER: Role.USER,
    content_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages for `build_prompt`, and the layout of every visual item in them, by `visual_id`."""

    messages: tuple[ChatMessage, ...]
    dtypes: dict[str, tensor_pb2.DataType.ValueType]


class ConversationReader:
    """Reads the messages of one request."""

    def __init__(self, config: InternVLConfig, longest_piece: int, *, embeddings_follow: bool) -> None:
        """Prepare for one request.

        Args:
            longest_piece: characters of the longest piece of the vocabulary.
            embeddings_follow: whether tiles will come, so that items need a `visual_id` and an element type.
        """
        self._config = config
        self._longest_piece = longest_piece
        self._embeddings_follow = embeddings_follow
        self._layouts: dict[str, content_pb2.VisualLayout] = {}
        self._chars = 0
        self._visual_tokens = 0

    def read(self, messages: Sequence[llm_service_pb2.PromptMessage], field: str) -> Conversation:
        """Check everything that can be known without tokenizing.

        Args:
            field: path of the messages in the request.

        Raises:
            InvalidField: naming the message, part or layout field at fault.
            ContextTooLong: more text or visual tokens than the model could ever hold.
        """
        turns = tuple(
            self._message(message, f"{field}[{index}]", field) for index, message in enumerate(messages)
        )
        return Conversation(turns, {visual_id: layout.dtype for visual_id, layout in self._layouts.items()})

    def _message(self, message: llm_service_pb2.PromptMessage, field: str, all_messages: str) -> ChatMessage:
        role = _ROLES.get(message.role)
        if role is None:
            raise InvalidField(f"{field}.role", "must be system, user or assistant")
        if not message.parts:
            raise InvalidField(f"{field}.parts", "must hold at least one part")
        parts = []
        for index, part in enumerate(message.parts):
            parts.append(self._part(part, f"{field}.parts[{index}]"))
            self._check_size(all_messages)
        return ChatMessage(role, tuple(parts))

    def _part(self, part: llm_service_pb2.PromptPart, field: str) -> Part:
        match part.WhichOneof("content"):
            case "text":
                self._chars += len(part.text)
                return TextPart(part.text)
            case "visual":
                return self._visual(part.visual, f"{field}.visual")
            case _:
                raise InvalidField(field, "needs a text or a visual")

    def _visual(self, layout: content_pb2.VisualLayout, field: str) -> Part:
        self._check_layout(layout, field)
        if self._embeddings_follow:
            self._check_identity(layout, field)
        self._visual_tokens += layout.tiles * layout.tokens_per_tile
        tiles = tuple(map(_tiles, layout.grids))
        if layout.kind == content_pb2.MEDIA_KIND_IMAGE:
            return ImagePart(layout.visual_id, tiles[0])
        return VideoPart(layout.visual_id, tiles)

    def _check_layout(self, layout: content_pb2.VisualLayout, field: str) -> None:
        """A layout must be sound in itself and made for this model."""
        if layout.kind not in (content_pb2.MEDIA_KIND_IMAGE, content_pb2.MEDIA_KIND_VIDEO):
            raise InvalidField(f"{field}.kind", "must be image or video")
        if not layout.grids:
            raise InvalidField(f"{field}.grids", "must hold at least one grid")
        if layout.kind == content_pb2.MEDIA_KIND_IMAGE and len(layout.grids) > 1:
            raise InvalidField(f"{field}.grids", f"an image has one grid, got {len(layout.grids)}")
        for index, grid in enumerate(layout.grids):
            if not (grid.columns and grid.rows):
                raise InvalidField(f"{field}.grids[{index}]", "needs at least one column and one row")
        tiles = sum(map(_tiles, layout.grids))
        if layout.tiles != tiles:
            raise InvalidField(f"{field}.tiles", f"the grids hold {tiles} tiles, got {layout.tiles}")
        for name, expected in (
            ("tokens_per_tile", self._config.tokens_per_tile),
            ("hidden_size", self._config.llm.hidden_size),
        ):
            value = getattr(layout, name)
            if value != expected:
                raise InvalidField(f"{field}.{name}", f"this model needs {expected}, got {value}")

    def _check_identity(self, layout: content_pb2.VisualLayout, field: str) -> None:
        """Embeddings that will come need a name and an element type, and one name means one layout."""
        visual_id = layout.visual_id
        if not 1 <= len(visual_id) <= MAX_VISUAL_ID_CHARS:
            raise InvalidField(
                f"{field}.visual_id", f"must have 1 to {MAX_VISUAL_ID_CHARS} characters, got {len(visual_id)}"
            )
        if layout.dtype not in DTYPES:
            raise InvalidField(f"{field}.dtype", "must be float32, bfloat16 or int8")
        if self._layouts.setdefault(visual_id, layout) != layout:
            raise InvalidField(f"{field}.visual_id", "an earlier part gives it another layout")

    def _check_size(self, field: str) -> None:
        """Nothing is laid out or tokenized that the model's positions cannot hold anyway."""
        positions = self._config.llm.max_position_embeddings
        if self._visual_tokens > positions:
            raise ContextTooLong(
                field,
                f"{self._visual_tokens} visual tokens or more are over the model's {positions} positions",
                metadata={"visual_tokens": self._visual_tokens, "context_limit": positions},
            )
        most_chars = positions * self._longest_piece
        if self._chars > most_chars:
            raise ContextTooLong(
                field,
                f"{self._chars} characters or more cannot fit the model's {positions} positions",
                metadata={"characters": self._chars, "character_limit": most_chars},
            )


def _tiles(grid: content_pb2.TileGrid) -> int:
    return grid.columns * grid.rows + grid.thumbnail

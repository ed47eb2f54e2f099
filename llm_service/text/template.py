"""The chat template: which control tokens frame a turn, and what is said when nobody says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from internvl.errors import ConfigError
from internvl.model_config import InternVLConfig
from llm_service.text.content import Role
from llm_service.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """One template, as texts of control tokens.

    A turn is the role's token, a newline, the text and `end`; nothing follows `end`. A turn without text is
    only its role and the newline. The assistant's role and newline, at last, ask for the answer.

    Attributes:
        name: as `template` in `config.json`.
        roles: the token that opens a turn of each role.
        end: the token that closes a turn.
        image_start, image_context, image_end: what an image becomes; one `image_context` a visual token.
        default_system_text: the system text that the model was trained with.
    """

    name: str
    roles: Mapping[str, str]
    end: str
    image_start: str
    image_context: str
    image_end: str
    default_system_text: str

    def control_tokens(self) -> tuple[str, ...]:
        return (*self.roles.values(), self.end, self.image_start, self.image_context, self.image_end)


PHI3_CHAT = ChatTemplate(
    name="phi3-chat",
    roles={Role.SYSTEM: "<|system|>", Role.USER: "<|user|>", Role.ASSISTANT: "<|assistant|>"},
    end="<|end|>",
    image_start="<img>",
    image_context="<IMG_CONTEXT>",
    image_end="</img>",
    # The first comma is full-width, the second is not, and a space follows it: as trained.
    default_system_text=(
        "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, "
        "是一个有用无害的人工智能助手。"
    ),
)


def template_of(config: InternVLConfig) -> ChatTemplate:
    """The template that the checkpoint names.

    Raises:
        ConfigError: it names one we do not have.
    """
    if config.template != PHI3_CHAT.name:
        raise ConfigError(f"template: {config.template!r} is not supported; known: {PHI3_CHAT.name}")
    return PHI3_CHAT


def check_tokenizer(tokenizer: Tokenizer, config: InternVLConfig) -> None:
    """Make sure at start-up that tokenizer and model belong together.

    Raises:
        ConfigError: a control token of the template is missing, or an id has no row in the embedding table.
    """
    template = template_of(config)
    missing = [text for text in template.control_tokens() if tokenizer.control_id(text) is None]
    if missing:
        raise ConfigError(
            f"tokenizer_config.json: added_tokens_decoder: {template.name} needs {', '.join(missing)}"
        )
    if tokenizer.vocab_size > config.llm.vocab_size:
        raise ConfigError(
            f"llm_config.vocab_size: {config.llm.vocab_size} is too small; "
            f"the tokenizer has ids up to {tokenizer.vocab_size - 1}"
        )

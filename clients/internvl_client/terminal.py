"""A conversation in a terminal: reads lines, writes the answer as it comes."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TextIO

from internvl_client.answer import Delta, Progress
from internvl_client.answer_state import AnswerState
from internvl_client.client import Client
from internvl_client.content import Image, Media, Video
from internvl_client.conversation import Conversation
from internvl_client.errors import InternVLError, InvalidRequest, NotFound
from internvl_client.options import SamplingOptions
from internvl_client.stream import ChatStream

_BAR = 30

HELP = """\
/image PATH   show a picture with the next question
/video PATH   show a film with the next question
/reset        start a new conversation
/quit         leave (as does Ctrl-D)
Ctrl-C        stop the answer
Anything else is a question."""


@dataclass(slots=True)
class Screen:
    """Where things are written.

    Attributes:
        out: answers.
        notes: progress, statistics and complaints.
        progress: whether to show progress; only sensible where lines can be rewritten.
        stats: whether to show counts and times after an answer.
    """

    out: TextIO
    notes: TextIO
    progress: bool
    stats: bool

    @classmethod
    def of_process(cls, *, stats: bool) -> Screen:
        """Standard output and error, with progress if the latter is a terminal."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # An answer may hold characters that this terminal has not.
                stream.reconfigure(errors="replace")
        return cls(sys.stdout, sys.stderr, sys.stderr.isatty(), stats)

    def show(self, stream: ChatStream) -> None:
        """Write an answer as it comes. Ctrl-C stops the answer, not the program.

        Raises:
            InternVLError: whatever ends the answer early.
        """
        try:
            for event in stream.events():
                if isinstance(event, Progress):
                    self._show_progress(event)
                elif isinstance(event, Delta) and event.text and event.choice == 0:
                    self._clear_progress()
                    print(printable(event.text), end="", file=self.out, flush=True)
        except KeyboardInterrupt:
            stream.cancel()
            print(" [stopped]", end="", file=self.notes, flush=True)
        finally:
            self._clear_progress()
            print(file=self.out, flush=True)
        if self.stats:
            print(describe(stream), file=self.notes)

    def note(self, text: str) -> None:
        """Say something beside the answer."""
        print(text, file=self.notes, flush=True)

    def upload(self, client: Client, path: str) -> Media:
        """Store a file on the server and show how far it is.

        Raises:
            OSError: the file cannot be read.
            InternVLError: whatever the server answers.
        """
        try:
            return client.upload(path, progress=self._show_upload)
        finally:
            self._clear_progress()

    def _show_progress(self, progress: Progress) -> None:
        picture = f"picture {progress.visual_index + 1}"
        self._rewrite(f"reading {picture}: tile {progress.tiles_done} of {progress.tiles_total}")

    def _show_upload(self, sent: int, size: int) -> None:
        done = sent / max(size, 1)
        bar = "#" * round(_BAR * done)
        self._rewrite(f"uploading [{bar:<{_BAR}}] {done:4.0%} of {size / 2**20:.1f} MiB")

    def _rewrite(self, text: str) -> None:
        if self.progress:
            print(f"\r\x1b[2K{text}", end="", file=self.notes, flush=True)

    def _clear_progress(self) -> None:
        if self.progress:
            print("\r\x1b[2K", end="", file=self.notes, flush=True)


@dataclass(slots=True)
class Talk:
    """An interactive conversation over many turns."""

    client: Client
    screen: Screen
    sampling: SamplingOptions
    system: str | None = None
    read_line: Callable[[str], str] = input
    _shown: list[Image | Video] = field(default_factory=list, init=False)
    _conversation: Conversation | None = field(default=None, init=False)

    def show(self, visual: Image | Video) -> None:
        """Show this with the next question."""
        self._shown.append(visual)

    def run(self) -> None:
        """Read and answer until the end of input or `/quit`."""
        self.screen.note("Ask away. /help lists the commands.")
        try:
            while self._step():
                pass
        finally:
            self._forget()

    def _step(self) -> bool:
        try:
            line = self.read_line("> ").strip()
        except EOFError:
            return False
        except KeyboardInterrupt:
            self.screen.note("")
            return True
        except UnicodeDecodeError:
            self.screen.note("error: this line is not text")
            return True
        try:
            return self._obey(line)
        except (InternVLError, OSError) as error:
            self.screen.note(f"error: {error}")
            return True

    def _obey(self, line: str) -> bool:
        command, _, rest = line.partition(" ")
        match command:
            case "":
                pass
            case "/quit":
                return False
            case "/help":
                self.screen.note(HELP)
            case "/reset":
                self._forget()
            case "/image" | "/video" if not rest.strip():
                self.screen.note(f"name a file: {command} PATH")
            case "/image":
                self.show(Image(self.screen.upload(self.client, rest.strip())))
            case "/video":
                self.show(Video(self.screen.upload(self.client, rest.strip())))
            case _ if command.startswith("/"):
                self.screen.note(f"unknown command {command}; /help lists them")
            case _:
                self._ask(line)
        return True

    def _ask(self, question: str) -> None:
        if self._conversation is None:
            self._conversation = self.client.conversation(system=self.system)
        images = [visual for visual in self._shown if isinstance(visual, Image)]
        videos = [visual for visual in self._shown if isinstance(visual, Video)]
        stream = self._conversation.say(question, images=images, videos=videos, **self.sampling)
        try:
            self.screen.show(stream)
        except (InvalidRequest, NotFound):  # asking again with the same pictures would end the same way
            self._shown = []
            raise
        if stream.text or not stream.cancelled:
            # A turn stopped before its first word is not kept, so its pictures go with the next question.
            self._shown = []

    def _forget(self) -> None:
        conversation, self._conversation = self._conversation, None
        self._shown = []
        if conversation is not None:
            with suppress(InternVLError):
                conversation.delete()


def printable(text: str) -> str:
    """The text without control characters, which could move the cursor or rename the window."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def describe(answer: AnswerState) -> str:
    """Counts and times of an answer, on one line."""
    usage, timings = answer.usage, answer.timings
    if usage is None or timings is None:
        return "[stopped: no counts]"
    decoded = max(usage.completion_tokens - 1, 0)
    speed = f", {1000 * decoded / timings.decode_ms:.1f} tokens/s" if timings.decode_ms > 0 else ""
    return (
        f"[{usage.prompt_tokens} prompt tokens ({usage.visual_tokens} visual, {usage.cached_tokens} cached), "
        f"{usage.completion_tokens} answer tokens; first after {timings.first_token_ms:.0f} ms{speed}; "
        f"{answer.finish_reason}]"
    )

"""A request while it is being answered: its answers, each with all that makes its tokens into text."""

from __future__ import annotations

from collections.abc import Sequence as Many

from llm_service.engine.drafting import PromptLookup
from llm_service.engine.events import ChoiceEnd, Delta, Finished, FinishReason, Logprobs, Usage
from llm_service.engine.ports import Answer
from llm_service.engine.request import Request
from llm_service.engine.sampler import Sampled, TokenSampler
from llm_service.engine.sequence import Sequence
from llm_service.engine.timeline import Timeline


class Choice:
    """One of a request's answers.

    Attributes:
        end: how it ended; None while it goes on.
    """

    def __init__(
        self, sequence: Sequence, answer: Answer, sampler: TokenSampler, drafts: PromptLookup | None
    ) -> None:
        """Start an answer, behind the tokens that were delivered before.

        Args:
            drafts: guesses what comes next; None if nothing is to be guessed.
        """
        self.sequence = sequence
        self.sampler = sampler
        self.end: ChoiceEnd | None = None
        self._last: float | None = None
        self._tokens = 0
        self._answer = answer
        self._drafts = drafts
        for token_id in sequence.request.delivered_ids:
            sampler.accept(token_id)
            self._push(token_id)
        if sequence.request.delivered_ids:
            self._end_if_complete()

    def propose(self, most: int) -> tuple[int, ...]:
        """Guess what comes next."""
        return self._drafts.propose(most) if self._drafts else ()

    def take(self, sampled: Many[Sampled]) -> Delta:
        """Add tokens up to the one that ends the answer, if one does."""
        text = ""
        token_ids: list[int] = []
        logprobs: list[Logprobs] = []
        for token in sampled:
            token_ids.append(token.token_id)
            if token.logprobs is not None:
                logprobs.append(token.logprobs)
            text += self._push(token.token_id) + self._end_if_complete()
            if self.end:
                break
        return Delta(text, tuple(token_ids), self.sequence.choice, tuple(logprobs))

    def gap(self, now: float) -> float | None:
        """Seconds since the tokens before those that come now; None for the first."""
        gap = None if self._last is None else now - self._last
        self._last = now
        return gap

    def _push(self, token_id: int) -> str:
        self._tokens += 1
        if self._drafts:
            self._drafts.extend(token_id)
        return self._answer.push(token_id)

    def _end_if_complete(self) -> str:
        """End the answer if it has stopped or has all it may have; the text held back until then."""
        answer = self._answer
        if not answer.stopped and self._tokens < self.sequence.request.sampling.max_tokens:
            return ""
        stopped = answer.stopped
        text = answer.flush()  # may complete a stop text
        reason = FinishReason.STOP if stopped or answer.stop_match else FinishReason.LENGTH
        self.end = ChoiceEnd(reason, answer.stop_match, self._tokens)
        return text


class Job:
    """All that belongs to one request.

    Attributes:
        choices: its answers by number; only the first until the prompt is computed.
    """

    def __init__(self, request: Request, first: Choice) -> None:
        self.request = request
        self.choices = [first]
        self.timeline = Timeline(request.opened)

    @property
    def first(self) -> Sequence:
        """The sequence that computes the prompt."""
        return self.choices[0].sequence

    @property
    def awaits_fork(self) -> bool:
        """Whether its prompt is still to become several answers."""
        return len(self.choices) < self.request.sampling.n

    @property
    def is_complete(self) -> bool:
        """Whether every answer has ended."""
        return not self.awaits_fork and all(choice.end for choice in self.choices)

    def outcome(self) -> Finished:
        """What a complete job has led to."""
        ends = tuple(choice.end for choice in self.choices if choice.end)
        usage = Usage(
            prompt_tokens=self.request.prompt_tokens,
            visual_tokens=self.request.visual_tokens,
            cached_tokens=self.first.cached_tokens,
            completion_tokens=sum(end.completion_tokens for end in ends),
        )
        return Finished(ends, usage, self.timeline.timings())

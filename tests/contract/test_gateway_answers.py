"""What a turn may ask of its answers: several of them, log-probabilities, a replay bundle."""

from __future__ import annotations

from typing import Any

from internvl.v1 import chat_service_pb2, llm_service_pb2
from tests.contract.gateway_tiers import Stack, bounded, chat_request, gateway_stack


async def events(stack: Stack, request: chat_service_pb2.ChatRequest) -> list[Any]:
    return [event async for event in stack.chat.Chat(request)]


@bounded
async def test_several_answers_are_told_apart_and_the_first_is_the_message() -> None:
    async with gateway_stack() as stack:
        sampling = llm_service_pb2.SamplingParams(n=3)
        received = await events(stack, chat_request("one two", sampling=sampling))
    deltas = [event.delta for event in received if event.HasField("delta")]
    texts = ["".join(delta.text for delta in deltas if delta.choice == choice) for choice in range(3)]
    assert texts == ["one two", "ONE TWO", "ONE TWO"]
    result = received[-1].result
    assert result.message.parts[0].text == "one two"
    assert [choice.completion_tokens for choice in result.choices] == [2, 2, 2]
    assert {choice.finish_reason for choice in result.choices} == {llm_service_pb2.FINISH_REASON_STOP}


@bounded
async def test_a_conversation_keeps_the_first_answer() -> None:
    async with gateway_stack() as stack:
        created = await stack.chat.CreateConversation(chat_service_pb2.CreateConversationRequest())
        name = created.conversation.conversation_id
        await events(
            stack,
            chat_request("hi there", conversation_id=name, sampling=llm_service_pb2.SamplingParams(n=2)),
        )
        stored = await stack.chat.GetConversation(
            chat_service_pb2.GetConversationRequest(conversation_id=name)
        )
    assert [message.parts[0].text for message in stored.conversation.messages] == ["hi there", "hi there"]


@bounded
async def test_log_probabilities_pass_unread() -> None:
    async with gateway_stack() as stack:
        sampling = llm_service_pb2.SamplingParams(logprobs=1)
        received = await events(stack, chat_request("word", sampling=sampling))
    (logprob,) = next(event.delta for event in received if event.HasField("delta")).logprobs
    assert (logprob.token, logprob.logprob, logprob.top[0].token_id) == (b"word", -0.5, 99)


@bounded
async def test_priority_and_bundle_reach_the_language_tier_and_come_back() -> None:
    async with gateway_stack() as stack:
        plain = await events(stack, chat_request("hi"))
        asked = await events(stack, chat_request("hi", priority=-3, want_replay_bundle=True))
    assert [(opened.priority, opened.want_replay_bundle) for opened in stack.llm.opened] == [
        (0, False),
        (-3, True),
    ]
    assert not plain[-1].result.HasField("replay_bundle")
    assert asked[-1].result.replay_bundle == b'{"version": 1}'

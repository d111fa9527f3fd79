"""The mailbox of an actor."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.runtime.mailbox import Answer, Mailbox, MailboxClosed, MailboxFull


@dataclass
class Double:
    number: int
    answer: Answer[int]


async def double(mailbox: Mailbox[Double]) -> None:
    async for message in mailbox:
        message.answer.give(message.number * 2)


async def test_a_question_is_answered(nursery: trio.Nursery) -> None:
    mailbox: Mailbox[Double] = Mailbox("doubler")
    nursery.start_soon(double, mailbox)
    assert await mailbox.ask(lambda answer: Double(21, answer)) == 42


async def test_tells_arrive_in_order_and_never_wait() -> None:
    mailbox: Mailbox[int] = Mailbox("slow", capacity=1)
    for number in range(1000):
        mailbox.tell(number)
    assert [await mailbox.receive() for _ in range(1000)] == list(range(1000))


async def test_more_questions_than_the_actor_may_owe_are_refused(nursery: trio.Nursery) -> None:
    mailbox: Mailbox[Double] = Mailbox("busy", capacity=2)
    for number in range(2):
        nursery.start_soon(mailbox.ask, lambda answer, n=number: Double(n, answer))
    await wait_all_tasks_blocked()
    with pytest.raises(MailboxFull):
        await mailbox.ask(lambda answer: Double(3, answer))
    nursery.cancel_scope.cancel()


async def test_an_actor_that_is_gone_fails_those_who_wait_and_takes_tells_silently() -> None:
    mailbox: Mailbox[Double] = Mailbox("dead")
    failed = []

    async def ask() -> None:
        with pytest.raises(MailboxClosed):
            await mailbox.ask(lambda answer: Double(1, answer))
        failed.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        mailbox.close()
    assert failed
    mailbox.tell(Double(1, Answer()))
    assert len(mailbox) == 0
    await ask()


async def test_an_answer_that_takes_too_long_is_given_up(autojump_clock: MockClock) -> None:
    mailbox: Mailbox[Double] = Mailbox("deaf")
    with pytest.raises(trio.TooSlowError):
        await mailbox.ask(lambda answer: Double(1, answer), within_s=2)
    assert trio.current_time() == pytest.approx(2, abs=0.01)


async def test_a_cancelled_asker_no_longer_counts_as_waiting() -> None:
    mailbox: Mailbox[Double] = Mailbox("busy", capacity=1)
    with trio.move_on_after(0):
        await mailbox.ask(lambda answer: Double(1, answer))
    with trio.move_on_after(0) as scope:
        await mailbox.ask(lambda answer: Double(2, answer))
    assert scope.cancelled_caught

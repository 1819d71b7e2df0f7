"""Failures that end nobody else, in virtual time."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.support import virtual_time
from weft.system.supervision import FIRST_PAUSE, LAST_PAUSE, contained, ended, lasting


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    virtual_time.run(scene())


def test_a_failing_task_is_logged_and_ends_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        raise KeyError("a mistake")

    async def scene() -> None:
        done = False
        async with asyncio.TaskGroup() as group:
            group.create_task(contained("probe of node n1", failing()))
            await asyncio.sleep(1)
            done = True
        assert done

    with caplog.at_level(logging.ERROR):
        play(scene)
    assert "name=probe of node n1" in caplog.text
    assert "KeyError: 'a mistake'" in caplog.text


def test_a_loop_begins_again_after_pauses_that_grow_and_starts_afresh_after_a_good_time() -> None:
    begun: list[float] = []

    async def failing() -> None:
        begun.append(asyncio.get_running_loop().time())
        if len(begun) == 10:
            await asyncio.sleep(100)
        if len(begun) == 12:
            return
        raise ExceptionGroup("several", [KeyError("a mistake")])

    async def scene() -> None:
        await lasting("loop", failing)

    play(scene)
    pauses = [later - earlier for earlier, later in itertools.pairwise(begun)]
    assert pauses[0] == pytest.approx(FIRST_PAUSE)
    assert pauses[1] == pytest.approx(2 * FIRST_PAUSE)
    assert pauses[8] == pytest.approx(LAST_PAUSE)
    assert pauses[9:] == pytest.approx([100 + FIRST_PAUSE, 2 * FIRST_PAUSE])


def test_both_can_be_cancelled() -> None:
    async def scene() -> None:
        forever = asyncio.Event()

        async def wait() -> None:
            await forever.wait()

        tasks = [asyncio.create_task(each) for each in (contained("a", wait()), lasting("b", wait))]
        await asyncio.sleep(1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)

    play(scene)


def test_who_is_cancelled_while_it_ends_another_task_is_cancelled_itself() -> None:
    """It has waited for the other's end, and does not go on as if only the other was cancelled."""
    happened: list[str] = []

    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(5)
            happened.append("ended")

    async def ending(task: asyncio.Task[None]) -> None:
        await ended(task)
        happened.append("went on")

    async def scene() -> None:
        other = asyncio.create_task(slow_to_end())
        await asyncio.sleep(0)
        caller = asyncio.create_task(ending(other))
        await asyncio.sleep(1)
        caller.cancel()
        await asyncio.wait((caller,))
        assert caller.cancelled()
        assert other.cancelled()

    play(scene)
    assert happened == ["ended"]


def test_a_failure_at_the_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise KeyError("a mistake")

    async def scene() -> None:
        task = asyncio.create_task(failing(), name="watch")
        await asyncio.sleep(0)
        await ended(task)

    play(scene)
    assert "task.failed name=watch" in caplog.text
    assert "a mistake" in caplog.text

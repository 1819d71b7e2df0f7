"""The follower of the role, in virtual time: failed steps come again, damage waits for a person, a
removed etcd member is left."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

from tests.support import virtual_time
from weft.daemon.membership import RETRY, RoleFollower
from weft.daemon.role_steps import RoleFacts, Step
from weft.errors import Damaged, OperationFailed, WeftError
from weft.store.etcd.process import MemberRemoved


class Scripted:
    """Steps change the facts as they should, once what is to fail has failed."""

    def __init__(self, facts: RoleFacts, *failures: WeftError) -> None:
        self.facts = facts
        self.taken: list[tuple[float, Step]] = []
        self._failures = list(failures)
        self.news = asyncio.Event()

    async def take(self, step: Step) -> None:
        self.taken.append((asyncio.get_running_loop().time(), step))
        if self._failures:
            raise self._failures.pop(0)
        match step:
            case Step.JOIN:
                self.facts = replace(self.facts, store="shared")
            case Step.OPEN_SHARED | Step.OPEN_ALONE:
                self.facts = replace(self.facts, running=self.facts.store)
            case Step.LEAVE:
                self.facts = replace(self.facts, store="none", running="none", removed=False)

    async def changed(self) -> None:
        await self.news.wait()
        self.news.clear()

    @property
    def steps(self) -> list[Step]:
        return [step for _, step in self.taken]


def follow(
    facts: RoleFacts,
    story: Callable[[Scripted, RoleFollower], Coroutine[Any, Any, None]],
    *failures: WeftError,
) -> Scripted:
    async def main() -> Scripted:
        parts = Scripted(facts, *failures)
        follower = RoleFollower(parts)
        running = asyncio.create_task(follower.run())
        await asyncio.sleep(10 * RETRY)
        await story(parts, follower)
        await asyncio.sleep(10 * RETRY)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        return parts

    return virtual_time.run(main())


async def nothing(parts: Scripted, follower: RoleFollower) -> None:
    assert (follower.obstacle, follower.damage) == ("", "")


def test_a_manager_is_made_and_unmade() -> None:
    async def story(parts: Scripted, follower: RoleFollower) -> None:
        parts.facts = replace(parts.facts, role="worker")
        follower.role_changed()

    parts = follow(RoleFacts(role="manager", store="none"), story)
    assert parts.steps == [Step.JOIN, Step.OPEN_SHARED, Step.LEAVE]


def test_a_failed_step_comes_again_after_a_pause() -> None:
    failures = OperationFailed("no"), OperationFailed("no")
    parts = follow(RoleFacts(role="manager", store="shared"), nothing, *failures)
    times = [when for when, _ in parts.taken]
    assert parts.steps == [Step.OPEN_SHARED] * 3
    assert [round(b - a, 6) for a, b in pairwise(times)] == [RETRY, RETRY]


def test_a_step_that_changes_nothing_does_not_spin() -> None:
    class Stuck(Scripted):
        async def take(self, step: Step) -> None:
            self.taken.append((0, step))

    async def main() -> int:
        parts = Stuck(RoleFacts(role="worker", store="none", leftovers=True))
        running = asyncio.create_task(RoleFollower(parts).run())
        await asyncio.sleep(5.5 * RETRY)
        running.cancel()
        return len(parts.taken)

    assert virtual_time.run(main()) == 6


def test_a_manager_whose_etcd_member_was_taken_out_leaves_and_joins_anew() -> None:
    failure = MemberRemoved("the member has been permanently removed from the cluster")
    parts = follow(RoleFacts(role="manager", store="shared"), nothing, failure)
    assert parts.steps == [Step.OPEN_SHARED, Step.LEAVE, Step.JOIN, Step.OPEN_SHARED]


def test_a_damaged_store_is_not_opened_again_and_can_be_left() -> None:
    async def story(parts: Scripted, follower: RoleFollower) -> None:
        assert parts.steps == [Step.OPEN_SHARED]
        assert follower.damage == follower.obstacle == "its data is missing"
        parts.facts = replace(parts.facts, role="worker")
        follower.role_changed()
        await asyncio.sleep(RETRY)
        assert (follower.obstacle, follower.damage) == ("", "")

    parts = follow(RoleFacts(role="manager", store="shared"), story, Damaged("its data is missing"))
    assert parts.steps == [Step.OPEN_SHARED, Step.LEAVE]


def test_what_changes_beside_the_role_is_looked_at() -> None:
    async def story(parts: Scripted, follower: RoleFollower) -> None:
        parts.facts = replace(parts.facts, removed=True)
        parts.news.set()

    parts = follow(RoleFacts(role="manager", store="shared"), story)
    assert parts.steps == [Step.OPEN_SHARED, Step.LEAVE, Step.JOIN, Step.OPEN_SHARED]

"""The swarm goes on without a manager: it asks those that take no part, in virtual time, and is
taken in by nobody of an earlier epoch."""

import asyncio

import msgspec
import pytest

from tests.support import virtual_time
from tests.support.certified import swarm
from weft.daemon.later_epoch import LOOK, later_epoch
from weft.errors import FailedPrecondition, Forbidden, Unavailable, WeftError
from weft.model.state import Put
from weft.session.base import Identity, MemberRequest


def test_a_later_epoch_is_heard_of_and_nothing_else_is_believed() -> None:
    said: dict[str, list[int | WeftError]] = {
        "a:2377": [Unavailable("off"), 2, 1],
        "b:2377": [2, Forbidden("revoked"), 3],
    }
    asked: list[str] = []

    async def ask(manager: str) -> int:
        asked.append(manager)
        answer = said[manager].pop(0)
        if isinstance(answer, WeftError):
            raise answer
        return answer

    async def main() -> None:
        begun = asyncio.get_running_loop().time()
        assert await later_epoch(lambda: 2, lambda: list(said), ask) == 3
        assert asyncio.get_running_loop().time() - begun == pytest.approx(3 * LOOK)
        assert asked == ["a:2377", "b:2377"] * 3

    virtual_time.run(main())


def test_managers_that_take_part_are_not_asked_nor_is_this_one() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=1) as cluster:
            assert list(cluster.manager.absent) == []
            other = await cluster.join("manager")
            node = cluster.manager.swarm.state.nodes[other.node]
            seated = msgspec.structs.replace(node, manager_address="192.0.2.7:2377")
            await cluster.store.commit([Put(seated)])
            assert cluster.manager.absent == ("192.0.2.7:2377",)

    virtual_time.run(main())


def test_a_manager_of_a_later_epoch_is_given_no_part_of_an_earlier_store() -> None:
    async def main() -> None:
        async with swarm(virtual_time.clock, workers=1) as cluster:
            other = await cluster.join("manager")
            peer = Identity(other.node, "manager", cluster.manager.swarm.cluster.id)
            requirements = MemberRequest(
                peer_url="https://x:2380", manager_address="x:2377", epoch=1
            )
            with pytest.raises(
                FailedPrecondition, match="of epoch 0 .* has begun epoch 1 without it"
            ):
                await cluster.manager.enlist(peer, requirements)

    virtual_time.run(main())

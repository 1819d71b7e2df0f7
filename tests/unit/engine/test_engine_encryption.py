"""When encrypted networks may be up: with no engine, with one that fails, with the kernel's before
its policies are in force."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

import msgspec
import pytest

from tests.support.swarms import Swarm
from weft.engine.encryption import Encryption
from weft.errors import OperationFailed
from weft.model.assignment import Overlays
from weft.model.encryption import DataKey, Protection

KEYS = (DataKey(tag=1, secret=bytes(16)),)
E = TypeVar("E", bound="Engine | None")


class Engine:
    """Takes what it is given, or refuses while `broken`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.broken = False
        self.in_force: Protection | None = None
        self.tries = 0

    async def apply(self, protection: Protection | None) -> None:
        self.tries += 1
        if self.broken:
            raise OperationFailed("the kernel refuses")
        self.in_force = protection

    async def counters(self) -> dict[str, int]:
        return {}

    async def close(self) -> None:
        pass


class Rig:
    def __init__(self, engine: Engine | None) -> None:
        swarm = Swarm(2)
        network = swarm.network("secret", "10.40.0.0/24", encrypted=True)
        swarm.service("safe", network, on=[1, 2])
        facts = msgspec.structs.replace(swarm.facts(1), esp_engine=engine.name if engine else None)
        self.assignment = msgspec.structs.replace(swarm.assignment(1), keys=KEYS)
        self.changed = asyncio.Event()
        self.planned = asyncio.Event()
        """Whether the network is as it was desired last."""
        self.planned.set()
        self.encryption = Encryption(
            engine,  # type: ignore[arg-type]
            "no TAP here",
            facts,
            self.changed.set,
            self.settled,
        )

    async def settled(self) -> None:
        await self.planned.wait()

    def desire(self) -> Overlays | None:
        return self.encryption.desire(self.assignment)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def running(
    scene: Callable[[Rig, E], Awaitable[None]],
) -> Callable[[E], Coroutine[None, None, None]]:
    """The scene with the loop running beside it."""

    async def main(engine: E) -> None:
        rig = Rig(engine)
        loop = asyncio.create_task(rig.encryption.run())
        try:
            await scene(rig, engine)
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)

    return main


def test_without_an_engine_a_task_is_told_what_is_missing() -> None:
    @running
    async def scene(rig: Rig, engine: None) -> None:
        rig.desire()
        with pytest.raises(
            OperationFailed, match="cannot join encrypted network secret: no TAP here"
        ):
            await rig.encryption.ready("secret")

    asyncio.run(scene(None))


def test_the_userspace_engine_is_waited_for_by_tasks_and_not_by_the_network() -> None:
    @running
    async def scene(rig: Rig, engine: Engine) -> None:
        engine.broken = True
        assert rig.desire() is rig.assignment
        await until(lambda: engine.tries > 2)
        waiting = asyncio.create_task(rig.encryption.ready("secret"))
        await asyncio.sleep(0)
        assert not waiting.done()
        engine.broken = False
        await waiting
        assert engine.in_force is not None

    asyncio.run(scene(Engine("userspace")))


def test_with_the_kernels_nothing_is_up_before_its_policies() -> None:
    @running
    async def scene(rig: Rig, engine: Engine) -> None:
        engine.broken = True
        assert rig.desire() is None
        await rig.changed.wait()
        without = rig.desire()
        assert without is not None
        assert without.keys == ()
        rig.changed.clear()
        engine.broken = False
        await rig.changed.wait()
        assert rig.desire() is rig.assignment

    asyncio.run(scene(Engine("kernel")))


def test_a_daemon_that_starts_again_does_not_take_the_network_down() -> None:
    @running
    async def scene(rig: Rig, engine: Engine) -> None:
        assert rig.desire() is None, "wait: what is in force is not known yet"
        await rig.changed.wait()
        assert rig.desire() is rig.assignment

    asyncio.run(scene(Engine("kernel")))


def test_the_engine_ends_with_the_last_encrypted_network() -> None:
    @running
    async def scene(rig: Rig, engine: Engine) -> None:
        rig.desire()
        await until(lambda: engine.in_force is not None)
        rig.assignment = msgspec.structs.replace(rig.assignment, networks={}, tasks={}, keys=())
        assert rig.desire() is rig.assignment
        await until(lambda: engine.in_force is None)

    asyncio.run(scene(Engine("userspace")))


def test_the_kernels_policies_wait_for_the_marks_of_plain_networks_and_end_before_them() -> None:
    @running
    async def scene(rig: Rig, engine: Engine) -> None:
        encrypted = rig.assignment
        without = rig.assignment = msgspec.structs.replace(encrypted, networks={}, tasks={})
        rig.desire()
        await until(lambda: engine.tries == 1)
        rig.planned.clear()
        rig.assignment = encrypted
        rig.desire()
        await asyncio.sleep(0.05)
        assert engine.in_force is None
        rig.planned.set()
        await until(lambda: engine.in_force is not None)
        await until(lambda: rig.encryption.policies_in_force)
        # Later changes do not wait, and the end of the policies is told.
        rig.planned.clear()
        rig.assignment = without
        rig.changed.clear()
        rig.desire()
        assert rig.encryption.policies_in_force
        await rig.changed.wait()
        assert engine.in_force is None
        assert not rig.encryption.policies_in_force

    asyncio.run(scene(Engine("kernel")))


def test_a_network_loop_that_never_settles_does_not_keep_encrypted_networks_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("weft.engine.encryption.PATIENCE", 0.02)

    @running
    async def scene(rig: Rig, engine: Engine) -> None:
        encrypted = rig.assignment
        rig.assignment = msgspec.structs.replace(encrypted, networks={}, tasks={})
        rig.desire()
        await until(lambda: engine.tries == 1)
        rig.planned.clear()
        rig.assignment = encrypted
        rig.desire()
        await until(lambda: engine.in_force is not None)

    asyncio.run(scene(Engine("kernel")))

"""What happens in a simulation, as values: what users do, and what goes wrong. `play` makes it
happen; each step begins `wait` seconds after the one before it, whether that has come to its end or
not.

Hosts are numbers that are taken modulo what there is, so that any list of steps makes sense.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from tests.simulation.cluster import SimCluster
from tests.simulation.host import IMAGE, SimHost
from tests.simulation.ledger import Ledger
from tests.simulation.processes import OUTSIDE
from weft.errors import WeftError
from weft.manager.manager import Manager
from weft.model.meta import SECOND
from weft.model.network import NetworkSpec
from weft.model.node import Availability, Role
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    PublishedPort,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from weft.model.task import TaskState
from weft.model.workload import TASK_LABEL

UPDATE = UpdateConfig(parallelism=2, monitor=SECOND, failure_action="continue")
SETTLE = 180.0
"""Seconds until all is as it should be after the last fault: nodes that were found down, restarts
and updates one after the other."""
NOTICE = 1.0
WORKERS_FOR_EVER = 2


class Step(msgspec.Struct, frozen=True, kw_only=True):
    wait: float = 0.0


# --- what users do


class CreateService(Step, frozen=True):
    name: int
    replicas: int | None = 1
    networks: tuple[int, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    start_first: bool = False


class Scale(Step, frozen=True):
    name: int
    replicas: int


class Update(Step, frozen=True):
    name: int
    value: int


class RemoveService(Step, frozen=True):
    name: int


class CreateNetwork(Step, frozen=True):
    name: int


class RemoveNetwork(Step, frozen=True):
    name: int


class Make(Step, frozen=True):
    host: int
    availability: Availability


class GiveRole(Step, frozen=True):
    """With several managers; the last two hosts are workers for ever."""

    host: int
    role: Role


class RotateKeys(Step, frozen=True):
    pass


class RotateRoot(Step, frozen=True):
    pass


class Leave(Step, frozen=True):
    """A worker leaves; its node stays behind, down and drained."""

    host: int


class Renew(Step, frozen=True):
    """A worker's node is removed, whatever it runs; the host leaves and joins again."""

    host: int


# --- what goes wrong


class Kill(Step, frozen=True):
    """The daemon, after some seconds and so many more turns of the event loop: in the middle of
    what the steps before began."""

    host: int
    after: float = 0.0
    turns: int = 0
    down: float = 1.0


class PowerOff(Step, frozen=True):
    host: int
    down: float


class Isolate(Step, frozen=True):
    host: int
    seconds: float


class Cut(Step, frozen=True):
    host: int
    other: int
    seconds: float


class Reset(Step, frozen=True):
    host: int
    other: int


class Delay(Step, frozen=True):
    host: int
    other: int
    by: float
    seconds: float


class SlowStore(Step, frozen=True):
    host: int
    latency: float
    seconds: float


class LoseAnswers(Step, frozen=True):
    host: int
    times: int


class BreakWatches(Step, frozen=True):
    host: int


class Compact(Step, frozen=True):
    pass


class Die(Step, frozen=True):
    """A container ends by itself."""

    host: int


class Play:
    def __init__(self, cluster: SimCluster) -> None:
        self.cluster = cluster
        self.ledger = Ledger(cluster)
        self._busy: dict[str, asyncio.Lock] = {}

    async def play(self, steps: Sequence[Step]) -> None:
        """All of it, then peace, and then everything must be right."""
        running = []
        for step in steps:
            await asyncio.sleep(step.wait)
            running.append(self.cluster.processes.spawn(OUTSIDE, self._do(step)))
        await asyncio.gather(*running)
        self.cluster.repair()
        await self.cluster.settle(SETTLE)
        assert not self.ledger.lies(), self.ledger.lies()

    async def _do(self, step: Step) -> None:
        match step:
            case CreateService() | Scale() | Update() | RemoveService():
                await self._service(step)
            case CreateNetwork(name=name):
                await self.ledger.create_network(NetworkSpec(name=f"net{name}"))
            case RemoveNetwork(name=name):
                await self.ledger.remove_network(f"net{name}")
            case Make(host=number, availability=availability):
                node = self._host(number).node
                if node is not None:
                    await self.ledger.make_available(node, availability)
            case GiveRole(host=number, role=role):
                await self._give_role(number, role)
            case RotateKeys():
                with suppress(WeftError):
                    await self.cluster.ask(lambda manager: manager.swarm.rotate_keys())
            case RotateRoot():
                with suppress(WeftError):
                    await self.cluster.ask(rotated_root)
            case Leave() | Renew() | Kill() | PowerOff() | Isolate() | Die():
                await self._happen_to_host(step)
            case Cut() | Reset() | Delay():
                await self._happen_between(step)
            case _:
                await self._happen_to_store(step)

    async def _give_role(self, number: int, role: Role) -> None:
        eligible = list(self.cluster.hosts.values())[:-WORKERS_FOR_EVER]
        node = eligible[number % len(eligible)].node
        if node is not None and self.cluster.etcd is not None:
            await self.ledger.give_role(node, role)

    async def _service(self, step: CreateService | Scale | Update | RemoveService) -> None:
        name = f"service{step.name}"
        match step:
            case CreateService():
                await self.ledger.create_service(
                    _spec(name, step), tuple(f"net{each}" for each in step.networks)
                )
            case Scale(replicas=replicas):
                await self.ledger.change_service(name, lambda spec: _scaled(spec, replicas))
            case Update(value=value):
                await self.ledger.change_service(name, lambda spec: _updated(spec, value))
            case RemoveService():
                await self.ledger.remove_service(name)

    # --- one host, to which one thing happens at a time

    async def _happen_to_host(self, step: Leave | Renew | Kill | PowerOff | Isolate | Die) -> None:
        host = self._worker(step.host) if isinstance(step, Leave | Renew) else self._host(step.host)
        lock = self._busy.setdefault(host.name, asyncio.Lock())
        if lock.locked() or host.identity is None or not host.is_up:
            return
        async with lock:
            match step:
                case Leave():
                    assert host.node is not None
                    await self.ledger.leave(host.node, host.leave)
                case Renew():
                    await self._renew(host)
                case Kill():
                    await self._kill(host, step)
                case PowerOff(down=down):
                    await self.cluster.power_off(host.name)
                    await later(down, lambda: self.cluster.power_on(host.name))
                case Isolate(seconds=seconds):
                    await self._isolate(host, seconds)
                case Die():
                    running = host.runtime.running()
                    if running:
                        host.runtime.die(self.cluster.rng.choice(running).id, 1)

    async def _renew(self, host: SimHost) -> None:
        assert host.node is not None
        while not await self.ledger.remove_node(host.node):
            await asyncio.sleep(NOTICE)
        await host.leave()
        await self.cluster.join("worker", host)

    async def _kill(self, host: SimHost, step: Kill) -> None:
        await asyncio.sleep(step.after)
        for _ in range(step.turns):
            await asyncio.sleep(0)
        await host.kill()
        await later(step.down, host.start)

    async def _isolate(self, host: SimHost, seconds: float) -> None:
        """What it was to run when it was cut off, it goes on running."""
        self.cluster.isolate(host.name)
        await asyncio.sleep(NOTICE)
        assert host.agent is not None
        wanted = {
            task.id
            for task in host.agent.assignment.tasks.values()
            if task.desired == TaskState.RUNNING
        }
        before = {c.id for c in host.runtime.running() if c.config.labels[TASK_LABEL] in wanted}
        await asyncio.sleep(seconds)
        lost = before - {c.id for c in host.runtime.running()}
        if lost and not host.is_manager:
            self.cluster.invariants.violations.append(
                f"{host.name} stopped {sorted(lost)} while it was cut off"
            )
        self.cluster.heal(host.name)

    # --- between two, and to the store

    async def _happen_between(self, step: Cut | Reset | Delay) -> None:
        network, one, other = (
            self.cluster.network,
            self._host(step.host).name,
            self._host(step.other).name,
        )
        match step:
            case Cut(seconds=seconds):
                network.cut(one, other)
                await later(seconds, lambda: network.heal(one, other))
            case Reset():
                network.reset(one, other)
            case Delay(by=by, seconds=seconds):
                network.delay(one, other, by)
                await later(seconds, lambda: network.delay(one, other, 0.0))

    async def _happen_to_store(self, step: Step) -> None:
        etcd, disk = self.cluster.etcd, self.cluster.disk
        match step:
            case SlowStore(seconds=seconds) if disk is not None:
                disk.full = True
                await asyncio.sleep(seconds)
                disk.full = False
            case SlowStore(host=number, latency=latency, seconds=seconds) if etcd is not None:
                member = self._member(number)
                etcd.slow(member, latency)
                await asyncio.sleep(seconds)
                if etcd.has(member):
                    etcd.slow(member)
            case LoseAnswers(host=number, times=times) if etcd is not None:
                etcd.lose_answers(self._member(number), times)
            case BreakWatches(host=number) if etcd is not None:
                etcd.break_watches(self._member(number))
            case Compact() if etcd is not None:
                etcd.compact()

    def _host(self, number: int) -> SimHost:
        return list(self.cluster.hosts.values())[number % len(self.cluster.hosts)]

    def _member(self, number: int) -> str:
        """Of the store."""
        assert self.cluster.etcd is not None
        names = [member.name for member in self.cluster.etcd.roster if member.name]
        return names[number % len(names)]

    def _worker(self, number: int) -> SimHost:
        workers = list(self.cluster.hosts.values())[-WORKERS_FOR_EVER:]
        return workers[number % len(workers)]


async def later(seconds: float, remedy: Callable[[], None]) -> None:
    """What goes wrong does so for a time."""
    await asyncio.sleep(seconds)
    remedy()


async def rotated_root(manager: Manager) -> None:
    cluster = manager.swarm.cluster
    spec = msgspec.structs.replace(cluster.spec, force_rotate=cluster.spec.force_rotate + 1)
    await manager.swarm.update_cluster(cluster.meta.version, spec, False, False)


def _spec(name: str, step: CreateService) -> ServiceSpec:
    order = UPDATE if not step.start_first else msgspec.structs.replace(UPDATE, order="start-first")
    return ServiceSpec(
        name=name,
        replicas=step.replicas,
        task=TaskSpec(container=ContainerSpec(image=IMAGE), restart=RestartPolicy(delay=SECOND)),
        endpoint=EndpointSpec(ports=step.ports),
        update=order,
    )


def _scaled(spec: ServiceSpec, replicas: int) -> ServiceSpec:
    return spec if spec.is_global else msgspec.structs.replace(spec, replicas=replicas)


def _updated(spec: ServiceSpec, value: int) -> ServiceSpec:
    container = msgspec.structs.replace(spec.task.container, env=(f"VALUE={value}",))
    return msgspec.structs.replace(
        spec, task=msgspec.structs.replace(spec.task, container=container)
    )

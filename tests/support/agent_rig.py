"""An agent with a kernel, a runtime and a manager in memory, on virtual time.

`rig` gives a running one with tasks; a test that wants to prepare something first makes a `Rig` and
starts it. A test is a coroutine function under `simulated`.
"""

import asyncio
import hashlib
import itertools
import shutil
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import msgspec

from tests.support import virtual_time
from tests.support.swarms import Swarm
from weft.agent.adapters import Adapters, ManagerAdapters
from weft.agent.agent import Agent
from weft.engine.adapters import (
    CheckPort,
    EngineAdapters,
    FlushFlows,
    NameAdapters,
    NetworkAdapters,
    Origin,
)
from weft.engine.engine import Engine
from weft.errors import Unavailable
from weft.linux.fake import FakeKernel
from weft.model.addresses import Port
from weft.model.assignment import AssignmentChange
from weft.model.attached import AttachmentGrant
from weft.model.ids import ClusterId, ContainerId, NetworkId, TaskId
from weft.model.meta import SECOND
from weft.model.node import NodeDescription
from weft.model.registry import PullAuth
from weft.model.secret import Payload
from weft.model.service import PublishedPort
from weft.model.task import TaskState, TaskStatus
from weft.model.workload import Resident
from weft.network.flows import Stale
from weft.network.kernel_state import HOST, KernelState
from weft.network.plan import plan
from weft.runtime.fake import FakeImages, FakeRuntime
from weft.runtime.fake_volumes import FakeVolumes
from weft.session.base import AttachmentRequest, Echo, Identity, SessionClosed
from weft.session.fake import MemoryAgentSession, MemoryManagerSession, session_pair
from weft.session.messages import AssignmentUpdate, Heartbeat, StatusAccepted, StatusUpdate, Welcome
from weft.system.supervision import ended

MANAGER = IPv4Address("192.0.2.9")
"""Where it is."""
WEB = (PublishedPort(target=80, published=8080),)


class ScriptedManager:
    """Tells one agent what a test wants and believes what it says."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm
        self.reachable = True
        self.accepting = True
        self.stopped = False
        """Its process is: connections stay, and nothing answers."""
        self.statuses: dict[TaskId, TaskStatus] = {}
        self.log: list[tuple[TaskId, TaskStatus]] = []
        self.revision = itertools.count(1)
        self.sessions: list[MemoryManagerSession] = []
        self.servers: set[asyncio.Task[None]] = set()
        self.attempts: list[float] = []
        self.slow_to_close = 0.0
        """Seconds that an agent's goodbye takes."""
        self.hellos: list[Any] = []
        self.secrets: Sequence[Payload] = ()
        self.configs: Sequence[Payload] = ()
        """What it says that the node's tasks need: payloads."""
        self.registry_auths: Sequence[PullAuth] = ()
        self.requests: list[AttachmentRequest] = []
        self.is_mute = False
        """Its grants do not arrive."""
        self.without: set[NetworkId] = set()
        """Networks that are left out of what it says."""

    async def connect(self) -> MemoryAgentSession:
        self.attempts.append(asyncio.get_running_loop().time())
        if not self.reachable:
            raise Unavailable("cannot reach a manager")
        session, agent = session_pair(
            Identity(self.swarm.nodes[0], "worker", ClusterId("c")), "192.0.2.1"
        )
        agent.address, close = str(MANAGER), agent.close

        async def close_slowly(reason: str) -> None:
            await asyncio.sleep(self.slow_to_close)
            await close(reason)

        agent.close = close_slowly  # type: ignore[method-assign]  # this session only
        self.sessions.append(session)
        server = asyncio.get_running_loop().create_task(self._serve(session))
        self.servers.add(server)
        return agent

    async def attach(self, request: AttachmentRequest) -> AttachmentGrant:
        """A place for one of the node's own containers on a network, which must exist."""
        self.requests.append(request)
        if not self.reachable:
            raise Unavailable("cannot reach a manager")
        definitions = self.swarm.definitions.values()
        network = next(d for d in definitions if request.wanted.network in (d.id, d.name))
        address = self.swarm.attach(request.id, network.id, request.wanted)
        await self.tell()
        if self.is_mute:
            raise Unavailable("no answer within 20 s")
        return AttachmentGrant(network=network.id, name=network.name, address=address)

    async def _serve(self, session: MemoryManagerSession) -> None:
        try:
            self.hellos.append(await session.receive())
            await session.send(Welcome(heartbeat=5 * SECOND, managers=()))
            await session.send(self._update())
            while True:
                message = await session.receive()
                if isinstance(message, Heartbeat) and not self.stopped:
                    await session.send(Heartbeat())
                if isinstance(message, StatusUpdate):
                    self._take(message)
                    if self.accepting:
                        await session.send(StatusAccepted(message.number))
        except SessionClosed:
            pass
        finally:
            if session in self.sessions:
                self.sessions.remove(session)

    def _take(self, update: StatusUpdate) -> None:
        for task, status in update.statuses:
            self.log.append((task, status))
            last = self.statuses.get(task)
            assert last is None or status.state >= last.state, "the observed state only grows"
            self.statuses[task] = status

    def _update(self) -> AssignmentUpdate:
        a = self.swarm.assignment(1)
        views = [view for id, view in a.networks.items() if id not in self.without]
        change = AssignmentChange(
            revision=next(self.revision),
            full=True,
            tasks=tuple(a.tasks.values()),
            networks=tuple(v.definition for v in views),
            endpoints=tuple(e for v in views for e in v.endpoints.values()),
            services=tuple(s for v in views for s in v.services.values()),
            secrets=tuple(self.secrets),
            configs=tuple(self.configs),
            registry_auths=tuple(self.registry_auths),
        )
        return AssignmentUpdate(change)

    async def tell(self) -> None:
        for session in tuple(self.sessions):
            await session.send(self._update())

    async def want(self, task: TaskId, desired: TaskState) -> None:
        self.swarm.tasks[task] = msgspec.structs.replace(self.swarm.tasks[task], desired=desired)
        await self.tell()

    async def want_all(self, desired: TaskState) -> None:
        for task in self.swarm.tasks:
            self.swarm.tasks[task] = msgspec.structs.replace(
                self.swarm.tasks[task], desired=desired
            )
        await self.tell()

    async def drop(self) -> None:
        """The connection breaks."""
        for session in tuple(self.sessions):
            await session.close("gone")


class Rig:
    def __init__(self, data: Path, tasks: int = 3) -> None:
        self.data = data
        self.swarm = Swarm(3)
        self.net = self.swarm.network("demo-net", "10.10.10.0/24")
        self.tasks = self.swarm.service("web", self.net, ports=WEB, on=[1] * tasks)
        self.swarm.service("web-elsewhere", self.net, on=[2, 3])
        self.manager = ScriptedManager(self.swarm)
        self.images = FakeImages("demo")
        self.runtime = FakeRuntime(self.images, virtual_time.clock)
        self.volumes = FakeVolumes()
        self.kernel = FakeKernel()
        self.counter = itertools.count()
        self.opened: list[str] = []
        self.flush_flows: FlushFlows = _no_flush
        self.open_echo: Callable[[], Echo] | None = None
        self.check_port: CheckPort = lambda protocol, port, address: None
        self.routes: tuple[str, ...] = ("192.0.2.0/24",)
        self.records: Path | None = None
        """Where the node's own networks are kept."""
        self.agent: Agent
        self.run: asyncio.Task[None]
        self.engine_run: asyncio.Task[None]

    def entropy(self, n: int) -> bytes:
        return hashlib.sha256(str(next(self.counter)).encode()).digest()[:n]

    async def open_resolver(
        self, path: Path, address: IPv4Address, port: Port
    ) -> tuple[socket.socket, socket.socket]:
        self.opened.append(path.name)
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
        for each in (udp, tcp):
            each.setblocking(False)
            each.bind(("127.0.0.1", 0))
        tcp.listen()
        return udp, tcp

    def start(self) -> None:
        origin = Origin(clock=virtual_time.clock, entropy=self.entropy)
        network = NetworkAdapters(
            kernel=self.kernel,
            names=NameAdapters(open_resolver=self.open_resolver),
            check_port=lambda *port: self.check_port(*port),
            flush_flows=lambda space, flows: self.flush_flows(space, flows),
            records=self.records,
        )
        engine = Engine(
            "engine1",
            EngineAdapters(
                runtime=self.runtime,
                images=self.images,
                volumes=self.volumes,
                network=network,
                origin=origin,
                health_records=self.data.with_name("health"),
            ),
        )
        adapters = Adapters(
            managers=ManagerAdapters(
                connect=self.manager.connect,
                open_echo=self.open_echo,
                attach=self.manager.attach,
            ),
            origin=origin,
            description=lambda: NodeDescription(hostname="node1"),
            routes=lambda: self.routes,
        )
        engine.resume()
        self.engine_run = asyncio.get_running_loop().create_task(engine.run())
        self.agent = Agent(self.swarm.nodes[0], self.data, self.swarm.facts(1), engine, adapters)
        self.run = asyncio.get_running_loop().create_task(self.agent.run())

    async def stop(self) -> None:
        self.run.cancel()
        await asyncio.wait((self.run,))
        await ended(self.engine_run)
        await self.agent.engine.close()

    async def kill(self) -> None:
        """As kill -9 does: nothing that the agent would still do at its end reaches the disk."""
        frozen = self.data.with_name("frozen")
        shutil.rmtree(frozen, ignore_errors=True)
        if self.data.exists():
            shutil.copytree(self.data, frozen)
        await self.stop()
        shutil.rmtree(self.data, ignore_errors=True)
        if frozen.exists():
            shutil.copytree(frozen, self.data)

    # --- what a test asks

    def states(self) -> dict[TaskId, TaskState]:
        return {
            task: self.manager.statuses[task].state
            for task in self.tasks
            if task in self.manager.statuses
        }

    async def until(self, condition: Callable[..., object], seconds: float = 30.0) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, (
                f"states {self.states()} history {self.runtime.history}"
            )
            assert not self.run.done(), self.run
            await asyncio.sleep(0.01)

    async def until_all(self, state: TaskState, seconds: float = 30.0) -> None:
        await self.until(lambda: self.states() == dict.fromkeys(self.tasks, state), seconds)

    def happened(self, what: str) -> Counter[ContainerId]:
        return Counter(id for event, id in self.runtime.history if event == what)

    def planned(self, *residents: Resident) -> KernelState:
        return plan(self.agent.assignment, self.agent.facts, residents)

    async def namespaces(self) -> set[str]:
        return set((await self.kernel.read(self.planned())).namespaces)

    async def check_running(self) -> None:
        """One container per task, made once, started once, each with a sandbox of its own that is
        in the kernel."""
        running = self.runtime.running()
        assert sorted(c.config.labels["com.docker.swarm.task.id"] for c in running) == sorted(
            self.tasks
        )
        assert set(self.happened("create").values()) == {1}
        assert set(self.happened("start").values()) == {1}
        assert len(self.happened("create")) == len(self.tasks)
        sandboxes = self.agent.connections.sandboxes
        assert (
            len({s.gateway for s in sandboxes})
            == len({s.key for s in sandboxes})
            == len(self.tasks)
        )
        assert {s.key for s in sandboxes} == {
            str(c.config.namespace).rpartition("/")[2] for c in running
        }
        assert {s.key for s in sandboxes} <= await self.namespaces()

    async def check_gone(self) -> None:
        assert self.runtime.running() == []
        assert self.agent.connections.sandboxes == ()
        assert await self.namespaces() <= {
            HOST,
            "ingress_sbox",
            f"1-{self.net[:10]}",
            f"lb_{self.net[:9]}",
            "1-ingress000",
        }


@asynccontextmanager
async def rig(tmp_path: Path, **options: Any) -> AsyncIterator[Rig]:
    made = Rig(tmp_path / "data", **options)
    made.start()
    try:
        yield made
    finally:
        await made.stop()
        for server in made.manager.servers:
            server.cancel()


def simulated(test: Callable[[Path], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """The coroutine function as a test, on virtual time."""

    def run(tmp_path: Path) -> None:
        virtual_time.run(test(tmp_path))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def _no_flush(namespace: str, flows: frozenset[Stale]) -> None:
    """For tests that do not look."""

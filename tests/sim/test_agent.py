"""An agent with a kernel, a runtime and a manager in memory, on virtual time: lives of tasks,
failures, and death at any instant."""

import asyncio
import hashlib
import itertools
import shutil
import socket
from collections import Counter
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

import msgspec
import pytest

from tests.support import virtual_time
from tests.support.swarms import Swarm
from weft.agent.adapters import Adapters, ManagerAdapters
from weft.agent.agent import Agent
from weft.agent.uplink import ROUTES_PERIOD
from weft.engine.adapters import EngineAdapters, NameAdapters, NetworkAdapters, Origin
from weft.engine.engine import Engine
from weft.engine.network import AUDIT
from weft.errors import OperationFailed, Unavailable
from weft.linux.fake import FakeKernel
from weft.linux.fake_echo import FakeEcho
from weft.model.assignment import AssignmentChange
from weft.model.container import ContainerState, ImageConfig
from weft.model.meta import SECOND
from weft.model.node import NodeDescription
from weft.model.service import Mount, PublishedPort
from weft.model.task import TaskState
from weft.network.flows import Answered, Asked
from weft.network.kernel_state import HOST
from weft.network.operations import RemoveLink, RemoveNamespace, RemoveTable, SetSysctl
from weft.runtime.fake import FakeImages, FakeRuntime
from weft.session.base import Identity, SessionClosed
from weft.session.fake import session_pair
from weft.session.messages import (
    AssignmentUpdate,
    Heartbeat,
    Managers,
    StatusAccepted,
    StatusUpdate,
    Welcome,
)

MANAGER = IPv4Address("192.0.2.9")
"""Where it is."""
WEB = (PublishedPort(target=80, published=8080),)


class ScriptedManager:
    """Tells one agent what a test wants and believes what it says."""

    def __init__(self, swarm):
        self.swarm = swarm
        self.reachable = True
        self.accepting = True
        self.stopped = False
        """Its process is: connections stay, and nothing answers."""
        self.statuses = {}
        self.log = []
        self.revision = itertools.count(1)
        self.sessions = []
        self.servers = set()
        self.attempts = []
        self.slow_to_close = 0.0
        """Seconds that an agent's goodbye takes."""
        self.hellos = []
        self.without = set()
        """Networks that are left out of what it says."""

    async def connect(self):
        self.attempts.append(asyncio.get_running_loop().time())
        if not self.reachable:
            raise Unavailable("cannot reach a manager")
        session, agent = session_pair(Identity(self.swarm.nodes[0], "worker", "c"), "192.0.2.1")
        agent.address, close = str(MANAGER), agent.close

        async def close_slowly(reason):
            await asyncio.sleep(self.slow_to_close)
            await close(reason)

        agent.close = close_slowly
        self.sessions.append(session)
        server = asyncio.get_running_loop().create_task(self._serve(session))
        self.servers.add(server)
        return agent

    async def _serve(self, session):
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

    def _take(self, update):
        for task, status in update.statuses:
            self.log.append((task, status))
            last = self.statuses.get(task)
            assert last is None or status.state >= last.state, "the observed state only grows"
            self.statuses[task] = status

    def _update(self):
        a = self.swarm.assignment(1)
        views = [view for id, view in a.networks.items() if id not in self.without]
        change = AssignmentChange(
            revision=next(self.revision),
            full=True,
            tasks=tuple(a.tasks.values()),
            networks=tuple(v.definition for v in views),
            endpoints=tuple(e for v in views for e in v.endpoints.values()),
            services=tuple(s for v in views for s in v.services.values()),
        )
        return AssignmentUpdate(change)

    async def tell(self):
        for session in tuple(self.sessions):
            await session.send(self._update())

    async def want(self, task, desired):
        self.swarm.tasks[task] = msgspec.structs.replace(self.swarm.tasks[task], desired=desired)
        await self.tell()

    async def want_all(self, desired):
        for task in self.swarm.tasks:
            self.swarm.tasks[task] = msgspec.structs.replace(
                self.swarm.tasks[task], desired=desired
            )
        await self.tell()

    async def drop(self):
        """The connection breaks."""
        for session in tuple(self.sessions):
            await session.close("gone")


class Rig:
    def __init__(self, data, tasks=3):
        self.data = data
        self.swarm = Swarm(3)
        self.net = self.swarm.network("demo-net", "10.10.10.0/24")
        self.tasks = self.swarm.service("web", self.net, ports=WEB, on=[1] * tasks)
        self.swarm.service("web-elsewhere", self.net, on=[2, 3])
        self.manager = ScriptedManager(self.swarm)
        self.images = FakeImages("demo")
        self.runtime = FakeRuntime(self.images, virtual_time.clock)
        self.kernel = FakeKernel()
        self.counter = itertools.count()
        self.opened = []
        self.flush_flows = _no_flush
        self.open_echo = None
        self.routes = ("192.0.2.0/24",)
        self.agent = None
        self.run = None

    def entropy(self, n):
        return hashlib.sha256(str(next(self.counter)).encode()).digest()[:n]

    async def open_resolver(self, path, address, port):
        self.opened.append(path.name)
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
        for each in (udp, tcp):
            each.setblocking(False)
            each.bind(("127.0.0.1", 0))
        tcp.listen()
        return udp, tcp

    def start(self):
        origin = Origin(clock=virtual_time.clock, entropy=self.entropy)
        network = NetworkAdapters(
            kernel=self.kernel,
            names=NameAdapters(open_resolver=self.open_resolver),
            flush_flows=lambda space, flows: self.flush_flows(space, flows),
        )
        engine = Engine(
            "engine1",
            EngineAdapters(
                runtime=self.runtime, images=self.images, network=network, origin=origin
            ),
        )
        adapters = Adapters(
            managers=ManagerAdapters(connect=self.manager.connect, open_echo=self.open_echo),
            origin=origin,
            description=lambda: NodeDescription(hostname="node1"),
            routes=lambda: self.routes,
        )
        self.agent = Agent(self.swarm.nodes[0], self.data, self.swarm.facts(1), engine, adapters)
        self.run = asyncio.get_running_loop().create_task(self.agent.run())

    async def stop(self):
        self.run.cancel()
        await asyncio.wait((self.run,))

    async def kill(self):
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

    def states(self):
        return {
            task: self.manager.statuses[task].state
            for task in self.tasks
            if task in self.manager.statuses
        }

    async def until(self, condition, seconds=30.0):
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, (
                f"states {self.states()} history {self.runtime.history}"
            )
            assert not self.run.done(), self.run
            await asyncio.sleep(0.01)

    async def until_all(self, state, seconds=30.0):
        await self.until(lambda: self.states() == dict.fromkeys(self.tasks, state), seconds)

    def happened(self, what):
        return Counter(id for event, id in self.runtime.history if event == what)

    async def namespaces(self):
        return set(
            (
                await self.kernel.read(
                    self.agent.networking.loop._plan(self.agent.assignment, self.agent.facts, [])
                )
            ).namespaces
        )

    async def check_running(self):
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
            c.config.namespace.rpartition("/")[2] for c in running
        }
        assert {s.key for s in sandboxes} <= await self.namespaces()

    async def check_gone(self):
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
async def rig(tmp_path, **options):
    made = Rig(tmp_path / "data", **options)
    made.start()
    try:
        yield made
    finally:
        await made.stop()
        for server in made.manager.servers:
            server.cancel()


def simulated(test):
    """The coroutine function as a test, on virtual time."""

    def run(tmp_path):
        virtual_time.run(test(tmp_path))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@simulated
async def test_tasks_run_and_the_manager_sees_every_one(tmp_path):
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING, 2)
        await r.check_running()
        status = r.manager.statuses[r.tasks[0]]
        assert (status.message, status.err, status.container.pid > 0) == ("started", "", True)
        assert len(r.opened) == 3


@simulated
async def test_a_task_says_what_its_image_asks_for_in_vain(tmp_path):
    async with rig(tmp_path, tasks=0) as r:
        r.images.add("demo", ImageConfig(has_healthcheck=True, volumes=("/data/", "/tmp/x")))
        (task,) = r.swarm.service("db", r.net, on=[1])
        container = msgspec.structs.replace(
            r.swarm.tasks[task].spec.container, mounts=(Mount(type="tmpfs", target="/tmp/x"),)
        )
        spec = msgspec.structs.replace(r.swarm.tasks[task].spec, container=container)
        r.swarm.tasks[task] = msgspec.structs.replace(r.swarm.tasks[task], spec=spec)
        await r.manager.tell()
        await r.until(
            lambda: (
                task in r.manager.statuses and r.manager.statuses[task].state == TaskState.RUNNING
            )
        )
        assert (
            r.manager.statuses[task].err
            == "the image's HEALTHCHECK is not supported by Weft: the task counts as healthy; "
            "the image's VOLUME /data/ is not supported by Weft: data there goes with the container"
        )


@simulated
async def test_a_task_meant_to_be_ready_waits_until_it_is_raised(tmp_path):
    async with rig(tmp_path, tasks=1) as r:
        await r.manager.want_all(TaskState.READY)
        await r.until_all(TaskState.READY)
        await asyncio.sleep(60)
        assert r.happened("start") == {}
        await r.manager.want_all(TaskState.RUNNING)
        await r.until_all(TaskState.RUNNING)


@simulated
async def test_shutdown_keeps_the_container_and_gives_back_everything_else(tmp_path):
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        await r.manager.want_all(TaskState.SHUTDOWN)
        await r.until_all(TaskState.SHUTDOWN)
        await r.check_gone()
        assert {c.state for c in r.runtime.containers()} == {ContainerState.EXITED}
        assert r.manager.statuses[r.tasks[0]].message == "shutdown"
        for task in r.tasks:
            r.swarm.remove(task)
        await r.manager.tell()
        await r.until(lambda: r.runtime.containers() == [])
        assert r.agent.records.all == {}


@simulated
async def test_removal_takes_the_container_too(tmp_path):
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        await r.manager.want_all(TaskState.REMOVE)
        await r.until_all(TaskState.SHUTDOWN)
        await r.check_gone()
        assert r.runtime.containers() == []


@simulated
async def test_the_end_is_told_only_when_nothing_is_held_any_longer(tmp_path):
    async with rig(tmp_path, tasks=1) as r:
        await r.until_all(TaskState.RUNNING)
        r.runtime.stop_latency = 3.0
        key = r.agent.connections.sandboxes[0].key
        began = asyncio.get_running_loop().time()
        await r.manager.want_all(TaskState.SHUTDOWN)
        await r.until_all(TaskState.SHUTDOWN)
        assert asyncio.get_running_loop().time() - began > 3.3
        assert key not in await r.namespaces()


@simulated
async def test_a_task_that_the_manager_no_longer_speaks_of_is_stopped_and_removed(tmp_path):
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        gone = r.tasks.pop()
        r.swarm.remove(gone)
        await r.manager.tell()
        await r.until(lambda: len(r.runtime.containers()) == 2 and len(r.agent.records.all) == 2)
        assert len(r.agent.connections.sandboxes) == 2


@pytest.mark.parametrize(
    ("code", "state", "err"),
    [(0, TaskState.COMPLETE, ""), (7, TaskState.FAILED, "task: non-zero exit (7)")],
)
def test_a_container_that_ends_by_itself(tmp_path, code, state, err):
    async def main():
        async with rig(tmp_path, tasks=1) as r:
            await r.until_all(TaskState.RUNNING)
            r.runtime.die(r.runtime.running()[0].id, code)
            await r.until_all(state, 2)
            status = r.manager.statuses[r.tasks[0]]
            assert (status.err, status.container.exit_code) == (err, code)
            await r.check_gone()

    virtual_time.run(main())


@pytest.mark.parametrize(
    ("break_it", "state", "err"),
    [
        (lambda r: r.images._images.clear(), TaskState.REJECTED, "No such image: demo"),
        (lambda r: r.runtime.fail("create", "cannot create: no runc"), TaskState.REJECTED, "cannot create: no runc"),
        (lambda r: r.runtime.fail("start", "cannot start container: bad"), TaskState.FAILED, "cannot start container: bad"),
    ],
)  # fmt: skip
def test_what_keeps_a_task_from_running_is_in_its_status(tmp_path, break_it, state, err):
    async def main():
        made = Rig(tmp_path / "data", tasks=1)
        break_it(made)
        made.start()
        await made.until_all(state)
        assert made.manager.statuses[made.tasks[0]].err == err
        await made.check_gone()
        assert made.runtime.containers() == []
        await made.stop()

    virtual_time.run(main())


@simulated
async def test_an_image_is_pulled_once_for_all_that_wait_for_it(tmp_path):
    made = Rig(tmp_path / "data")
    made.images._images.clear()
    made.images.registry.add("demo:latest")
    made.images.latency = 5.0
    made.start()
    await made.until_all(TaskState.RUNNING)
    assert made.images.pulls == ["demo"]
    await made.stop()


@simulated
async def test_a_task_may_be_stopped_while_its_image_is_pulled(tmp_path):
    made = Rig(tmp_path / "data", tasks=1)
    made.images._images.clear()
    made.images.latency = 3600.0
    made.start()
    await made.until_all(TaskState.PREPARING)
    await made.manager.want_all(TaskState.SHUTDOWN)
    await made.until_all(TaskState.SHUTDOWN, 5)
    await made.stop()


@simulated
async def test_a_node_without_an_address_on_the_ingress_network_says_so(tmp_path):
    made = Rig(tmp_path / "data", tasks=1)
    del made.swarm.endpoints[made.swarm.ingress][f"lb-{made.swarm.nodes[0]}"]
    made.start()
    await made.until_all(TaskState.REJECTED, 60)
    assert (
        made.manager.statuses[made.tasks[0]].err
        == "node is missing network attachments, ip addresses may be exhausted"
    )
    await made.check_gone()
    await made.stop()


@simulated
async def test_a_network_of_which_the_node_is_not_told_is_waited_for_and_then_missed(tmp_path):
    made = Rig(tmp_path / "data", tasks=1)
    made.manager.without = {made.net}
    made.start()
    await made.until_all(TaskState.PREPARING)
    await asyncio.sleep(20)
    made.manager.without.clear()
    await made.manager.tell()
    await made.until_all(TaskState.RUNNING, 2)
    await made.stop()


@simulated
async def test_on_a_full_network_the_task_does_without_the_nodes_own_address(tmp_path):
    made = Rig(tmp_path / "data", tasks=1)
    del made.swarm.endpoints[made.net][f"lb-{made.swarm.nodes[0]}"]
    made.start()
    await made.until_all(TaskState.RUNNING, 2)
    await made.stop()


@simulated
async def test_without_a_manager_the_node_comes_back_from_its_disk(tmp_path):
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        before = {c.id: c.pid for c in r.runtime.running()}
        sandboxes = r.agent.connections.sandboxes
        await r.kill()
        r.manager.reachable = False
        r.kernel = FakeKernel()
        r.start()
        await asyncio.sleep(2)
        assert {c.id: c.pid for c in r.runtime.running()} == before
        assert r.agent.connections.sandboxes == sandboxes
        assert {s.key for s in sandboxes} <= await r.namespaces()
        assert len(r.opened) == 6
        r.manager.reachable = True
        r.manager.statuses.clear()
        await r.until_all(TaskState.RUNNING)


@simulated
async def test_managers_are_tried_again_with_growing_pauses(tmp_path):
    made = Rig(tmp_path / "data")
    made.manager.reachable = False
    made.start()
    await asyncio.sleep(60)
    pauses = [b - a for a, b in itertools.pairwise(made.manager.attempts)]
    assert pauses[:7] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4])
    assert max(pauses) == pytest.approx(8.0)
    assert made.kernel is not None
    assert made.runtime.history == []
    await made.stop()


@simulated
async def test_a_manager_that_says_nothing_is_left_for_another_one_before_it_would_find_the_node_down(
    tmp_path,
):
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        await asyncio.sleep(100)
        assert len(r.manager.attempts) == 1
        r.manager.stopped, stopped_at = True, asyncio.get_running_loop().time()
        await r.until(lambda: len(r.manager.attempts) == 2)
        assert r.manager.attempts[1] - stopped_at < 15, "the manager's patience"
        r.manager.stopped = False
        await asyncio.sleep(100)
        assert len(r.manager.attempts) == 2


@simulated
async def test_a_manager_whose_host_is_gone_is_left_within_a_second_also_if_that_takes_no_goodbye(
    tmp_path,
):
    r, there = Rig(tmp_path), True
    r.open_echo = lambda: FakeEcho(lambda address: there and address == MANAGER)
    r.start()
    await r.until_all(TaskState.RUNNING)
    await asyncio.sleep(100)
    assert len(r.manager.attempts) == 1
    r.manager.slow_to_close = 2.0
    there, gone_at = False, asyncio.get_running_loop().time()
    await r.until(lambda: len(r.manager.attempts) == 2)
    assert r.manager.attempts[1] - gone_at < 1.0
    there = True
    await asyncio.sleep(100)
    assert len(r.manager.attempts) == 2
    await r.stop()


@simulated
async def test_statuses_are_repeated_until_they_are_accepted_and_all_of_them_in_a_new_session(
    tmp_path,
):
    async with rig(tmp_path) as r:
        r.manager.accepting = False
        await r.until(lambda: len(r.manager.log) > 0)
        await asyncio.sleep(20)
        assert len(r.manager.log) >= 4 * len(r.tasks)
        assert set(r.states().values()) <= {
            TaskState.ACCEPTED,
            TaskState.PREPARING,
        }, "one update on its way at a time"
        r.manager.accepting = True
        await r.until_all(TaskState.RUNNING)
        r.manager.log.clear()
        await r.manager.drop()
        await r.until(lambda: {task for task, _ in r.manager.log} == set(r.tasks))


@simulated
async def test_a_stranger_of_the_swarm_is_removed_and_other_peoples_containers_are_not(tmp_path):
    async with rig(tmp_path, tasks=1) as r:
        await r.until_all(TaskState.RUNNING)
        await r.stop()
        config = r.runtime.running()[0].config
        lost = msgspec.structs.replace(
            config, id="a" * 64, labels={**config.labels, "com.docker.swarm.task.id": "unknown"}
        )
        other = msgspec.structs.replace(config, id="b" * 64, labels={})
        await r.runtime.create(lost)
        await r.runtime.create(other)
        r.start()
        await r.until(lambda: lost.id not in {c.id for c in r.runtime.containers()})
        assert other.id in {c.id for c in r.runtime.containers()}
        await r.until_all(TaskState.RUNNING)
        assert [c.id for c in r.runtime.running()] == [config.id]


@simulated
async def test_a_node_that_lost_its_disk_adopts_the_containers_of_its_tasks(tmp_path):
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        await r.stop()
        shutil.rmtree(r.data)
        r.manager.statuses.clear()
        r.start()
        await r.until_all(TaskState.RUNNING)
        await r.check_running()


@pytest.mark.parametrize("vandal", range(4))
def test_what_others_do_to_the_network_is_repaired_within_two_seconds(tmp_path, vandal):
    async def main():
        async with rig(tmp_path) as r:
            await r.until_all(TaskState.RUNNING)
            await asyncio.sleep(1)
            desired = r.agent.networking.loop._plan(
                r.agent.assignment, r.agent.facts, r.agent.connections.residents
            )
            before = await r.kernel.read(desired)
            overlay = f"1-{r.net[:10]}"
            table = next(iter(before[HOST].tables))
            deed = [
                RemoveLink(overlay, "vxlan0"), RemoveNamespace(overlay), RemoveNamespace(f"lb_{r.net[:9]}"),
                RemoveTable(HOST, *table),
            ][vandal]  # fmt: skip
            await r.kernel.apply([deed])
            assert r.agent.networking.loop._diff(await r.kernel.read(desired), desired)
            await asyncio.sleep(2)
            assert not r.agent.networking.loop._diff(await r.kernel.read(desired), desired)
            await r.check_running()

    virtual_time.run(main())


@simulated
async def test_leaving_removes_what_is_ours(tmp_path):
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        await r.agent.close()
        await r.agent.leave()
        assert r.runtime.containers() == []
        state = await r.kernel.read(
            r.agent.networking.loop._plan(r.agent.assignment, r.agent.facts, [])
        )
        assert set(state.namespaces) <= {HOST}
        assert not state[HOST].links
        assert not list(r.data.iterdir())


CRASHES = [ms / 1000 for ms in range(0, 250, 7)]


@pytest.mark.parametrize("moment", CRASHES)
def test_killed_at_any_instant_on_the_way_up_nothing_is_done_twice_or_lost(tmp_path, moment):
    async def main():
        made = Rig(tmp_path / "data")
        made.runtime.latency = 0.02
        made.kernel.latency = 0.0003
        made.start()
        await asyncio.sleep(moment)
        await made.kill()
        made.start()
        await asyncio.sleep(moment / 3)
        await made.kill()
        made.start()
        await made.until_all(TaskState.RUNNING)
        await made.check_running()
        await made.stop()

    virtual_time.run(main())


@pytest.mark.parametrize("moment", [m * 3 for m in CRASHES])
@pytest.mark.parametrize("desired", [TaskState.SHUTDOWN, TaskState.REMOVE])
def test_killed_at_any_instant_on_the_way_down_everything_is_given_back(tmp_path, moment, desired):
    async def main():
        made = Rig(tmp_path / "data")
        made.runtime.latency = 0.02
        made.runtime.stop_latency = 0.1
        made.kernel.latency = 0.0003
        made.start()
        await made.until_all(TaskState.RUNNING)
        await made.manager.want_all(desired)
        await asyncio.sleep(moment)
        await made.kill()
        made.start()
        await made.until_all(TaskState.SHUTDOWN)
        await made.check_gone()
        assert set(made.happened("start").values()) == {1}
        assert (made.runtime.containers() == []) == (desired == TaskState.REMOVE)
        await made.stop()

    virtual_time.run(main())


@simulated
async def test_a_kernel_that_refuses_one_tasks_network_does_not_hold_up_the_others(tmp_path):
    class Refusing(FakeKernel):
        victim = ""

        async def apply(self, operations):
            refused = [op for op in operations if self.victim and self.victim in str(op)]
            await super().apply([op for op in operations if op not in refused])
            if refused:
                raise OperationFailed(f"cannot run {refused[0]}: no")

    made = Rig(tmp_path / "data", tasks=2)
    made.kernel = Refusing()
    made.kernel.victim = hashlib.sha256(b"2").hexdigest()[:12]
    made.start()
    await made.until(
        lambda: set(made.states().values()) == {TaskState.RUNNING, TaskState.REJECTED}, 20
    )
    [failed] = [s for s in made.manager.statuses.values() if s.state == TaskState.REJECTED]
    assert failed.err.startswith("cannot run ")
    assert len(made.runtime.running()) == 1
    await made.stop()


@simulated
async def test_no_container_starts_without_the_rules_that_keep_it_from_its_host(tmp_path):
    class Refusing(FakeKernel):
        table = ""

        async def apply(self, operations):
            refused = [
                op for op in operations
                if f"table ip {self.table} {{" in str(op) and op.namespace == HOST
            ]  # fmt: skip
            await super().apply([op for op in operations if op not in refused])
            if refused:
                raise OperationFailed("cannot apply nft table: no")

    for table in ("weft", "weft-underlay"):
        made = Rig(tmp_path / table)
        made.kernel = Refusing()
        made.kernel.table = table
        made.start()
        await made.until_all(TaskState.REJECTED)
        assert {s.err for s in made.manager.statuses.values()} == {"cannot apply nft table: no"}
        assert made.runtime.running() == []
        await made.stop()


@simulated
async def test_the_end_is_not_told_while_the_kernel_still_holds_the_sandbox(tmp_path):
    async with rig(tmp_path, tasks=2) as r:
        await r.until_all(TaskState.RUNNING)
        task = r.tasks[0]
        key = next(s.key for s in r.agent.connections.sandboxes if s.workload == task)
        for _ in range(12):
            r.kernel.fail_next(lambda op: isinstance(op, RemoveNamespace) and op.namespace == key)
        began = asyncio.get_running_loop().time()
        await r.manager.want(task, TaskState.SHUTDOWN)
        await r.until(lambda: r.states()[task] == TaskState.SHUTDOWN)
        assert key not in await r.namespaces()
        assert asyncio.get_running_loop().time() - began > 1


@simulated
async def test_flows_leave_a_task_that_no_longer_serves_once_the_rules_say_so(tmp_path):
    flushed = []

    async def flush(namespace, flows):
        flushed.append((namespace, flows))

    made = Rig(tmp_path / "data")
    made.flush_flows = flush
    made.start()
    await made.until_all(TaskState.RUNNING)
    published = {Asked(port.protocol, port.published) for port in WEB}
    assert {flow for _, flows in flushed for flow in flows} == published, "older than their ports"
    flushed.clear()
    gone = made.swarm.tasks[made.tasks[0]]
    made.swarm.set_serving(gone.id, False)
    await made.manager.tell()
    await asyncio.sleep(1)
    addresses = {frozenset({Answered(a.address.ip)}) for a in gone.attachments}
    assert {flows for _, flows in flushed} == addresses
    assert {space for space, _ in flushed} == {
        HOST,
        f"lb_{made.net[:9]}",
        *(s.key for s in made.agent.connections.sandboxes),
    }
    await made.stop()


@simulated
async def test_no_task_runs_where_its_network_has_the_addresses_of_the_gateway_bridge(tmp_path):
    """The manager cannot know: the host chose another subnet than the usual one after the network
    was made."""
    made = Rig(tmp_path / "data", tasks=0)
    hidden = made.swarm.network("hidden", "172.18.7.0/24")
    inner = made.swarm.network("inner", "172.18.8.0/24", internal=True)
    [refused] = made.swarm.service("refused", hidden, on=[1])
    [kept] = made.swarm.service("kept", inner, on=[1])
    made.start()
    states = {refused: TaskState.REJECTED, kept: TaskState.RUNNING}
    await made.until(lambda: {id: s.state for id, s in made.manager.statuses.items()} == states)
    overlap = "its subnet 172.18.7.0/24 overlaps docker_gwbridge of this host (172.18.0.0/16)"
    assert made.manager.statuses[refused].err == f"cannot connect to network hidden: {overlap}"
    assert made.manager.hellos[0].routes == ("172.18.0.0/16", "192.0.2.0/24")
    await made.stop()


@simulated
async def test_managers_are_told_of_routes_that_come_later(tmp_path):
    """As when a VPN is switched on: the next network is to keep away from it."""
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        await asyncio.sleep(4 * ROUTES_PERIOD)
        assert len(r.manager.hellos) == 1
        r.routes = ("10.200.0.0/16", "192.0.2.0/24")
        await r.until(lambda: len(r.manager.hellos) == 2, 2 * ROUTES_PERIOD)
        assert r.manager.hellos[1].routes == ("172.18.0.0/16", *r.routes)
        await asyncio.sleep(4 * ROUTES_PERIOD)
        assert len(r.manager.hellos) == 2
        assert len(r.runtime.running()) == len(r.tasks)


@simulated
async def test_a_setting_that_cannot_be_had_holds_up_nothing(tmp_path):
    """Nor is all of the kernel read anew because of it, again and again."""
    flushed, read = [], []

    class Refusing(FakeKernel):
        async def apply(self, operations):
            refused = [
                op for op in operations if isinstance(op, SetSysctl) and op.namespace == HOST
            ]
            await super().apply([op for op in operations if op not in refused])
            if refused:
                raise OperationFailed(f"cannot apply {refused[0]}: no")

        async def read(self, desired, only=None):
            read.append(None if only is None else set(only))
            return await super().read(desired, only)

    async def flush(namespace, flows):
        flushed.append(namespace)

    made = Rig(tmp_path / "data", tasks=60)
    made.kernel, made.flush_flows = Refusing(), flush
    made.start()
    await made.until_all(TaskState.RUNNING)
    network = made.agent.networking.loop
    assert {type(f.operation) for f in network.failures} == {SetSysctl}
    flushed.clear()
    made.swarm.set_serving(made.tasks[0], False)
    await made.manager.tell()
    await asyncio.sleep(AUDIT * 2)
    assert {HOST, *(s.key for s in made.agent.connections.sandboxes)} <= set(flushed)
    read.clear()
    await asyncio.sleep(AUDIT * 3)
    assert {len(names) for names in read if names is not None} == {1}
    assert read.count(None) in (2, 3, 4), "the audits"
    await made.stop()


@simulated
async def test_a_host_that_has_rebooted_says_what_it_lost_with_its_first_word(tmp_path):
    """Nobody is to be sent there between the moment in which it is ready and that in which its
    tasks have failed."""
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        await r.stop()
        r.runtime.lose()
        r.kernel = FakeKernel()
        r.start()
        await r.until(lambda: len(r.manager.hellos) == 2)
        assert {task: status.state for task, status in r.manager.hellos[1].ended} == dict.fromkeys(
            r.tasks, TaskState.FAILED
        )
        await r.until_all(TaskState.FAILED)
        await r.check_gone()


@simulated
async def test_a_host_that_has_rebooted_with_no_manager_in_reach_starts_what_it_had(tmp_path):
    """As the same tasks: a manager that comes later finds them running."""
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        before = {c.id for c in r.runtime.running()}
        r.manager.reachable = False
        await r.stop()
        ended = r.runtime.running()[0].id
        r.runtime.die(ended, 7)
        r.runtime.lose()
        r.kernel = FakeKernel()
        r.start()
        await r.until(lambda: {c.id for c in r.runtime.running()} == before - {ended})
        assert {s.key for s in r.agent.connections.sandboxes} <= await r.namespaces()
        r.manager.reachable = True
        await r.until(lambda: len(r.manager.hellos) == 2)
        await r.until(
            lambda: (
                sorted(r.states().values())
                == [TaskState.RUNNING, TaskState.RUNNING, TaskState.FAILED]
            )
        )
        assert {c.id for c in r.runtime.running()} == before - {ended}


async def _no_flush(namespace, backends):
    """For tests that do not look."""


@simulated
async def test_tasks_that_a_full_disk_cannot_keep_are_rejected_and_all_else_goes_on(tmp_path):
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        write = r.agent.disk.keep

        def refuse(assignment):
            raise OperationFailed("cannot write assignment: No space left on device")

        def state(task):
            return r.manager.statuses[task].state if task in r.manager.statuses else TaskState.NEW

        r.agent.disk.keep = refuse
        [late] = r.swarm.service("late", r.net, on=[1])
        await r.manager.want(r.tasks[0], TaskState.SHUTDOWN)
        await r.until(lambda: state(late) == TaskState.REJECTED)
        assert "No space left" in r.manager.statuses[late].err
        await r.until(lambda: state(r.tasks[0]) > TaskState.RUNNING)
        assert all(state(task) == TaskState.RUNNING for task in r.tasks[1:])
        assert len(r.manager.hellos) == 1, "the session goes on"

        r.agent.disk.keep = write
        r.swarm.remove(late)
        [later] = r.swarm.service("later", r.net, on=[1])
        await r.manager.tell()
        await r.until(lambda: state(later) == TaskState.RUNNING)


def fail_once(holder, name, error):
    """The next call of the method raises; those after it do what they did. Gives whether it has."""
    method, failed = getattr(holder, name), []

    def failing(*args, **kwargs):
        if failed:
            return method(*args, **kwargs)
        failed.append(name)
        raise error

    setattr(holder, name, failing)
    return failed


@simulated
async def test_one_task_that_cannot_be_accepted_is_reported_and_holds_back_no_other(tmp_path):
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        late = r.swarm.service("late", r.net, on=[1, 1])
        fail_once(r.agent, "_accept", KeyError("a mistake"))
        await r.manager.tell()
        await r.until(lambda: all(task in r.manager.statuses for task in late))
        await r.until(lambda: r.manager.statuses[late[1]].state == TaskState.RUNNING)
        status = r.manager.statuses[late[0]]
        assert (status.state, status.err) == (
            TaskState.REJECTED,
            "cannot accept task: internal error: KeyError('a mistake')",
        )
        assert len(r.manager.hellos) == 1, "the session goes on"


@simulated
async def test_an_assignment_that_cannot_be_applied_is_reported_and_asked_for_again(tmp_path):
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        farewells, apply = [], r.agent.uplink._apply

        def refuse(change):
            farewells.append(r.manager.sessions[0].closing)
            raise KeyError("a mistake")

        r.agent.uplink._apply = refuse
        await r.manager.tell()
        await asyncio.sleep(30)
        assert 5 <= len(farewells) <= 10, "with pauses that grow"
        assert (
            farewells[0].reason
            == "cannot apply AssignmentUpdate: internal error: KeyError('a mistake')"
        )
        r.agent.uplink._apply = apply
        [late] = r.swarm.service("late", r.net, on=[1])
        await r.until(lambda: late in r.manager.statuses)
        await r.until(lambda: r.manager.statuses[late].state == TaskState.RUNNING)
        assert len(r.runtime.running()) == len(r.tasks) + 1
        assert set(r.happened("start").values()) == {1}


@simulated
async def test_a_word_of_a_manager_that_cannot_be_taken_over_ends_no_session(tmp_path):
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        for _ in range(2):
            failed = fail_once(r.agent.uplink, "_hear", OperationFailed("No space left on device"))
            await r.manager.sessions[0].send(Managers((("m2", "192.0.2.9:2377"),)))
            await r.until(lambda failed=failed: failed)
        await asyncio.sleep(60)
        assert len(r.manager.hellos) == 1


@pytest.mark.parametrize("error", [KeyError("a mistake"), OSError(24, "Too many open files")])
@pytest.mark.parametrize("part", ["connect", "echo", "kernel", "stale flows", "worker"])
def test_no_part_of_the_agent_that_fails_ends_the_agent(tmp_path, part, error):
    async def scene():
        r = Rig(tmp_path)
        holder, name = {
            "connect": (r.manager, "connect"),
            "echo": (r, "open_echo"),
            "kernel": (r.kernel, "changed"),
            "stale flows": (r, "flush_flows"),
            "worker": (r.runtime, "get"),
        }[part]
        r.open_echo = lambda: FakeEcho(lambda address: address == MANAGER)
        failed = fail_once(holder, name, error)
        open_echo, r.open_echo = r.open_echo, lambda: open_echo()
        r.start()
        await r.until_all(TaskState.RUNNING)
        r.swarm.remove(r.tasks[0])
        await r.manager.tell()
        await r.until(lambda: len(r.runtime.running()) == len(r.tasks) - 1)
        await asyncio.sleep(60)
        assert failed
        assert not r.run.done()
        assert len(r.runtime.running()) == len(r.tasks) - 1
        await r.stop()

    virtual_time.run(scene())

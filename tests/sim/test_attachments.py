"""Plain containers on networks of the swarm, as the node's agent keeps them: on a kernel, a runtime
and a manager in memory, on virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support import virtual_time
from tests.support.agent_rig import Rig, simulated
from tests.support.engines import nobody
from tests.support.local_node import LocalNode
from weft.engine.adapters import NameAdapters, NetworkAdapters
from weft.engine.local_networks import LocalNetworks
from weft.engine.local_overlays import LocalOverlays
from weft.engine.plain_containers import PlainContainers
from weft.engine.reattachment import Reattachment
from weft.errors import NotFound, OperationFailed, Unavailable
from weft.linux.fake import FakeKernel
from weft.model.assignment import TaskAssignment
from weft.model.attached import AttachmentGrant
from weft.model.bridge_network import BridgeNetworkSpec
from weft.model.container_request import ContainerRequest
from weft.model.endpoint_settings import EndpointSettings
from weft.model.ids import ContainerId, TaskId
from weft.model.local_sandbox import LocalSandbox
from weft.model.plain_container import NamespaceModes, PlainContainer
from weft.model.service import ContainerSpec
from weft.model.task import TaskState
from weft.network.kernel_state import HOST
from weft.network.ownership import gateway_port, overlay_namespace


class Node(Rig):
    """A node with a service's tasks and containers of its own, and daemons one after the other."""

    def start(self) -> None:
        self.records = self.data.parent / "networks"
        super().start()
        self.plain = PlainContainers(self.agent.engine, "node1")
        self.reattachment = Reattachment(self.agent.engine, self.plain)
        self.plain.resume()
        self.reattachment.resume()

    async def stop(self) -> None:
        await self.reattachment.close()
        await self.plain.close()
        await super().stop()

    async def attached(self, name: str, *networks: str) -> ContainerId:
        """A container that runs on these networks."""
        wanted = tuple(EndpointSettings(network=network) for network in networks or ("demo-net",))
        plain = PlainContainer(modes=NamespaceModes(network=wanted[0].network), networks=wanted)
        spec = ContainerSpec(image="demo", hostname=name)
        id = await self.plain.create(ContainerRequest(name=name, spec=spec, plain=plain))
        await self.plain.start(id)
        return id

    def place(self, id: ContainerId) -> LocalSandbox:
        found = self.agent.engine.local.sandbox(id)
        assert found is not None
        return found

    @property
    def local(self) -> LocalNetworks:
        return self.agent.engine.local

    @property
    def overlays(self) -> LocalOverlays:
        return self.local.overlays

    def places(self) -> dict[str, TaskAssignment]:
        """What the manager has granted and not heard the end of, by the container's name."""
        tasks = self.swarm.tasks.values()
        return {t.attached.name: t for t in tasks if t.attached is not None and not self.over(t.id)}

    def over(self, id: str) -> bool:
        status = self.manager.statuses.get(TaskId(id))
        return status is not None and status.state.is_terminal

    def state(self, id: str) -> TaskState | None:
        status = self.manager.statuses.get(TaskId(id))
        return None if status is None else status.state

    async def take_away(self, name: str) -> str:
        """The manager gives the container up, as after a day without the node."""
        gone = self.places()[name].id
        self.swarm.detach(gone)
        await self.manager.tell()
        return gone


@asynccontextmanager
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path / "data", tasks=2)
    made.start()
    try:
        await made.until_all(TaskState.RUNNING)
        yield made
    finally:
        await made.stop()
        for server in made.manager.servers:
            server.cancel()


@simulated
async def test_a_container_gets_its_place_and_its_end_is_told(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        id = await made.attached("own")
        place, task = made.place(id), made.places()["own"]
        [endpoint] = place.overlays
        assert (str(endpoint.attachment), endpoint.address) == (
            str(task.id),
            task.attachments[0].address,
        )
        await made.until(lambda: made.state(task.id) is TaskState.RUNNING)
        space = made.kernel.spaces[overlay_namespace(made.net)]
        assert f"veth{endpoint.port}" in space.devices
        assert {"eth0", "eth1"} <= set(made.kernel.spaces[place.key].devices)
        assert gateway_port(place.id) in made.kernel.spaces[HOST].devices
        zone = made.agent.engine.local._zone(place)
        assert zone.addresses("own") == (endpoint.address.ip,)
        assert zone.addresses("web") is not None
        made.runtime.die(id, 0)
        await made.until(lambda: made.over(task.id))
        assert place.key not in made.kernel.spaces
        assert f"veth{endpoint.port}" not in space.devices


@simulated
async def test_tasks_and_containers_take_nothing_from_each_other(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        ids = [await made.attached(f"own{number}") for number in range(3)]
        made.tasks += made.swarm.service("late", made.net, on=[1, 1])
        await made.manager.tell()
        await made.until_all(TaskState.RUNNING)
        ids += [await made.attached("last")]
        places = [made.place(id) for id in ids]
        tasks = made.agent.connections.sandboxes
        gateways = [s.gateway for s in tasks] + [p.gateway for p in places]
        ports = [s.ports[made.net] for s in tasks] + [p.overlays[0].port for p in places]
        assert len(set(gateways)) == len(set(ports)) == len(tasks) + len(places) == 8


@simulated
async def test_a_grant_that_does_not_arrive_is_given_back(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        made.manager.is_mute = True
        with pytest.raises(Unavailable, match="Could not attach to network demo-net: no answer"):
            await made.attached("own")
        granted = made.manager.requests[0].id
        await made.until(lambda: made.over(granted))
        made.manager.is_mute = False
        [container] = [c for c in made.agent.engine.containers.values() if c.is_plain]
        await made.plain.start(container.config.id)
        assert (granted, TaskState.COMPLETE) in [
            (id, status.state) for id, status in made.manager.requests[1].ended
        ], "the manager may not have heard of the end"


@simulated
async def test_a_network_that_no_manager_tells_of_is_waited_for_so_long(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        late = made.swarm.network("late", "10.11.0.0/24")
        made.manager.without.add(late)
        with pytest.raises(Unavailable, match="no manager has told this node of the network"):
            await made.attached("own", "late")
        await made.until(lambda: made.over(made.manager.requests[0].id))
        assert not made.overlays.held()


@simulated
async def test_a_place_that_a_killed_daemon_did_not_use_is_given_back(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        await made.attached("own")
        used = made.places()["own"].id
        wanted = made.manager.requests[0].wanted
        made.swarm.attach(TaskId("unused"), made.net, wanted)
        await made.kill()
        made.start()
        await made.until(lambda: made.over("unused"))
        assert made.state(used) is TaskState.RUNNING


@simulated
async def test_a_killed_daemon_takes_nothing_from_a_container(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        id = await made.attached("own")
        place, task = made.place(id), made.places()["own"]
        made.manager.reachable = False
        await made.manager.drop()
        await made.kill()
        made.opened.clear()
        made.start()
        await made.until(lambda: made.opened.count(place.key))
        assert made.place(id) == place
        assert place.key in made.kernel.spaces
        made.runtime.die(id, 0)
        await made.until(lambda: place.key not in made.kernel.spaces)
        made.manager.reachable = True
        await made.until(lambda: made.over(task.id))


async def alone(made: Node) -> None:
    """No manager is in reach from now on."""
    made.manager.reachable = False
    await made.manager.drop()
    await made.until(lambda: made.agent.uplink.error)


async def restarted(made: Node, id: ContainerId) -> None:
    container = made.agent.engine.container(id)
    assert container is not None
    await made.plain.restart(container)


@simulated
async def test_a_container_has_its_place_again_while_no_manager_answers(tmp_path: Path) -> None:
    """Restarted under one daemon, and started under the next as after a reboot."""
    async with node(tmp_path) as made:
        id = await made.attached("own")
        place, task = made.place(id), made.places()["own"]
        await made.until(lambda: made.state(task.id) is TaskState.RUNNING)
        await alone(made)
        async with asyncio.timeout(1):
            await restarted(made, id)
        assert made.place(id).overlays == place.overlays
        assert set(made.kernel.spaces[place.key].devices) >= {"eth0", "eth1"}
        await made.stop()
        made.runtime.die(id, 255)
        made.start()
        await made.until(lambda: made.agent.uplink.error)
        assert not made.overlays.held()
        await made.plain.start(id)
        assert made.place(id).overlays == place.overlays
        asked = len(made.manager.requests)
        made.manager.reachable = True
        await made.until(lambda: made.agent.uplink.connected)
        await asyncio.sleep(10)
        assert made.place(id).overlays == place.overlays
        assert [status.state for id, status in made.manager.log if id == task.id][-1] is (
            TaskState.RUNNING
        )
        assert len(made.manager.requests) == asked


@simulated
async def test_a_place_that_the_managers_gave_away_meanwhile_is_left(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        id = await made.attached("own")
        await alone(made)
        gone = await made.take_away("own")
        await restarted(made, id)
        [endpoint] = made.place(id).overlays
        assert str(endpoint.attachment) == gone
        made.manager.reachable = True
        await made.until(lambda: "own" in made.places() and made.place(id).overlays != (endpoint,))
        await made.until(lambda: made.place(id).overlays)
        [endpoint] = made.place(id).overlays
        assert str(endpoint.attachment) == str(made.places()["own"].id)


@simulated
async def test_a_place_of_which_a_manager_may_know_the_end_is_not_used(tmp_path: Path) -> None:
    """Whoever starts the container hears so soon. No other container gets a place that is kept, and
    its end is told once a manager is back."""
    async with node(tmp_path) as made:
        stopped, kept = await made.attached("stopped"), await made.attached("kept")
        container = made.agent.engine.container(stopped)
        assert container is not None
        await made.plain.stop(container)
        await alone(made)
        made.runtime.die(kept, 0)
        await made.until(lambda: not made.overlays.held())
        place = made.places()["kept"].id

        async def never(request: object) -> AttachmentGrant:
            await asyncio.Event().wait()
            raise AssertionError

        made.agent.attachments._ask = never
        for start in (made.plain.start(stopped), made.attached("new")):
            async with asyncio.timeout(6):
                with pytest.raises(
                    Unavailable,
                    match="Could not attach to network demo-net: no manager answers: ",
                ):
                    await start
        assert not made.over(place)
        made.manager.reachable = True
        await made.until(lambda: made.over(place))


@simulated
async def test_a_container_that_was_given_up_gets_another_place(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        id = await made.attached("own")
        gone = await made.take_away("own")
        await made.until(lambda: "own" in made.places() and made.place(id).overlays)
        [endpoint] = made.place(id).overlays
        assert str(endpoint.attachment) == str(made.places()["own"].id) != gone
        await made.until(lambda: made.state(endpoint.attachment) is TaskState.RUNNING)
        assert made.runtime.running(), "it was not restarted for that"


@simulated
async def test_a_container_without_its_place_waits_for_a_manager(tmp_path: Path) -> None:
    """Over the death of the daemon, too; until its user does not want the network any more."""
    async with node(tmp_path) as made:
        id, other = await made.attached("own"), await made.attached("other")
        made.manager.is_mute = True
        for name in ("own", "other"):
            await made.take_away(name)
        await made.until(lambda: not made.overlays.held())
        container = made.agent.engine.container(other)
        assert container is not None
        await made.plain.disconnect(container, "demo-net", force=False)
        await made.kill()
        made.start()
        await asyncio.sleep(100)
        assert not made.overlays.held()
        made.manager.is_mute = False
        await made.until(lambda: made.overlays.held(), 100)
        await asyncio.sleep(100)
        assert {place.container for place in made.overlays.held().values()} == {id}


@simulated
async def test_another_name_is_told_until_a_manager_takes_it(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        id = await made.attached("own")
        container = made.agent.engine.container(id)
        assert container is not None
        made.manager.reachable = False
        await made.plain.rename(container, "shop")
        await asyncio.sleep(10)
        assert "own" in made.places()
        made.manager.reachable = True
        await made.until(lambda: list(made.places()) == ["shop"])
        [endpoint] = made.place(id).overlays
        assert str(endpoint.attachment) == str(made.places()["shop"].id)


@simulated
async def test_both_kinds_of_networks_share_a_sandbox(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        await made.agent.engine.local.create(BridgeNetworkSpec(name="back"))
        id = await made.attached("own", "demo-net", "back")
        place = made.place(id)
        devices = set(made.kernel.spaces[place.key].devices) - {"lo"}
        # The way out is the bridge's, so docker_gwbridge, which would be eth1, is not needed.
        assert devices == {"eth0", "eth2"}
        assert gateway_port(place.id) not in made.kernel.spaces[HOST].devices
        container = made.agent.engine.container(id)
        assert container is not None
        await made.plain.disconnect(container, "back", force=False)
        await made.until(lambda: gateway_port(place.id) in made.kernel.spaces[HOST].devices)
        await made.plain.disconnect(container, "demo-net", force=False)
        await made.until(lambda: not made.places())
        assert set(made.kernel.spaces[place.key].devices) <= {"lo"}


@simulated
async def test_subnets_that_overlap_are_refused(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        made.swarm.network("twin", "10.10.10.0/25")
        with pytest.raises(OperationFailed, match=r"10\.10\.10\.0/25 overlaps 10\.10\.10\.0/24"):
            await made.attached("own", "demo-net", "twin")
        await made.until(lambda: not made.places())


def test_a_daemon_that_does_not_know_its_swarm_yet_can_be_asked_later(tmp_path: Path) -> None:
    """After a reboot containers are started again before the agent runs."""

    async def main() -> None:
        kernel = FakeKernel()
        names = NameAdapters(open_resolver=nobody)
        made = LocalNode(kernel, NetworkAdapters(kernel=kernel, names=names))
        made.start()
        with pytest.raises(Unavailable, match="the daemon has not found its swarm yet"):
            await made.run("own", "demo-net")
        made.loop.desire_swarm(None)
        with pytest.raises(NotFound, match="network demo-net not found"):
            await made.run("own", "demo-net")
        await made.stop()

    virtual_time.run(main())


@simulated
async def test_a_node_that_has_left_has_no_such_networks(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        id = await made.attached("own")
        await made.reattachment.leave_swarm()
        assert made.place(id).overlays == ()
        container = made.agent.engine.container(id)
        assert container is not None
        assert container.config.plain is not None
        assert container.config.plain.networks == ()
        made.run.cancel()
        await asyncio.wait((made.run,))
        with pytest.raises(NotFound, match="network demo-net not found"):
            await made.attached("late")

"""A node's own networks on a kernel in memory, on virtual time: what is kept, what is given back, and
how they and a swarm leave each other alone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from tests.support import virtual_time
from tests.support.agent_rig import Rig, rig
from tests.support.engines import nobody
from tests.support.local_node import DEFAULT, LocalNode, container_id, local_node
from weft.engine.adapters import NameAdapters
from weft.errors import (
    Conflict,
    Forbidden,
    InvalidArgument,
    OperationFailed,
    Unavailable,
    WeftError,
)
from weft.linux.fake import FakeKernel
from weft.model.bridge_network import BridgeNetworkSpec
from weft.model.endpoint_settings import EndpointSettings
from weft.model.local_sandbox import sandbox_id
from weft.model.service import ContainerSpec, PublishedPort
from weft.model.task import TaskState
from weft.network.kernel_state import HOST
from weft.network.operations import AddLink, RemoveLink
from weft.network.ownership import BRIDGE_MESH_TABLE, BRIDGE_TABLE

WEB = PublishedPort(80, 8080)


def on_a_node(
    tmp_path: Path, story: Callable[[LocalNode, FakeKernel], Awaitable[None]], **adapters: Any
) -> None:
    async def main() -> None:
        kernel = FakeKernel()
        names = NameAdapters(open_resolver=nobody)
        async with local_node(kernel, names, tmp_path / "networks", **adapters) as node:
            await story(node, kernel)

    virtual_time.run(main())


def links(kernel: FakeKernel) -> set[str]:
    return set(kernel.spaces[HOST].devices)


def test_a_container_gets_all_of_its_network_and_gives_all_of_it_back(tmp_path: Path) -> None:
    async def story(node: LocalNode, kernel: FakeKernel) -> None:
        await node.networks.create(BridgeNetworkSpec(name="back"))
        empty = links(kernel)
        place = await node.run("web", "back", "bridge", ports=[WEB])
        assert place.key in kernel.spaces
        assert {"docker0", f"wbr-{place.id[:9]}00", f"wbr-{place.id[:9]}01"} <= links(kernel)
        assert [str(e.address) for e in place.endpoints] == ["172.18.0.2/16", "172.17.0.2/16"]
        assert list(node.networks.endpoints(place.container)) == ["back", "bridge"]
        await node.networks.disconnect(place.container)
        assert place.key not in kernel.spaces
        assert links(kernel) == empty
        assert node.networks.sandbox(place.container) is None
        assert (await node.run("next", "back", ports=[WEB])).endpoints[0].address.ip == IPv4Address(
            "172.18.0.2"
        )
        await node.networks.disconnect(container_id("next"))
        await node.networks.remove("back")
        assert not [name for name in links(kernel) if name.startswith("br-")]
        assert [told for told in node.told() if told[1] == "back"] == [
            ("create", "back"), ("connect", "back"), ("disconnect", "back"), ("connect", "back"),
            ("disconnect", "back"), ("destroy", "back"),
        ]  # fmt: skip

    on_a_node(tmp_path, story)


def test_a_container_without_a_network_has_a_namespace_of_its_own(tmp_path: Path) -> None:
    async def story(node: LocalNode, kernel: FakeKernel) -> None:
        place = await node.run("alone", "none", ports=[WEB])
        assert place.key in kernel.spaces
        assert (place.endpoints, place.ports) == ((), ())
        assert not node.networks.has_names(place.container)
        assert "docker0" not in links(kernel)

    on_a_node(tmp_path, story)


@pytest.mark.parametrize(
    ("wanted", "kind", "text"),
    [
        (("lost",), WeftError, "network lost not found"),
        (("back", "host"), InvalidArgument, "sharing network namespace with another container"),
        (("back", "none"), InvalidArgument, "in private (none) mode"),
        (("back", "back"), Conflict, "already exists in network back"),
        ((EndpointSettings(network="bridge", address=IPv4Address("172.17.0.9")),), InvalidArgument,
         "user-specified IP address is supported on user-defined networks only"),
        ((EndpointSettings(network="bridge", aliases=("a",)),), InvalidArgument,
         "network-scoped aliases are only supported for user-defined networks"),
        ((EndpointSettings(network="back", address=IPv4Address("172.18.0.1")),), Forbidden,
         "Address already in use"),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_nothing(
    tmp_path: Path, wanted: tuple[Any, ...], kind: type[WeftError], text: str
) -> None:
    async def story(node: LocalNode, kernel: FakeKernel) -> None:
        await node.networks.create(BridgeNetworkSpec(name="back"))
        before = (links(kernel), set(kernel.spaces))
        with pytest.raises(kind) as error:
            await node.run("web", *wanted)
        assert text in str(error.value)
        await node.loop.settled()
        assert (links(kernel), set(kernel.spaces)) == before

    on_a_node(tmp_path, story)


def test_what_the_kernel_refuses_is_taken_back(tmp_path: Path) -> None:
    async def story(node: LocalNode, kernel: FakeKernel) -> None:
        refused = True
        kernel_apply = kernel._attempt

        def attempt(operation: Any) -> str | None:
            if refused and isinstance(operation, AddLink) and operation.link.name.startswith("wbr"):
                return "No buffer space available"
            return kernel_apply(operation)

        kernel._attempt = attempt  # type: ignore[method-assign]
        with pytest.raises(OperationFailed, match="No buffer space available"):
            await node.run("web", "bridge", ports=[WEB])
        assert node.networks.sandbox(container_id("web")) is None
        refused = False
        await node.run("web", "bridge", ports=[WEB])

    on_a_node(tmp_path, story)


def test_the_next_daemon_finds_networks_and_running_containers(tmp_path: Path) -> None:
    async def story(node: LocalNode, kernel: FakeKernel) -> None:
        made = await node.networks.create(BridgeNetworkSpec(name="back", labels={"a": "b"}))
        web = await node.run("web", "back", ports=[PublishedPort(80)])
        await node.run("gone", "back")
        node.running = [c for c in node.running if c.id == web.container]
        history = len(kernel.history)
        await node.restart()
        node.loop.desire_swarm(None)
        await node.loop.settled()
        assert node.networks.get(made.id[:5]) == made
        assert node.networks.sandbox(web.container) == web
        assert node.networks.sandbox(container_id("gone")) is None
        assert {o.namespace for o in kernel.history[history:]} <= {
            HOST, node_key("gone"),
        }  # fmt: skip
        assert web.key in kernel.spaces
        assert node_key("gone") not in kernel.spaces

    on_a_node(tmp_path, story)


def node_key(name: str) -> str:
    return sandbox_id(container_id(name))[:12]


@pytest.mark.parametrize("content", [b"", b"\x81", b"nonsense"])
def test_a_damaged_file_harms_one_network(tmp_path: Path, content: bytes) -> None:
    async def story(node: LocalNode, kernel: FakeKernel) -> None:
        back = await node.networks.create(BridgeNetworkSpec(name="back"))
        await node.networks.create(BridgeNetworkSpec(name="front"))
        await node.run("web", "front")
        (tmp_path / "networks" / back.id).write_bytes(content)
        (tmp_path / "networks" / "sandboxes").write_bytes(content)
        await node.restart()
        node.loop.desire_swarm(None)
        await node.loop.settled()
        assert [n.name for n in node.networks.all()] == ["bridge", "front"]
        assert node.networks.sandbox(container_id("web")) is None

    on_a_node(tmp_path, story)


def test_routes_and_foreign_bridges_are_kept_clear_of(tmp_path: Path) -> None:
    async def story(node: LocalNode, kernel: FakeKernel) -> None:
        made = await node.networks.create(BridgeNetworkSpec(name="back"))
        assert made.subnet == IPv4Network("172.19.0.0/16")
        with pytest.raises(WeftError, match="cannot make bridge docker0 of network bridge"):
            await node.run("web", "bridge")
        with pytest.raises(WeftError, match="cannot make bridge mine0 of network other"):
            await node.networks.create(BridgeNetworkSpec(name="other", device="mine0"))
        assert node.networks.get(DEFAULT).name == "bridge"

    taken = [IPv4Network("172.17.0.0/16"), IPv4Network("172.16.0.0/15")]
    on_a_node(
        tmp_path, story, routes=lambda: taken, foreign_links=lambda: ["eth0", "docker0", "mine0"]
    )


def test_a_port_at_one_address_is_not_taken_at_another(tmp_path: Path) -> None:
    async def story(node: LocalNode, kernel: FakeKernel) -> None:
        at = [IPv4Address(f"192.0.2.{last}") for last in (1, 2)]
        await node.run("web", "bridge", ports=[PublishedPort(80, 8080, host_address=at[0])])
        for address, taken in ((at[0], True), (at[1], False), (None, True)):
            asked = PublishedPort(81, 8080, host_address=address)
            assert node.networks.publishes(asked) == taken

    on_a_node(tmp_path, story)


# --- beside a swarm


@asynccontextmanager
async def member(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as made:
        await made.until_all(TaskState.RUNNING)
        yield made


def test_a_swarm_and_the_node_s_own_networks_leave_each_other_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with member(tmp_path) as made:
            local = made.agent.engine.local
            spec = ContainerSpec(image="demo")
            own = container_id("own")
            with pytest.raises(WeftError, match="Bind for 0.0.0.0:8080 failed"):
                await local.connect(own, "own", spec, [EndpointSettings(network="bridge")], [WEB])
            back = await local.create(BridgeNetworkSpec(name="back"))
            assert back.subnet == IPv4Network("172.19.0.0/16"), "docker_gwbridge has the first"
            port = PublishedPort(80, 9090)
            place = await local.connect(
                own, "own", spec, [EndpointSettings(network="back")], [port]
            )
            await made.check_running()
            before = len(made.kernel.history)
            await made.agent.close()
            await made.agent.leave()
            left = made.kernel.spaces
            assert set(left) == {HOST, place.key}
            touched = [str(o) for o in made.kernel.history[before:]]
            own_names = (place.key, back.device, "wbr-", BRIDGE_TABLE)
            of_swarm = ("weft-underlay", BRIDGE_MESH_TABLE)
            assert not [
                words
                for words in touched
                if any(name in words for name in own_names)
                and not any(name in words for name in of_swarm)
            ]
            await local.disconnect(own)
            await local.remove("back")
            assert not left[HOST].devices
            assert not left[HOST].tables

    virtual_time.run(main())


def test_nothing_is_touched_before_both_parts_are_told(tmp_path: Path) -> None:
    """The swarm's part is told late if no manager is in reach and nothing was kept."""

    async def main() -> None:
        kernel = FakeKernel()
        async with local_node(kernel, NameAdapters(open_resolver=nobody)) as node:
            await node.run("web", "bridge")
            node.running.clear()
            await node.stop()
            node._new()
            node.start()
            await asyncio.sleep(60)
            assert "docker0" in links(kernel)
            with pytest.raises(Unavailable, match="nothing happened for 30 s"):
                await node.run("next", "bridge")
            node.loop.desire_swarm(None)
            await node.loop.settled()
            assert "docker0" not in links(kernel)
            await node.run("next", "bridge")
            kernel.damage(RemoveLink(HOST, "docker0"))
            await asyncio.sleep(2)
            assert "docker0" in links(kernel)

    virtual_time.run(main())


def test_a_container_that_starts_alone_does_not_wait_for_others(tmp_path: Path) -> None:
    """Those that follow it at once share a round."""

    async def story(node: LocalNode, kernel: FakeKernel) -> None:
        now = asyncio.get_running_loop().time

        async def started(name: str) -> float:
            await node.run(name, "bridge")
            return now()

        for _ in range(2):
            await asyncio.sleep(1)
            begun = now()
            assert await started("first") == begun
            others = {await end for end in asyncio.as_completed(map(started, "abc"))}
            assert len(others) == 1
            assert others != {begun}
            await node.networks.disconnect(container_id("first"))

    on_a_node(tmp_path, story)


def test_names_are_answered_again_before_a_manager_is_in_reach(tmp_path: Path) -> None:
    async def main() -> None:
        answered: list[str] = []

        async def open_resolver(path: Path, *place: Any) -> Any:
            answered.append(path.name)
            return await nobody(path, *place)

        names = NameAdapters(open_resolver=open_resolver)
        async with local_node(FakeKernel(), names, tmp_path / "networks") as node:
            await node.networks.create(BridgeNetworkSpec(name="back"))
            place = await node.run("web", "back")
            await node.stop()
            node._new()
            node.start()
            await asyncio.sleep(0.01)
            assert answered == 2 * [place.key]
            assert not node.loop.is_settled

    virtual_time.run(main())


def test_a_prune_leaves_what_others_remove_or_use_meanwhile(tmp_path: Path) -> None:
    async def story(node: LocalNode, kernel: FakeKernel) -> None:
        for name in ("a", "b", "c"):
            await node.networks.create(BridgeNetworkSpec(name=name))
        pruning = asyncio.ensure_future(node.networks.prune(lambda network: True))
        await asyncio.sleep(0)
        await asyncio.gather(node.networks.remove("b"), node.run("web", "c"))
        assert await pruning == ["a"]
        assert [network.name for network in node.networks.all()] == ["bridge", "c"]

    on_a_node(tmp_path, story)

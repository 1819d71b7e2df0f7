"""A node whose daemon cannot tell what the swarm needs here: its own containers and networks work at
once, and nothing of the swarm's is touched until a manager has told it."""

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.sim.test_attachments import Node, node
from tests.support.agent_rig import simulated
from weft.errors import WeftError
from weft.model.bridge_network import BridgeNetworkSpec
from weft.model.ids import ContainerId
from weft.network.kernel_state import HOST, KernelState, Namespace
from weft.network.operations import RemoveLink
from weft.network.ownership import BRIDGE_TABLE, local_port, overlay_namespace

OWN_LINKS = ("docker0", "br-", "wbr-")
SOON = 2.0
"""Seconds: much less than a request waits for the network, or a node for its managers."""


async def restarted_without_swarm(made: Node) -> None:
    """Another daemon, which finds nothing of the agent's on the disk, and no manager."""
    await made.stop()
    shutil.rmtree(made.data)
    made.manager.reachable = False
    await made.manager.drop()
    made.start()


async def of_the_swarm(
    made: Node, planned: KernelState, without: ContainerId
) -> dict[str, Namespace]:
    """The swarm's part of the kernel: namespaces but for this container's, and of the host what is
    no bridge network's. `planned`: tells which sysctls are read."""
    found = (await made.kernel.read(planned)).namespaces
    own = (HOST, made.place(without).key)
    spaces = {name: space for name, space in found.items() if name not in own}
    host = found[HOST]
    links = {n: link for n, link in host.links.items() if not n.startswith(OWN_LINKS)}
    tables = {key: table for key, table in host.tables.items() if key[1] != BRIDGE_TABLE}
    return {**spaces, HOST: Namespace(name=HOST, links=links, tables=tables, rules=host.rules)}


@simulated
async def test_own_networks_work_and_nothing_of_the_swarm_is_touched(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        devices = made.kernel.spaces[HOST].devices
        await made.local.create(BridgeNetworkSpec(name="back"))
        web = await made.attached("web", "bridge")
        both = await made.attached("both", "demo-net", "back")
        place = made.place(both)
        planned = made.planned()
        before = await of_the_swarm(made, planned, web)
        assert {place.key, overlay_namespace(made.net)} <= before.keys()

        await restarted_without_swarm(made)
        loop = made.agent.engine.network
        async with asyncio.timeout(SOON):
            await made.local.create(BridgeNetworkSpec(name="front"))
            late = await made.attached("late", "front")
            gone = made.place(web).key
            made.runtime.die(web, 0)
            await made.until(lambda: "docker0" not in devices)
        port = local_port(made.place(late).id, 0)
        assert port in devices
        assert gone not in made.kernel.spaces
        made.kernel.damage(RemoveLink(HOST, port))
        await made.until(lambda: port in devices)
        assert await loop.differences() == []
        assert await of_the_swarm(made, planned, late) == before
        with pytest.raises(WeftError, match="cannot reach a manager"):
            await made.attached("later", "demo-net")

        made.runtime.die(both, 0)
        await made.until(lambda: place.key not in made.kernel.spaces)
        made.manager.reachable = True
        await made.until(lambda: not made.places())
        await loop.settled()
        assert loop.knows_swarm
        assert await loop.differences() == []
        assert made.place(late).key in made.kernel.spaces
        tasks = {sandbox.key for sandbox in made.agent.connections.sandboxes}
        assert len(tasks) == len(made.tasks)
        assert tasks <= await made.namespaces()

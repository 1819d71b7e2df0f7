"""Whole managers that share a store, with the real etcd beside each; on loopback."""

import asyncio
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import aiohttp
import msgspec
import pytest

from tests.support.members import Host, until
from tests.support.whole_node import WholeNode
from weft.api.server import ApiServer
from weft.errors import OperationFailed, Unavailable
from weft.model.ids import NetworkId
from weft.model.network import NetworkSpec
from weft.model.node import NodeSpec, Role
from weft.model.service import ContainerSpec, NetworkAttachmentSpec, ServiceSpec, TaskSpec
from weft.store.etcd.base import NO_MAJORITY, Changed
from weft.store.etcd.client import GatewayClient
from weft.store.etcd.process import EtcdMember

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("etcd"), reason="needs root and etcd"),
]


async def two_managers(directory: Path) -> tuple[Host, Host]:
    first, second = Host(directory, 31, None), Host(directory, 32, None)
    await first.init()
    await second.join(first.listen, (await first.manager.swarm.join_tokens()).manager)
    await until(
        lambda: (
            len(first.manager.swarm.leadership_status.present)
            == len(second.manager.swarm.leadership_status.present)
            == 2
        )
    )
    return first, second


async def leave(*hosts: Host) -> None:
    for host in hosts:
        if host.member is not None:
            await host.leave()


def part(host: Host) -> EtcdMember:
    return host.up._host.etcd()


async def member_id(host: Host) -> int:
    client = part(host).client()
    try:
        return (await client.status()).member
    finally:
        await client.close()


async def raise_alarm(client: GatewayClient) -> None:
    """As the member does when its quota is reached."""
    asked = {
        "action": "ACTIVATE",
        "memberID": str((await client.status()).member),
        "alarm": "NOSPACE",
    }
    await client._call("maintenance/alarm", asked, dict)


def test_managers_make_room_in_their_store_by_themselves(tmp_path: Path) -> None:
    async def main() -> None:
        first, second = await two_managers(tmp_path)
        clients = [part(host).client() for host in (first, second)]
        try:
            for client in clients:
                await raise_alarm(client)
            with pytest.raises(OperationFailed, match="NOSPACE"):
                await second.manager.swarm.create_network(NetworkSpec(name="refused"))
            await until(lambda: first.manager.swarm.create_network(NetworkSpec(name="n")))
            assert "refused" not in {
                network.spec.name for network in first.manager.swarm.state.networks.values()
            }
        finally:
            for client in clients:
                await client.close()
            await leave(second, first)

    asyncio.run(main())


def test_a_manager_whose_etcd_was_started_without_a_majority_shows_what_it_knew_and_can_go_on_alone(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        first, second = await two_managers(tmp_path)
        try:
            await until(lambda: first.manager.swarm.create_network(NetworkSpec(name="n")))
            before = {network.spec.name for network in first.manager.swarm.state.networks.values()}
            etcds = [part(host) for host in (first, second)]
            for host, etcd in zip((first, second), etcds, strict=True):
                await host.stop()
                await etcd.stop()
            await first.resume()
            await until(lambda: first.manager)
            assert {
                network.spec.name for network in first.manager.swarm.state.networks.values()
            } == before
            assert first.manager.swarm.leadership_status.leader is None
            assert not first.manager.is_serving
            await first.manager.swarm.catch_up()  # with nobody to ask
            with pytest.raises(Unavailable) as refused:
                await first.manager.swarm.create_network(NetworkSpec(name="refused"))
            assert str(refused.value) == NO_MAJORITY
            assert not first.up.agent.uplink.connected

            await first.up.go_on_alone()
            await until(first.leads)
            await until(lambda: first.up.agent.uplink.connected)
            await first.manager.swarm.create_network(NetworkSpec(name="alone"))
            names = {network.spec.name for network in first.manager.swarm.state.networks.values()}
            assert names == before | {"alone"}
        finally:
            await leave(first)
            await second.stop()

    asyncio.run(main())


def networks(host: Host) -> dict[str, int]:
    """Name to version."""
    return {
        network.spec.name: network.meta.version
        for network in host.manager.swarm.state.networks.values()
    }


def has_on_disk(etcd: EtcdMember, network: str) -> bool:
    """In its database, which it writes a moment after its log."""
    return network.encode() in (etcd.settings.data / "member" / "snap" / "db").read_bytes()


def test_who_comes_back_to_a_manager_that_went_on_alone_has_the_same_state(tmp_path: Path) -> None:
    """All of etcd is killed: what a member has applied it need not know to be committed when it is
    started again."""

    async def main() -> None:
        first, second = await two_managers(tmp_path)
        try:
            for number in range(20):
                await until(
                    lambda number=number: first.manager.swarm.create_network(
                        NetworkSpec(name=f"n{number}")
                    )
                )
            before = networks(first)
            etcds = [part(host) for host in (first, second)]
            await first.stop()
            await second.stop()
            await until(lambda: has_on_disk(etcds[0], "n19"))
            for etcd in etcds:
                process = etcd._find()
                assert process is not None
                process.kill(signal.SIGKILL)
                await process.wait()
                process.close()
            await first.resume()
            await until(lambda: first.manager)
            await first.up.go_on_alone()
            assert first.up.member.epoch == first.manager.swarm.cluster.epoch == 1, (
                "or its agent might go to a manager of the former"
            )
            await until(first.leads)
            assert networks(first) == before
            await first.manager.swarm.create_network(NetworkSpec(name="alone"))

            await second.resume()
            await until(lambda: not second.up.is_manager and second.up.member.store == "none")
            await until(lambda: not part(second).has_data)
            node = first.manager.swarm.state.nodes[second.up.member.node]
            await first.manager.swarm.update_node(
                node.id, node.meta.version, msgspec.structs.replace(node.spec, role="manager")
            )
            await until(
                lambda: (
                    len(first.manager.swarm.leadership_status.present)
                    == len(second.manager.swarm.leadership_status.present)
                    == 2
                )
            )
            await until(lambda: second.manager.swarm.create_network(NetworkSpec(name="together")))
            assert networks(second).keys() == before.keys() | {"alone", "together"}
            await until(lambda: networks(first) == networks(second))
        finally:
            await leave(second, first)

    asyncio.run(main())


def test_who_was_removed_while_it_was_down_and_is_to_be_a_manager_again_has_a_new_part(
    tmp_path: Path,
) -> None:
    """Its certificate has been a manager's all the time, and its part of the store is one that
    nobody wants any more."""

    async def main() -> None:
        first, second = await two_managers(tmp_path)
        own = second.up.member.node

        async def change_role(role: Role) -> None:
            node = first.manager.swarm.state.nodes[own]
            await first.manager.swarm.update_node(
                own, node.meta.version, msgspec.structs.replace(node.spec, role=role)
            )

        try:
            before = await member_id(second)
            await second.stop()
            await until(lambda: change_role("worker"))
            await until(lambda: first.manager.swarm.state.nodes[own].role == "worker")
            await until(lambda: change_role("manager"))
            await second.resume()
            await until(
                lambda: (
                    len(first.manager.swarm.leadership_status.present)
                    == len(second.manager.swarm.leadership_status.present)
                    == 2
                )
            )
            assert await member_id(second) != before
            await until(lambda: second.manager.swarm.create_network(NetworkSpec(name="together")))
            await until(lambda: networks(first) == networks(second))
        finally:
            await leave(second, first)

    asyncio.run(main())


def test_a_manager_whose_part_is_taken_out_of_the_store_while_it_runs_takes_another_one(
    tmp_path: Path,
) -> None:
    """By hand, or by managers that have not seen it for long: with the old part it would know
    nothing new ever again."""

    async def main() -> None:
        first, second = await two_managers(tmp_path)
        client = part(first).client()
        try:
            before, running = await member_id(second), second.up._parts.running
            assert before in {member.id for member in await client.members()}
            await until(lambda: client.remove_member(before))
            await until(lambda: second.up._parts.running not in (running, None))
            assert await member_id(second) != before
            await until(
                lambda: (
                    len(first.manager.swarm.leadership_status.present)
                    == len(second.manager.swarm.leadership_status.present)
                    == 2
                )
            )
            await until(lambda: second.manager.swarm.create_network(NetworkSpec(name="together")))
            await until(lambda: networks(first) == networks(second))
        finally:
            await client.close()
            await leave(second, first)

    asyncio.run(main())


class Behind:
    """A manager that sees what others commit only after a while."""

    def __init__(self, host: Host, seconds: float) -> None:
        assert host.up._parts.running is not None
        self._store = cast(Any, host.up._parts.running.store)
        self._apply, self._seconds = self._store._apply, seconds
        self._store._apply = self._later

    def _later(self, changes: Iterable[Changed]) -> None:
        asyncio.get_running_loop().call_later(self._seconds, self._apply, changes)


class Gate(WholeNode):
    """A node that has the manager of another for its own."""

    def __init__(self, host: Host, directory: Path) -> None:
        super().__init__(directory)
        self._host = host

    def swarm(self) -> Any:
        return self._host.manager.swarm


def test_what_was_committed_through_one_manager_is_there_at_once_through_another(
    tmp_path: Path,
) -> None:
    """Asked of the API, in all ways in which an object can be named."""

    async def main() -> None:
        first, second = await two_managers(tmp_path)
        node = Gate(second, tmp_path / "gate")
        api = ApiServer(node)
        path = tmp_path / "docker.sock"
        await api.start(path)
        Behind(second, seconds=0.3)
        try:
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http:
                for turn in range(5):
                    network = await first.manager.swarm.create_network(
                        NetworkSpec(name=f"net{turn}")
                    )
                    assert await status(http, "GET", f"/networks/net{turn}") == 200
                    service = await first.manager.swarm.create_service(
                        service_spec(f"web{turn}", network.id)
                    )
                    assert f"web{turn}" in await names(http, "/services")
                    for reference in (f"web{turn}", service, service[:10]):
                        assert await status(http, "GET", f"/v1.41/services/{reference}") == 200
                    version = first.manager.swarm.state.nodes[first.up.member.node].meta.version
                    spec = NodeSpec("manager", labels={"turn": str(turn)})
                    await first.manager.swarm.update_node(first.up.member.node, version, spec)
                    assert (await body(http, f"/nodes/{first.up.member.node}"))["Spec"][
                        "Labels"
                    ] == {"turn": str(turn)}
                    assert await status(http, "DELETE", f"/services/web{turn}") == 200
                    await first.manager.swarm.catch_up()
                    assert service not in first.manager.swarm.state.services
                other = await first.manager.swarm.create_service(service_spec("last", network.id))
                await first.manager.swarm.remove_service(other)
                assert await status(http, "GET", "/services/last") == 404
        finally:
            await api.close()
            await node.close()
            await leave(second, first)

    asyncio.run(main())


def service_spec(name: str, network: NetworkId) -> ServiceSpec:
    task = TaskSpec(
        container=ContainerSpec(image="demo"), networks=(NetworkAttachmentSpec(network),)
    )
    return ServiceSpec(name=name, replicas=1, task=task)


async def status(http: aiohttp.ClientSession, method: str, path: str) -> int:
    async with http.request(method, f"http://localhost{path}") as response:
        return response.status


async def body(http: aiohttp.ClientSession, path: str) -> Any:
    async with http.get(f"http://localhost{path}") as response:
        return await response.json()


async def names(http: aiohttp.ClientSession, path: str) -> set[str]:
    return {each["Spec"]["Name"] for each in await body(http, path)}

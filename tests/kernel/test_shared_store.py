"""Whole managers that share a store, with the real etcd beside each; on loopback."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from weft.errors import OperationFailed, Unavailable
from weft.model.network import NetworkSpec
from weft.store.etcd.base import NO_MAJORITY
from weft.store.etcd.client import GatewayClient
from weft.store.etcd.process import EtcdMember
from weft.testing.members import Host, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("etcd"), reason="needs root and etcd"),
]


async def two_managers(directory: Path) -> tuple[Host, Host]:
    first, second = Host(directory, 31, None), Host(directory, 32, None)
    await first.init()
    await second.join(first.listen, first.manager.cluster.join_tokens.manager)
    await until(lambda: len(first.manager.standing.present) == len(second.manager.standing.present) == 2)
    return first, second


async def leave(*hosts: Host) -> None:
    for host in hosts:
        if host.member is not None:
            await host.leave()


def part(host: Host) -> EtcdMember:
    return host.up._place.etcd()


async def raise_alarm(client: GatewayClient) -> None:
    """As the member does when its quota is reached."""
    asked = {"action": "ACTIVATE", "memberID": str((await client.status()).member), "alarm": "NOSPACE"}
    await client._call("maintenance/alarm", asked, dict)


def test_managers_make_room_in_their_store_by_themselves(tmp_path: Path) -> None:
    async def main() -> None:
        first, second = await two_managers(tmp_path)
        clients = [part(host).client() for host in (first, second)]
        try:
            for client in clients:
                await raise_alarm(client)
            with pytest.raises(OperationFailed, match="NOSPACE"):
                await second.manager.create_network(NetworkSpec(name="refused"))
            await until(lambda: first.manager.create_network(NetworkSpec(name="n")))
            assert "refused" not in {network.spec.name for network in first.manager.state.networks.values()}
        finally:
            for client in clients:
                await client.close()
            await leave(second, first)

    asyncio.run(main())


def test_a_manager_whose_etcd_was_started_without_a_majority_shows_what_is_on_its_disk_and_can_go_on_alone(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        first, second = await two_managers(tmp_path)
        try:
            await until(lambda: first.manager.create_network(NetworkSpec(name="n")))
            before = {network.spec.name for network in first.manager.state.networks.values()}
            etcds = [part(host) for host in (first, second)]
            for host, etcd in zip((first, second), etcds, strict=True):
                await host.stop()
                await etcd.stop()
            await first.resume()
            await until(lambda: first.manager)
            assert {network.spec.name for network in first.manager.state.networks.values()} == before
            assert first.manager.standing.leader is None
            assert not first.manager.is_serving
            with pytest.raises(Unavailable) as refused:
                await first.manager.create_network(NetworkSpec(name="refused"))
            assert str(refused.value) == NO_MAJORITY
            assert not first.up.agent.uplink.connected

            await first.up.outlive_others()
            await until(first.leads)
            await until(lambda: first.up.agent.uplink.connected)
            await first.manager.create_network(NetworkSpec(name="alone"))
            names = {network.spec.name for network in first.manager.state.networks.values()}
            assert names == before | {"alone"}
        finally:
            await leave(first)
            await second.stop()

    asyncio.run(main())

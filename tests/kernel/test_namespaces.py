"""Network namespaces, and what a host says of itself: sockets and threads in a namespace, addresses
and routes."""

import asyncio
import os
import socket
import subprocess
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Never

import pytest

from tests.kernel.throwaway import Here, in_throwaway, sh
from weft.errors import OperationFailed
from weft.linux import host, netns

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@in_throwaway
def test_host_facts() -> None:
    with Here():
        sh(
            "ip link add ens160 mtu 1400 type veth peer name far && ip addr add 192.0.2.7/24 dev"
            " ens160"
        )
        sh(
            "ip link set ens160 up && ip link set far up && ip route add 198.51.100.0/24 via"
            " 192.0.2.1"
        )
        sh(
            "ip link add docker_gwbridge type bridge && ip addr add 172.18.0.1/16 dev"
            " docker_gwbridge"
        )
        sh("ip link set docker_gwbridge up && ip route add default via 192.0.2.1")
        assert host.default_advertise_address() == IPv4Address("192.0.2.7")
        found = host.interface_with(IPv4Address("192.0.2.7"))
        assert (found.name, found.mtu) == ("ens160", 1400)
        assert host.routes() == [IPv4Network("192.0.2.0/24"), IPv4Network("198.51.100.0/24")]


def test_the_kernel_can_all_we_need() -> None:
    assert host.check_features() == []


def test_a_resolvers_sockets_are_in_the_namespace(tmp_path: Path) -> None:
    def loopback() -> None:
        with Here():
            pass

    def opened(path: Path) -> tuple[socket.socket, socket.socket]:
        return asyncio.run(netns.open_udp_tcp(path, IPv4Address("127.0.0.11"), 61053))

    path = tmp_path / "0123456789ab"
    netns.create(path, loopback)
    try:
        datagrams, stream = opened(path)
        with datagrams, stream:
            shown = netns.run_in(
                path,
                lambda: (
                    subprocess.run(
                        ["ss", "-Hlntu"], capture_output=True, text=True, check=True
                    ).stdout
                ),
            )
            assert sorted(
                line.split()[0] for line in shown.splitlines() if "127.0.0.11:61053" in line
            ) == ["tcp", "udp"]
            with pytest.raises(
                OperationFailed, match="cannot listen on 127.0.0.11:61053 .*Address already in use"
            ):
                opened(path)
        with pytest.raises(OperationFailed, match="cannot enter network namespace"):
            opened(tmp_path / "nothing")
    finally:
        netns.remove(path)


def test_threads_come_back_from_namespaces(tmp_path: Path) -> None:
    """Also from new ones, and if what they did there has failed."""
    path = tmp_path / "0123456789ac"
    netns.create(path, lambda: None)

    def where() -> int:
        return os.stat("/proc/thread-self/ns/net").st_ino

    def fails() -> Never:
        raise OperationFailed("no")

    async def main() -> tuple[list[int | BaseException], list[int]]:
        new = tmp_path / "0123456789ad"
        visits = [
            netns.inside_file(path, where),
            lambda: netns.create_here(new, where),
            netns.inside_file(path, fails),
            lambda: netns.create_here(tmp_path / "0123456789ae", fails),
        ]
        went = await asyncio.gather(*map(netns.on_thread, visits), return_exceptions=True)
        went[1] = went[1] == netns.identity(new)
        netns.remove(new)
        threads = os.cpu_count() or 1
        after = await asyncio.gather(*(asyncio.to_thread(where) for _ in range(threads + 4)))
        return went, after

    try:
        own = where()
        went, after = asyncio.run(main())
        assert went[:2] == [netns.identity(path), True]
        assert [str(error) for error in went[2:]] == ["no", "no"]
        assert set(after) == {own} != {netns.identity(path)}
    finally:
        netns.remove(path)


def test_making_a_namespace_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fails() -> Never:
        raise OperationFailed("no")

    with pytest.raises(OperationFailed):
        netns.create(tmp_path / "0123456789ab", fails)
    assert list(tmp_path.iterdir()) == []

"""Network namespaces, and what a host says of itself: sockets and threads in a namespace, addresses
and routes."""

import asyncio
import os
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

    path = tmp_path / "0123456789ab"
    netns.create(path, loopback)
    try:
        datagrams, stream = netns.open_udp_tcp(path, IPv4Address("127.0.0.11"), 61053)
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
                netns.open_udp_tcp(path, IPv4Address("127.0.0.11"), 61053)
        with pytest.raises(OperationFailed, match="cannot enter network namespace"):
            netns.open_udp_tcp(tmp_path / "nothing", IPv4Address("127.0.0.11"), 61053)
    finally:
        netns.remove(path)


def test_a_thread_from_a_namespace_never_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "0123456789ac"
    netns.create(path, lambda: None)
    try:

        async def main() -> tuple[int, int, set[int]]:
            own = os.stat("/proc/thread-self/ns/net").st_ino
            with path.open() as file:
                inside = await netns.on_thread(
                    netns.inside(file.fileno(), lambda: os.stat("/proc/thread-self/ns/net").st_ino)
                )
            after = await asyncio.gather(
                *(
                    asyncio.to_thread(lambda: os.stat("/proc/thread-self/ns/net").st_ino)
                    for _ in range(4)
                )
            )
            return own, inside, set(after)

        own, inside, after = asyncio.run(main())
        assert inside == netns.identity(path) != own
        assert after == {own}
    finally:
        netns.remove(path)


def test_making_a_namespace_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fails() -> Never:
        raise OperationFailed("no")

    with pytest.raises(OperationFailed):
        netns.create(tmp_path / "0123456789ab", fails)
    assert list(tmp_path.iterdir()) == []

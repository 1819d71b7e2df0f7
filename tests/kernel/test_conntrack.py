"""Flows that are forgotten by the kernel's connection tracking, in a namespace without a name that
ends with the test."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from tests.kernel.throwaway import Here, in_throwaway
from weft.linux import connection_table, conntrack, sysctl
from weft.linux.nft import Nft
from weft.model.flows import TrackedChange
from weft.network.flows import Answered, Asked
from weft.network.kernel_state import Table

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


by_the_kernel_and_by_hand = pytest.mark.parametrize(
    "delete", [conntrack.delete_stuck, conntrack.find_and_delete]
)


@by_the_kernel_and_by_hand
@in_throwaway
def test_udp_flows_to_a_backend_are_forgotten(delete: Callable[..., object]) -> None:
    with Here():
        table = (
            "chain n { type nat hook output priority -100; ip daddr 127.0.0.9 dnat to 127.0.0.2\n"
            " }\nchain c { type filter hook input priority 0; ct state new accept\n }"
        )
        Nft().replace(Table("ip", "t", table))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", ("127.0.0.9", 9999))
            client.sendto(b"x", ("127.0.0.3", 9999))
        for _ in range(2):
            delete(Answered(IPv4Address("127.0.0.2")), Answered(IPv4Address("127.0.0.4")))
        left = subprocess.run(
            "conntrack -L -p udp", shell=True, capture_output=True, text=True, check=True
        ).stdout
        assert "127.0.0.3" in left
        assert "127.0.0.9" not in left


@by_the_kernel_and_by_hand
@in_throwaway
def test_udp_flows_to_a_port_are_forgotten_unless_they_are_translated(
    delete: Callable[..., object],
) -> None:
    """Many ports at once are looked for by hand."""
    with Here():
        table = (
            "chain n { type nat hook output priority -100; ip daddr 127.0.0.9 udp dport 9999 dnat"
            " to 127.0.0.2\nip daddr 127.0.0.9 udp dport 9997 dnat to 127.0.0.2:9996\n }\nchain c {"
            " type filter hook input priority 0; ct state new accept\n }"
        )
        Nft().replace(Table("ip", "t", table))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for asked in (
                ("127.0.0.9", 9999),
                ("127.0.0.3", 9999),
                ("127.0.0.4", 9998),
                ("127.0.0.9", 9997),
            ):
                client.sendto(b"x", asked)
        for ports in ((9999, 9996), range(9999, 9999 + 2 * conntrack.MANY)):
            delete(*(Asked("udp", port) for port in ports), Asked("tcp", 9998), Asked("sctp", 9998))
            left = subprocess.run(
                "conntrack -L -p udp", shell=True, capture_output=True, text=True, check=True
            ).stdout
            kept = {
                line.split("dst=")[1].split()[0] + line.split("dport=")[1].split()[0]
                for line in left.splitlines()
            }
            assert kept == {"127.0.0.99999", "127.0.0.49998", "127.0.0.99997"}
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"x", ("127.0.0.3", 9999))


@by_the_kernel_and_by_hand
@in_throwaway
def test_a_connection_that_nobody_has_answered_chooses_another_backend_when_it_asks_again(
    delete: Callable[..., object],
) -> None:
    """Its SYN is sent again after a second. One that was answered is left alone."""
    with Here():
        nft = Nft()
        dead, alive = IPv4Address("127.0.0.2"), IPv4Address("127.0.0.3")
        mute = (
            f"chain m {{ type filter hook input priority 1; ip daddr {dead} tcp dport 9998 drop\n"
            " }\n"
        )
        choice = (
            "chain n {{ type nat hook output priority -100; ip daddr 127.0.0.9 dnat to {}\n }}\n"
        )
        nft.replace(Table("ip", "t", mute + choice.format(dead)))
        with (
            socket.create_server((str(dead), 9999)) as leadership_status,
            socket.create_server((str(alive), 9998)) as other,
        ):
            kept = socket.create_connection(("127.0.0.9", 9999))
            asking = socket.socket()
            asking.setblocking(False)
            asking.connect_ex(("127.0.0.9", 9998))
            nft.replace(Table("ip", "t", mute + choice.format(alive)))
            for _ in range(2):
                delete(Answered(dead))
            other.settimeout(5)
            with other.accept()[0], leadership_status.accept()[0] as end, kept, asking:
                assert asking.getpeername() == ("127.0.0.9", 9998)
                kept.sendall(b"x")
                end.settimeout(5)
                assert end.recv(1) == b"x"


@in_throwaway
def test_tracked_connections_are_read_and_their_changes_told() -> None:
    """One that is translated, one that is refused; read once, and told by the kernel as they come."""
    with Here():
        sysctl.write(connection_table.COUNTS, "1")
        Nft().replace(
            Table(
                "ip",
                "t",
                "chain n { type nat hook output priority -100; ip daddr 127.0.0.9 tcp dport 9999"
                " dnat to 127.0.0.2:9998\n"
                " }\nchain c { type filter hook input priority 0; ct state new accept\n }",
            )
        )
        told = asyncio.run(_changes())
        table = asyncio.run(connection_table.read_table(None, 100))
    mine = [each for each in table.entries if each.asked.target == IPv4Address("127.0.0.9")]
    assert (table.is_whole, table.counts, len(mine)) == (True, True, 1)
    (found,) = mine
    assert (found.protocol, found.asked.target_port) == (socket.IPPROTO_TCP, 9999)
    assert found.carried == found.asked._replace(target=IPv4Address("127.0.0.2"), target_port=9998)
    assert found.state == "closing"
    assert found.sent is not None
    assert found.received is not None
    assert found.sent.packets > found.received.packets >= 2
    states = {(each.tracked.asked.target_port, each.tracked.state) for each in told}
    assert {(9999, "unanswered"), (9999, "open"), (9999, "closing"), (9997, "refused")} <= states
    assert [each.tracked.asked.target_port for each in told if each.ended] == [9997]


async def _changes() -> list[TrackedChange]:
    """Of one connection that is made and closed, and one that is refused."""
    watch = await connection_table.watch_table(None)
    told: list[TrackedChange] = []
    try:
        with socket.create_server(("127.0.0.2", 9998)) as server:
            client = socket.create_connection(("127.0.0.9", 9999))
            with server.accept()[0]:
                client.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.3", 9997))
        async with asyncio.timeout(30):
            while not any(each.ended for each in told):
                told += await watch.read() or ()
    finally:
        watch.close()
    return told


@in_throwaway
def test_a_table_is_read_no_further_than_wanted() -> None:
    with Here():
        Nft().replace(
            Table("ip", "t", "chain c { type filter hook input priority 0; ct state new accept\n }")
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for port in range(2000):
                client.sendto(b"x", ("127.0.0.1", 10000 + port))
        table = asyncio.run(connection_table.read_table(None, 100))
    assert not table.is_whole
    assert 100 <= len(table.entries) < 1000

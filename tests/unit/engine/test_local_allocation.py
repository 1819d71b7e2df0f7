"""Subnets, addresses and ports that this node's own networks and containers get."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.engine.local_allocation import (
    EPHEMERAL,
    POOLS,
    WantedPort,
    choose_address,
    choose_ports,
    choose_subnet,
)
from weft.errors import Exhausted, Forbidden, InvalidArgument, OperationFailed
from weft.model.addresses import Address, Port, Protocol
from weft.model.bridge_network import BridgeNetwork, BridgeNetworkSpec
from weft.model.host_ports import HostPort
from weft.model.ids import NetworkId
from weft.model.network import Pool
from weft.model.service import PublishedPort


def network(subnet: str, **pool: object) -> BridgeNetwork:
    asked = Pool(IPv4Network(subnet), **pool)  # type: ignore[arg-type]  # its fields differ in type
    return BridgeNetwork(
        id=NetworkId("n1"),
        spec=BridgeNetworkSpec(name="back", pool=asked),
        subnet=asked.subnet,
        gateway=asked.gateway_or_first(),
    )


@given(st.sets(st.sampled_from(POOLS)), st.sets(st.integers(0, 255)))
def test_a_subnet_overlaps_nothing(held: set[IPv4Network], seconds: set[int]) -> None:
    routes = [IPv4Network(f"172.{second}.128.0/17") for second in seconds]
    taken = [*held, *routes]
    free = [pool for pool in POOLS if not any(pool.overlaps(other) for other in taken)]
    if free:
        assert choose_subnet(taken) == free[0]
    else:
        with pytest.raises(Exhausted, match="all predefined address pools have been fully subnet"):
            choose_subnet(taken)


def test_pools_are_docker_s_in_its_order() -> None:
    assert [str(POOLS[i]) for i in (0, 1, 14, 15, -1)] == [
        "172.17.0.0/16", "172.18.0.0/16", "172.31.0.0/16", "192.168.0.0/20", "192.168.240.0/20",
    ]  # fmt: skip


def test_addresses_are_the_lowest_free_ones() -> None:
    made = network("10.1.0.0/29", reserved={"router": IPv4Address("10.1.0.3")})
    held: list[IPv4Address] = []
    while len(held) < 4:
        held.append(choose_address(made, held, None))
    assert list(map(str, held)) == ["10.1.0.2", "10.1.0.4", "10.1.0.5", "10.1.0.6"]
    with pytest.raises(Exhausted, match="no available IPv4 addresses"):
        choose_address(made, held, None)
    held.remove(IPv4Address("10.1.0.4"))
    assert choose_address(made, held, None) == IPv4Address("10.1.0.4")


def test_a_range_bounds_what_is_chosen_and_not_what_is_asked_for() -> None:
    made = network("10.1.0.0/16", ip_range=IPv4Network("10.1.5.0/31"))
    first = choose_address(made, (), None)
    second = choose_address(made, (first,), None)
    assert (str(first), str(second)) == ("10.1.5.0", "10.1.5.1")
    with pytest.raises(Exhausted):
        choose_address(made, (first, second), None)
    wanted = IPv4Address("10.1.9.9")
    assert choose_address(made, (first, second), wanted) == wanted


@pytest.mark.parametrize("taken", ["10.1.0.1", "10.1.0.7", "10.1.0.0", "10.1.255.255", "10.1.0.9"])
def test_an_address_that_others_have(taken: str) -> None:
    made = network("10.1.0.0/16", reserved={"router": IPv4Address("10.1.0.9")})
    with pytest.raises(Forbidden, match="Address already in use"):
        choose_address(made, [IPv4Address("10.1.0.7")], IPv4Address(taken))


def test_an_address_of_another_network() -> None:
    with pytest.raises(InvalidArgument, match=r"no configured subnet contains IP address 10\.2"):
        choose_address(network("10.1.0.0/16"), (), IPv4Address("10.2.0.1"))


LOOPBACK, OWN = IPv4Address("127.0.0.1"), IPv4Address("192.0.2.1")


def nobody(protocol: Protocol, port: Port, address: Address | None) -> None:
    """No program of the host has a port."""


@pytest.mark.parametrize(
    ("taken", "wanted", "is_free"),
    [
        (None, None, False),
        (None, OWN, False),
        (OWN, None, False),
        (OWN, OWN, False),
        (OWN, LOOPBACK, True),
    ],
)
def test_one_port_on_different_addresses(
    taken: IPv4Address | None, wanted: IPv4Address | None, is_free: bool
) -> None:
    port = PublishedPort(80, 8080, host_address=wanted)
    held: list[HostPort] = [HostPort("tcp", 8080, taken)]
    if is_free:
        assert choose_ports([port], None, held, nobody)[0].published == 8080
    else:
        with pytest.raises(OperationFailed, match=r":8080 failed: port is already allocated"):
            choose_ports([port], None, held, nobody)
    assert choose_ports([PublishedPort(80, 8080, "udp")], None, held, nobody)


def test_free_ports_are_those_that_nobody_has() -> None:
    def check(protocol: Protocol, port: Port, address: Address | None) -> None:
        if port == 32769:
            raise OperationFailed("a program has it")

    held: list[HostPort] = [HostPort("tcp", 32768, LOOPBACK)]
    wanted = [PublishedPort(80), PublishedPort(81), PublishedPort(80, protocol="udp")]
    found = choose_ports(wanted, OWN, held, check)
    assert [(p.protocol, p.published) for p in found] == [
        ("tcp", 32768), ("tcp", 32770), ("udp", 32768),
    ]  # fmt: skip
    assert {p.host_address for p in found} == {OWN}
    with pytest.raises(OperationFailed, match="port is already allocated"):
        choose_ports([PublishedPort(80, 90), PublishedPort(81, 90)], None, (), nobody)


def test_of_a_range_the_first_free_port() -> None:
    def check(protocol: Protocol, port: Port, address: Address | None) -> None:
        if port == 8001:
            raise OperationFailed("a program has it")

    held: list[HostPort] = [HostPort("tcp", 8000)]
    port = WantedPort(80, 8000, last=8003)
    found: list[PublishedPort] = []
    for _ in range(2):
        found += choose_ports([port], None, held, check)
        held.append(HostPort("tcp", found[-1].published))
    assert found == [PublishedPort(80, number, mode="host") for number in (8002, 8003)]
    with pytest.raises(OperationFailed, match="^all ports are allocated$"):
        choose_ports([port], None, held, check)
    other = WantedPort(80, 8000, "udp", last=8003)
    assert choose_ports([other], None, held, check)[0].published == 8000
    assert choose_ports([port], OWN, [HostPort("tcp", 8000, LOOPBACK)], check)[0].published == 8000


def test_a_range_leaves_the_ports_that_others_name() -> None:
    wanted = [WantedPort(80, 8000, last=8001), WantedPort(81, 8000, last=8000)]
    found = choose_ports(wanted, None, (), nobody)
    assert [(port.target, port.published) for port in found] == [(80, 8001), (81, 8000)]
    assert [type(port) for port in found] == [PublishedPort, PublishedPort]


def test_an_image_that_exposes_thousands_of_ports_does_not_stop_the_daemon() -> None:
    """Each port costs one look, however many are taken: with a look at all of them for each this
    would not end."""
    looks = []

    def check(protocol: Protocol, port: Port, address: Address | None) -> None:
        looks.append(port)

    wanted = [PublishedPort(target) for target in range(1, 10_001)]
    others = [HostPort("tcp", port, LOOPBACK) for port in range(32768, 42768)]
    found = choose_ports(wanted, OWN, others, check)
    assert [port.published for port in found] == looks == list(range(32768, 42768))
    named = [PublishedPort(port, port) for port in range(1, 10_001)]
    assert len(choose_ports(named, None, others, check)) == 10_000
    with pytest.raises(OperationFailed, match="every ephemeral port is in use"):
        choose_ports([PublishedPort(1)] * (len(EPHEMERAL) + 1), None, (), check)

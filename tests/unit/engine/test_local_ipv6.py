"""What this node's own networks and containers get of IPv6."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import islice

import pytest

from weft.engine.local_allocation import choose_ports
from weft.engine.local_ipv6 import choose_ipv6, new_pool, own_prefix
from weft.errors import Exhausted, Forbidden, InvalidArgument, OperationFailed
from weft.model.addresses import Address, Port, Protocol
from weft.model.bridge_network import BridgeNetwork, BridgeNetworkSpec, Ipv6Pool
from weft.model.host_ports import ANY_IPV6, HostPort, HostPorts
from weft.model.ids import NetworkId
from weft.model.service import PublishedPort

SUBNET = IPv6Network("fd00:a::/64")


def spec(pool: Ipv6Pool | None = None, has_ipv6: bool = True) -> BridgeNetworkSpec:
    return BridgeNetworkSpec(name="n", has_ipv6=has_ipv6, ipv6_pool=pool)


def network(pool: Ipv6Pool) -> BridgeNetwork:
    made = new_pool(spec(pool), "host", (), ())
    assert made is not None
    return BridgeNetwork(
        id=NetworkId("0" * 64),
        spec=spec(pool),
        subnet=IPv4Network("172.18.0.0/16"),
        gateway=IPv4Address("172.18.0.1"),
        ipv6_subnet=made.subnet,
        ipv6_gateway=made.gateway,
    )


def chosen(pool: Ipv6Pool, *held: str, wanted: str | None = None) -> str:
    own = choose_ipv6(
        network(pool), set(map(IPv6Address, held)), IPv6Address(wanted) if wanted else None
    )
    return str(own)


def test_a_network_without_ipv6_gets_none() -> None:
    assert new_pool(spec(has_ipv6=False), "host", (), ()) is None
    bare = BridgeNetwork(
        id=NetworkId("0" * 64),
        spec=spec(has_ipv6=False),
        subnet=IPv4Network("172.18.0.0/16"),
        gateway=IPv4Address("172.18.0.1"),
    )
    assert choose_ipv6(bare, (), None) is None


def test_subnets_are_the_first_free_ones_of_a_prefix_that_is_the_host_s_own() -> None:
    first = own_prefix("host")
    assert first.prefixlen == 48
    assert first.network_address in IPv6Network("fd00::/8")
    assert own_prefix("host") == first != own_prefix("another")
    one, two, three = islice(first.subnets(new_prefix=64), 3)
    made = new_pool(spec(), "host", [one], [two])
    assert made == Ipv6Pool(three, three[1])
    with pytest.raises(Exhausted):
        new_pool(spec(), "host", [IPv6Network("fd00::/8")], ())


def test_a_user_s_subnet_may_overlap_no_other_network() -> None:
    with pytest.raises(Forbidden, match="Pool overlaps with other one on this address space"):
        new_pool(spec(Ipv6Pool(SUBNET)), "host", [IPv6Network("fd00:a::/48")], ())
    # The host's own routes do not matter for it, as in Docker.
    made = new_pool(spec(Ipv6Pool(SUBNET)), "host", (), [SUBNET])
    assert made == Ipv6Pool(SUBNET, IPv6Address("fd00:a::1"))
    reserved = {"router": IPv6Address("fd00:a::1")}
    made = new_pool(spec(Ipv6Pool(SUBNET, reserved=reserved)), "host", (), ())
    assert made is not None
    assert made.gateway == IPv6Address("fd00:a::2")


def test_containers_get_the_lowest_free_address() -> None:
    assert chosen(Ipv6Pool(SUBNET)) == "fd00:a::2/64"
    assert chosen(Ipv6Pool(SUBNET), "fd00:a::2", "fd00:a::4") == "fd00:a::3/64"
    reserved = {"printer": IPv6Address("fd00:a::2")}
    assert chosen(Ipv6Pool(SUBNET, reserved=reserved)) == "fd00:a::3/64"
    ranged = Ipv6Pool(SUBNET, ip_range=IPv6Network("fd00:a::100/127"))
    assert chosen(ranged) == "fd00:a::100/64"
    assert chosen(ranged, wanted="fd00:a::7") == "fd00:a::7/64"
    with pytest.raises(Exhausted, match="no available IPv6 addresses"):
        chosen(ranged, "fd00:a::100", "fd00:a::101")
    small = Ipv6Pool(IPv6Network("fd00:a::/126"))
    assert chosen(small, "fd00:a::2") == "fd00:a::3/126"


@pytest.mark.parametrize("address", ["fd00:a::", "fd00:a::1", "fd00:a::5", "fd00:a::9"])
def test_an_address_that_is_taken(address: str) -> None:
    pool = Ipv6Pool(SUBNET, reserved={"printer": IPv6Address("fd00:a::5")})
    with pytest.raises(Forbidden, match="Address already in use"):
        chosen(pool, "fd00:a::9", wanted=address)


def test_an_address_that_the_network_does_not_have() -> None:
    with pytest.raises(InvalidArgument, match="no configured subnet or ip-range contain"):
        chosen(Ipv6Pool(SUBNET), wanted="fd00:b::2")
    for unnamed in (spec(), spec(has_ipv6=False)):
        with pytest.raises(InvalidArgument, match="networks with user configured subnets"):
            unnamed.check_ipv6(IPv6Address("fd00:a::2"))


# --- ports of the host


def nobody(protocol: Protocol, port: Port, address: Address | None) -> None:
    """No program has a port."""


def places(*wanted: PublishedPort, has_ipv6: bool = True) -> list[tuple[int, Address | None]]:
    found = choose_ports(wanted, None, (), nobody, has_ipv6)
    return [(port.published, port.host_address) for port in found]


def test_a_port_that_names_no_address_is_open_in_both_families() -> None:
    port, at = PublishedPort(80, 8080), IPv6Address("2001:db8::1")
    assert places(port) == [(8080, None), (8080, ANY_IPV6)]
    assert places(port, has_ipv6=False) == [(8080, None)]
    assert places(PublishedPort(80, 8080, host_address=IPv4Address(0))) == [(8080, None)]
    assert places(PublishedPort(80, 8080, host_address=ANY_IPV6)) == [(8080, ANY_IPV6)]
    assert places(PublishedPort(80, 8080, host_address=at)) == [(8080, at)]
    bound = choose_ports([port], IPv4Address("127.0.0.1"), (), nobody, True)
    assert [each.host_address for each in bound] == [IPv4Address("127.0.0.1")]
    with pytest.raises(OperationFailed, match="no network with IPv6 that leads outside"):
        places(PublishedPort(80, 8080, host_address=at), has_ipv6=False)


def test_a_free_port_is_free_in_both_families() -> None:
    held = [HostPort("tcp", 32768, ANY_IPV6), HostPort("tcp", 32769)]
    found = choose_ports([PublishedPort(80)], None, held, nobody, True)
    assert [port.published for port in found] == [32770, 32770]
    with pytest.raises(OperationFailed, match=r"Bind for :::32768 failed: port is already"):
        choose_ports([PublishedPort(80, 32768)], None, held, nobody, True)


def test_the_families_hold_their_ports_apart() -> None:
    four, six = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
    every: dict[Address | None, set[Address | None]] = {
        None: {None, four}, four: {None, four}, ANY_IPV6: {ANY_IPV6, six}, six: {ANY_IPV6, six},
    }  # fmt: skip
    for one, meeting in every.items():
        for other in every:
            first, second = HostPort("tcp", 80, one), HostPort("tcp", 80, other)
            assert first.meets(second) == (other in meeting)
            assert HostPorts.of([first]).has(second) == (other in meeting)

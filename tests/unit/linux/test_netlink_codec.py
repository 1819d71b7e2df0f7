"""The netlink codec against pyroute2's, in both directions, and its attributes against their own
definition."""

from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from weft.linux.netlink import address, attributes, link, message, neighbour, nftables, route, rule
from weft.linux.netlink.message import Message, Request
from weft.model.addresses import mac_for
from weft.network.kernel_state import Bridge, BridgePort, Link, Route, Rule, Veth, Vxlan

ADDRESSES = cast("st.SearchStrategy[IPv4Address]", st.ip_addresses(v=4))
MACS = ADDRESSES.map(mac_for)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_", min_size=1, max_size=15)
INDEXES = st.integers(1, 2**31 - 1)
PREFIXES = st.integers(0, 32)
NETWORKS = st.builds(lambda a, p: IPv4Network((a, p), strict=False), ADDRESSES, PREFIXES)
INTERFACES = st.builds(lambda a, p: IPv4Interface((a, p)), ADDRESSES, PREFIXES)
NUMBERS = st.integers(0, 2**32 - 1)
ROUTES = st.builds(
    Route,
    destination=NETWORKS,
    device=st.just("eth0"),
    via=st.none() | ADDRESSES.filter(lambda a: int(a) != 0),
    source=st.none() | ADDRESSES.filter(lambda a: int(a) != 0),
    table=st.integers(1, 2**32 - 1),
    onlink=st.booleans(),
)
RULES = st.builds(
    lambda mark, mask, **rest: Rule(mark=mark & mask, mask=mask, **rest),
    priority=st.integers(1, 32000),
    table=st.integers(1, 2**32 - 1),
    mark=NUMBERS,
    mask=NUMBERS,
    input_device=st.none() | NAMES,
    protocol=st.none() | st.integers(1, 255),
    source_ports=st.none()
    | st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(
        lambda pair: (min(pair), max(pair))
    ),
)


def oracle(type_: type[nlmsg], request: Request) -> nlmsg:
    """What pyroute2 reads in a request of ours."""
    decoded = type_(message.encode([request], sequence=7))
    decoded.decode()
    return decoded


# --- attributes and messages


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=70), max_size=8))
def test_attributes_come_back(values: dict[int, bytes]) -> None:
    data = b"".join(attributes.attribute(kind, payload) for kind, payload in values.items())
    assert len(data) % 4 == 0
    assert attributes.decode(data) == values


@given(st.binary(max_size=200))
def test_any_bytes_decode_to_something(data: bytes) -> None:
    assert all(len(payload) <= len(data) for payload in attributes.decode(data).values())
    assert all(len(found.body) <= len(data) for found in message.decode(data))


@given(
    st.lists(st.binary(max_size=40).map(lambda b: b + bytes(-len(b) % 4)), min_size=1, max_size=5)
)
def test_requests_are_numbered_and_the_last_asks_for_an_answer(bodies: list[bytes]) -> None:
    data = message.encode([Request(20, message.NLM_F_CREATE, body) for body in bodies], sequence=5)
    found = list(message.decode(data))
    assert [(m.type, m.sequence, m.body) for m in found] == [
        (20, 5 + i, body) for i, body in enumerate(bodies)
    ]
    assert [bool(m.flags & message.NLM_F_ACK) for m in found] == [False] * (len(bodies) - 1) + [
        True
    ]


@pytest.mark.parametrize("capped", [True, False])
def test_an_error_carries_the_kernels_explanation(capped: bool) -> None:
    echoed = message.HEADER.pack(24, 16, 5, 1, 0) + (b"" if capped else b"12345678")
    body = (-17).to_bytes(4, "little", signed=True) + echoed + attributes.text(1, "Name not unique")
    error = message.decode_error(
        Message(message.NLMSG_ERROR, 0x200 | (0x100 if capped else 0), 1, body)
    )
    assert error is not None
    assert (error.errno, error.strerror) == (17, "File exists (Name not unique)")


def test_an_acknowledgement_is_no_error() -> None:
    assert message.decode_error(Message(message.NLMSG_ERROR, 0x100, 1, bytes(20))) is None


# --- neighbours and forwarding entries


@given(INDEXES, ADDRESSES, MACS)
def test_neighbour(device: int, ip: IPv4Address, mac: str) -> None:
    request = neighbour.add_neighbour(device, ip, mac)
    theirs = oracle(ndmsg, request)
    assert (theirs["family"], theirs["ifindex"], theirs["state"]) == (2, device, 0x80)
    assert (theirs.get_attr("NDA_DST"), theirs.get_attr("NDA_LLADDR")) == (str(ip), mac)
    ours = neighbour.decode_neighbour(request.body)
    assert (ours.device, ours.address, ours.mac, ours.permanent) == (device, ip, mac, True)


@given(INDEXES, ADDRESSES, MACS)
def test_forwarding(device: int, vtep: IPv4Address, mac: str) -> None:
    theirs = oracle(ndmsg, neighbour.add_forwarding(device, mac, vtep))
    assert (theirs["family"], theirs["ifindex"], theirs["state"], theirs["flags"]) == (
        7,
        device,
        0x80,
        2,
    )
    assert (theirs.get_attr("NDA_DST"), theirs.get_attr("NDA_LLADDR")) == (str(vtep), mac)


@given(INDEXES, MACS)
def test_forwarding_by_a_bridges_port(device: int, mac: str) -> None:
    theirs = oracle(ndmsg, neighbour.add_forwarding(device, mac, None))
    assert (theirs["family"], theirs["ifindex"], theirs["state"], theirs["flags"]) == (
        7,
        device,
        0x40,
        4,
    )
    assert (theirs.get_attr("NDA_DST"), theirs.get_attr("NDA_LLADDR")) == (None, mac)


# --- addresses


@given(INDEXES, INTERFACES)
def test_address(device: int, own: IPv4Interface) -> None:
    request = address.add_address(device, own)
    theirs = oracle(ifaddrmsg, request)
    assert (theirs["index"], theirs["prefixlen"]) == (device, own.network.prefixlen)
    assert theirs.get_attr("IFA_LOCAL") == str(own.ip)
    broadcast = str(own.network.broadcast_address) if own.network.prefixlen < 31 else None
    assert theirs.get_attr("IFA_BROADCAST") == broadcast
    assert address.decode_address(request.body)[:2] == (device, own)


@given(INDEXES, st.ip_addresses(v=6), st.integers(0, 128))
def test_address_of_ipv6(device: int, own: IPv6Address, prefix: int) -> None:
    wanted = IPv6Interface((int(own), prefix))
    request = address.add_address(device, wanted)
    theirs = oracle(ifaddrmsg, request)
    assert (theirs["family"], theirs["index"], theirs["prefixlen"]) == (10, device, prefix)
    assert theirs["flags"] & 2, "nobody is asked whether the address is free"
    assert theirs.get_attr("IFA_BROADCAST") is None
    assert IPv6Address(theirs.get_attr("IFA_LOCAL")) == own
    assert address.decode_address(request.body)[:2] == (device, wanted)


@given(INDEXES, st.ip_addresses(v=6, network="fd00::/8"))
def test_neighbour_and_route_of_ipv6(device: int, own: IPv6Address) -> None:
    request = neighbour.add_neighbour(device, own, "02:00:00:00:00:01")
    theirs = oracle(ndmsg, request)
    assert (theirs["family"], theirs["ifindex"]) == (10, device)
    assert IPv6Address(theirs.get_attr("NDA_DST")) == own
    assert neighbour.decode_neighbour(request.body).address == own
    for destination in (IPv6Network("::/0"), IPv6Network((int(own), 128))):
        wanted = Route(destination=destination, via=own, device="eth0")
        request = route.add_route(device, wanted)
        seen = oracle(rtmsg, request)
        assert (seen["family"], seen["dst_len"]) == (10, destination.prefixlen)
        assert IPv6Address(seen.get_attr("RTA_GATEWAY")) == own
        # The kernel tells the metric that it has chosen.
        metric = attributes.u32(6, 1024)
        ours = route.decode_route(request.body + metric)
        assert (ours.metric, ours.route("eth0")) == (0, wanted)


# --- routes and rules


@given(INDEXES, ROUTES)
def test_route(device: int, wanted: Route) -> None:
    request = route.add_route(device, wanted)
    theirs = oracle(rtmsg, request)
    assert theirs["dst_len"] == wanted.destination.prefixlen
    assert theirs.get_attr("RTA_DST") == (
        str(wanted.destination.network_address) if wanted.destination.prefixlen else None
    )
    assert theirs.get_attr("RTA_GATEWAY") == (str(wanted.via) if wanted.via else None)
    assert theirs.get_attr("RTA_PREFSRC") == (str(wanted.source) if wanted.source else None)
    assert (theirs.get_attr("RTA_OIF"), theirs.get_attr("RTA_TABLE")) == (device, wanted.table)
    assert bool(theirs["flags"] & 4) == wanted.onlink
    ours = route.decode_route(request.body)
    assert (ours.device, ours.route("eth0")) == (device, wanted)


@given(RULES)
def test_rule(wanted: Rule) -> None:
    request = rule.add_rule(wanted)
    theirs = oracle(fibmsg, request)
    assert (theirs.get_attr("FRA_PRIORITY"), theirs.get_attr("FRA_TABLE")) == (
        wanted.priority,
        wanted.table,
    )
    assert theirs.get_attr("FRA_FWMASK") == (wanted.mask or None)
    assert theirs.get_attr("FRA_IIFNAME") == wanted.input_device
    assert theirs.get_attr("FRA_IP_PROTO") == wanted.protocol
    assert rule.decode_rule(request.body) == wanted


@pytest.mark.parametrize(("priority", "table"), [(0, 255), (32766, 254), (32767, 253)])
def test_built_in_rules_are_left_out(priority: int, table: int) -> None:
    assert rule.decode_rule(rule.add_rule(Rule(priority=priority, table=table)).body) is None


def test_a_rule_that_selects_by_what_we_do_not_know_is_left_out() -> None:
    wanted = Rule(priority=5, table=7, mark=1, mask=1)
    by_destination_port = attributes.attribute(24, bytes(4))
    assert rule.decode_rule(rule.add_rule(wanted).body + by_destination_port) is None


# --- links


@given(
    NAMES, st.integers(68, 65535), MACS, st.integers(0, 2**24 - 1), ADDRESSES, st.integers(1, 65535)
)
def test_vxlan(name: str, mtu: int, mac: str, vni: int, local: IPv4Address, port: int) -> None:
    kind = Vxlan(vni=vni, local=local, port=port)
    request = link.add_vxlan(Link(name=name, kind=kind, mtu=mtu, mac=mac), kind, 9)
    theirs = oracle(ifinfmsg, request)
    info = theirs.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA")
    assert (
        theirs.get_attr("IFLA_IFNAME"),
        theirs.get_attr("IFLA_MTU"),
        theirs.get_attr("IFLA_ADDRESS"),
    ) == (name, mtu, mac)
    assert (theirs.get_attr("IFLA_NET_NS_FD"), info.get_attr("IFLA_INFO_KIND")) == (9, "vxlan")
    assert (data.get_attr("IFLA_VXLAN_ID"), data.get_attr("IFLA_VXLAN_LOCAL")) == (vni, str(local))
    assert data.get_attr("IFLA_VXLAN_PORT") == port
    flags = [
        data.get_attr(f"IFLA_VXLAN_{flag}") for flag in ("LEARNING", "PROXY", "L2MISS", "L3MISS")
    ]
    assert flags == [0, 1, 1, 1]
    ours = link.decode_link(request.body)
    assert (ours.name, ours.mtu, ours.mac, ours.kind, ours.vxlan) == (
        name,
        mtu,
        mac,
        "vxlan",
        kind,
    )


@given(NAMES, NAMES, MACS)
def test_veth(name: str, peer: str, mac: str) -> None:
    ends = Link(name=name, kind=Veth(), mtu=1450, mac=mac), Link(name=peer, kind=Veth(), mtu=1400)
    info = oracle(ifinfmsg, link.add_veth(*ends, 11)).get_attr("IFLA_LINKINFO")
    other = info.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert info.get_attr("IFLA_INFO_KIND") == "veth"
    assert (
        other.get_attr("IFLA_IFNAME"),
        other.get_attr("IFLA_MTU"),
        other.get_attr("IFLA_NET_NS_FD"),
    ) == (peer, 1400, 11)
    assert other.get_attr("IFLA_ADDRESS") is None


def test_bridge() -> None:
    theirs = oracle(ifinfmsg, link.add_bridge(Link(name="br0", kind=Bridge(), mtu=1450)))
    assert theirs.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND") == "bridge"


@pytest.mark.parametrize(("up", "flags", "change"), [(True, 1, 1), (False, 0, 1), (None, 0, 0)])
def test_set_link(up: bool | None, flags: int, change: int) -> None:
    theirs = oracle(ifinfmsg, link.set_link("eth0", master=3, up=up))
    assert (theirs["flags"], theirs["change"], theirs.get_attr("IFLA_MASTER")) == (flags, change, 3)
    assert theirs.get_attr("IFLA_MTU") is None


def test_what_pyroute2_writes_of_a_bridge_port_we_read() -> None:
    theirs = ifinfmsg()
    theirs["index"], theirs["flags"] = 12, 1
    port = {
        "attrs": [
            ("IFLA_BRPORT_ISOLATED", 1),
            ("IFLA_BRPORT_LEARNING", 0),
            ("IFLA_BRPORT_UNICAST_FLOOD", 1),
        ]
    }
    theirs["attrs"] = [
        ("IFLA_IFNAME", "veth1"),
        ("IFLA_MTU", 1450),
        ("IFLA_MASTER", 5),
        ("IFLA_ADDRESS", "02:42:0a:00:00:05"),
        (
            "IFLA_LINKINFO",
            {
                "attrs": [
                    ("IFLA_INFO_KIND", "veth"),
                    ("IFLA_INFO_SLAVE_KIND", "bridge"),
                    ("IFLA_INFO_SLAVE_DATA", port),
                ]
            },
        ),
    ]
    theirs.encode()
    ours = link.decode_link(bytes(theirs.data[16:]))
    settings = BridgePort(isolated=True, learning=False, flood=True)
    assert ours == link.LinkInfo(
        12, "veth1", True, 1450, "02:42:0a:00:00:05", "veth", 5, settings, None
    )


def test_generation_and_table_name_of_nf_tables() -> None:
    generation = bytes(4) + attributes.attribute(1, (258).to_bytes(4, "big"))
    assert nftables.decode_generation(generation) == 258
    table = bytes((2, 0, 0, 0)) + attributes.text(1, "weft-mesh")
    assert nftables.decode_table(table) == ("ip", "weft-mesh")


def test_addresses_are_read_as_pyroute2_writes_them() -> None:
    theirs = ifaddrmsg()
    theirs["family"], theirs["prefixlen"], theirs["index"] = 2, 24, 4
    theirs["attrs"] = [
        ("IFA_ADDRESS", "10.0.0.5"),
        ("IFA_LOCAL", "10.0.0.5"),
        ("IFA_LABEL", "eth0"),
    ]
    theirs.encode()
    ours = address.decode_address(bytes(theirs.data[16:]))
    assert ours[:3] == (4, IPv4Interface("10.0.0.5/24"), "eth0")
    assert ours.address.ip == IPv4Address("10.0.0.5")

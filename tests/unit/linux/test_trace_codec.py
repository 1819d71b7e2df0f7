"""What only a packet's trace reads: the other end of a veth, numbers of namespaces, several next
hops, listening sockets. The oracle for netlink is pyroute2."""

import struct
from ipaddress import IPv4Address

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from weft.linux import listeners
from weft.linux.netlink import link, nsid, route


def test_the_other_end_of_a_veth() -> None:
    theirs = ifinfmsg()
    theirs["index"], theirs["flags"] = 12, 1
    theirs["attrs"] = [
        ("IFLA_IFNAME", "veth1"),
        ("IFLA_LINK", 7),
        ("IFLA_LINK_NETNSID", 3),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth")]}),
    ]
    theirs.encode()
    ours = link.decode_link(bytes(theirs.data[16:]))
    assert (ours.other, ours.elsewhere) == (7, 3)


def test_the_number_of_a_namespace() -> None:
    assert nsid.get_nsid(9).body[4:] == struct.pack("=HHi", 8, 3, 9)
    assert nsid.decode_nsid(bytes(4) + struct.pack("=HHi", 8, 1, 5)) == 5
    assert nsid.decode_nsid(bytes(4) + struct.pack("=HHi", 8, 1, -1)) == -1
    assert nsid.decode_nsid(bytes(4)) == -1


def test_the_first_of_several_next_hops() -> None:
    theirs = rtmsg()
    theirs["family"], theirs["type"], theirs["table"] = 2, 1, 254
    theirs["attrs"] = [
        (
            "RTA_MULTIPATH",
            [
                {"oif": 4, "attrs": [("RTA_GATEWAY", "192.0.2.1")]},
                {"oif": 5, "attrs": [("RTA_GATEWAY", "192.0.2.2")]},
            ],
        )
    ]
    theirs.encode()
    assert route.first_hop(bytes(theirs.data[16:])) == (4, IPv4Address("192.0.2.1"))
    assert route.first_hop(bytes(12)) is None


def test_addresses_of_sockets() -> None:
    """As in /proc/net/tcp, on a little-endian machine."""
    assert listeners._address("0100007F") == IPv4Address("127.0.0.1")
    assert listeners._address("00000000") == IPv4Address(0)
    assert listeners._address("0" * 32) == IPv4Address(0), "[::] takes IPv4 too"
    mapped = "0000000000000000FFFF00000B3B480A"
    assert listeners._address(mapped) == IPv4Address("10.72.59.11")
    assert listeners._address("0000000000000000000000000100000A") is None

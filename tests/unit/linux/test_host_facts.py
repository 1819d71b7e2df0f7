"""Which address is advertised by default, with Docker Swarm's words where there is no answer."""

from ipaddress import IPv4Address, IPv4Interface

import pytest

from weft.errors import InvalidArgument
from weft.linux import host, netns
from weft.linux.host import Interface, choose_addresses, default_advertise_address


def interface(name: str, *addresses: str, kind: str = "", up: bool = True) -> Interface:
    return Interface(name, kind, up, 1500, tuple(IPv4Interface(a) for a in addresses))


def test_the_only_address() -> None:
    assert default_advertise_address([interface("eth0", "192.0.2.7/24")]) == IPv4Address(
        "192.0.2.7"
    )


def test_hardware_goes_before_virtual_devices() -> None:
    found = [
        interface("br0", "10.1.0.1/16", kind="bridge"),
        interface("eth0", "192.0.2.7/24", "169.254.3.4/16"),
    ]
    assert default_advertise_address(found) == IPv4Address("192.0.2.7")


def test_without_hardware_any_device_will_do() -> None:
    assert default_advertise_address(
        [interface("ens160", "10.59.72.11/24", kind="veth")]
    ) == IPv4Address("10.59.72.11")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            [interface("eth0", "192.0.2.7/24", "192.0.2.8/24")],
            (
                "could not choose an IP address to advertise since this system has multiple"
                " addresses on interface eth0 (192.0.2.7 and 192.0.2.8)"
            ),
        ),
        (
            [interface("eth0", "192.0.2.7/24"), interface("eth1", "198.51.100.1/24")],
            (
                "could not choose an IP address to advertise since this system has multiple"
                " addresses on different interfaces (192.0.2.7 on eth0 and 198.51.100.1 on eth1)"
            ),
        ),
        ([interface("eth0", "192.0.2.7/24", up=False)], "could not find the system's IP address"),
        ([], "could not find the system's IP address"),
    ],
)
def test_no_answer(found: list[Interface], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        default_advertise_address(found)
    assert str(caught.value) == message


LO = interface("lo", "127.0.0.1/8")
ETH = interface("eth0", "192.0.2.7/24")
BACK = interface("eth1", "10.1.0.7/24")
TWO = interface("eth2", "10.2.0.7/24", "10.2.0.8/24")


@pytest.mark.parametrize(
    ("asked", "found", "chosen"),
    [
        (("0.0.0.0:2377", "", ""), [LO, ETH], ("0.0.0.0:2377", "192.0.2.7", "192.0.2.7")),
        (("0.0.0.0:2377", "127.0.0.1", ""), [LO, ETH], ("0.0.0.0:2377", "127.0.0.1", "192.0.2.7")),
        (("0.0.0.0:2377", "lo", ""), [LO, ETH], ("0.0.0.0:2377", "127.0.0.1", "192.0.2.7")),
        (("0.0.0.0:2377", "lo", ""), [LO, ETH, BACK], ("0.0.0.0:2377", "127.0.0.1", "127.0.0.1")),
        (("0.0.0.0:2377", "127.0.0.1", ""), [LO], ("0.0.0.0:2377", "127.0.0.1", "127.0.0.1")),
        (
            ("0.0.0.0:2377", "203.0.113.9", ""),
            [LO, ETH],
            ("0.0.0.0:2377", "203.0.113.9", "192.0.2.7"),
        ),
        (
            ("0.0.0.0:2377", "203.0.113.9:2377", "eth1"),
            [LO, ETH, BACK],
            ("0.0.0.0:2377", "203.0.113.9", "10.1.0.7"),
        ),
        (("eth1:99", "eth0", "eth1"), [LO, ETH, BACK], ("10.1.0.7:99", "192.0.2.7", "10.1.0.7")),
        (("eth1:99", "eth0:99", ""), [LO, ETH, BACK], ("10.1.0.7:99", "192.0.2.7", "192.0.2.7")),
        (("192.0.2.7:1", "10.2.0.8", ""), [LO, ETH, TWO], ("192.0.2.7:1", "10.2.0.8", "10.2.0.8")),
    ],
)
def test_addresses_that_are_asked_for(
    asked: tuple[str, str, str], found: list[Interface], chosen: tuple[str, str, str]
) -> None:
    listen, advertise, data_path = choose_addresses(*asked, found=found)
    assert (listen, str(advertise), str(data_path)) == chosen


@pytest.mark.parametrize(
    ("asked", "found", "text"),
    [
        (
            ("0.0.0.0:2377", "0.0.0.0", ""),
            [LO, ETH],
            "advertise address must be a non-zero IP address or network interface",
        ),
        (("0.0.0.0:2377", "eth9", ""), [LO, ETH], "(with optional port number): 'eth9'"),
        (
            ("0.0.0.0:2377", "fd00::1", ""),
            [LO, ETH],
            "cannot advertise 'fd00::1': Weft has no IPv6 between hosts",
        ),
        (
            ("0.0.0.0:2377", "eth0:99", ""),
            [LO, ETH],
            "cannot advertise port 99: Weft advertises the port that it listens on, 2377",
        ),
        (
            ("0.0.0.0:2377", "eth2", ""),
            [LO, TWO],
            "interface eth2 has more than one IPv4 address (10.2.0.7 and 10.2.0.8)",
        ),
        (
            ("0.0.0.0:2377", "eth3", ""),
            [LO, interface("eth3")],
            "interface eth3 has no usable IPv4 address",
        ),
        (
            ("eth9:2377", "", ""),
            [LO, ETH],
            "listen address must be an IP address or network interface",
        ),
        (
            ("0.0.0.0:2377", "eth0", "9.9.9.9"),
            [LO, ETH],
            "cannot use data path address 9.9.9.9: no interface of this host has it",
        ),
        (
            ("0.0.0.0:2377", "eth0", "eth0:1"),
            [LO, ETH],
            "data path address must be a non-zero IP address or network interface",
        ),
        (
            ("0.0.0.0:2377", "203.0.113.9", ""),
            [LO, ETH, BACK],
            "cannot choose a data path address, say --data-path-addr",
        ),
    ],
)
def test_addresses_that_cannot_be(
    asked: tuple[str, str, str], found: list[Interface], text: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        choose_addresses(*asked, found=found)
    assert text in str(caught.value)


def test_what_a_program_can_listen_at() -> None:
    assert host.is_local(IPv4Address("127.0.0.1"))
    assert not host.is_local(IPv4Address("203.0.113.9"))


@pytest.mark.parametrize("name", ["1-abcdefghij", "lb_abcdefghi", "ingress_sbox", "0123456789ab"])
def test_names_of_ours(name: str) -> None:
    assert netns.is_own_name(name)


@pytest.mark.parametrize(
    "name",
    ["default", "1-abc", "lb_ABCDEFGHI", "0123456789abc", "../ingress_sbox", "ingress_sbox\n", ""],
)
def test_names_of_others(name: str) -> None:
    assert not netns.is_own_name(name)

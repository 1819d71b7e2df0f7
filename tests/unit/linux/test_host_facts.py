"""Which address is advertised by default, with the original's words where there is no answer."""

from ipaddress import IPv4Address, IPv4Interface

import pytest

from weft.errors import InvalidArgument
from weft.linux import netns
from weft.linux.host import Interface, default_advertise_address


def interface(name: str, *addresses: str, kind: str = "", up: bool = True) -> Interface:
    return Interface(name, kind, up, 1500, tuple(IPv4Interface(a) for a in addresses))


def test_the_only_address():
    assert default_advertise_address([interface("eth0", "192.0.2.7/24")]) == IPv4Address("192.0.2.7")


def test_hardware_goes_before_virtual_devices():
    found = [interface("br0", "10.1.0.1/16", kind="bridge"), interface("eth0", "192.0.2.7/24", "169.254.3.4/16")]
    assert default_advertise_address(found) == IPv4Address("192.0.2.7")


def test_without_hardware_any_device_will_do():
    assert default_advertise_address([interface("ens160", "10.59.72.11/24", kind="veth")]) == IPv4Address("10.59.72.11")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            [interface("eth0", "192.0.2.7/24", "192.0.2.8/24")],
            "could not choose an IP address to advertise since this system has multiple addresses on interface eth0 "
            "(192.0.2.7 and 192.0.2.8)",
        ),
        (
            [interface("eth0", "192.0.2.7/24"), interface("eth1", "198.51.100.1/24")],
            "could not choose an IP address to advertise since this system has multiple addresses on different interfaces "
            "(192.0.2.7 on eth0 and 198.51.100.1 on eth1)",
        ),
        ([interface("eth0", "192.0.2.7/24", up=False)], "could not find the system's IP address"),
        ([], "could not find the system's IP address"),
    ],
)
def test_no_answer(found, message):
    with pytest.raises(InvalidArgument) as caught:
        default_advertise_address(found)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["1-abcdefghij", "lb_abcdefghi", "ingress_sbox", "0123456789ab"])
def test_names_of_ours(name):
    assert netns.is_own_name(name)


@pytest.mark.parametrize("name", ["default", "1-abc", "lb_ABCDEFGHI", "0123456789abc", "../ingress_sbox", "ingress_sbox\n", ""])
def test_names_of_others(name):
    assert not netns.is_own_name(name)

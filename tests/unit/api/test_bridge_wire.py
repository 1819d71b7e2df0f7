"""Requests about networks of one node, where the docker command does not check them itself."""

from ipaddress import IPv6Address, IPv6Network
from typing import Any

import msgspec
import pytest

from weft.api.schema.bridge_network import ConnectWire, bridge_spec_from, endpoint_from
from weft.api.schema.network import NetworkWire
from weft.errors import InvalidArgument, WeftError
from weft.model.bridge_network import Ipv6Pool


def wire(**fields: Any) -> NetworkWire:
    return msgspec.convert({"Name": "n", **fields}, NetworkWire)


def pool(**fields: Any) -> dict[str, Any]:
    return {"IPAM": {"Config": [{"Subnet": "10.1.0.0/16", **fields}]}}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (pool(Gateway="10.2.0.1"), "invalid gateway 10.2.0.1: parent subnet 10.1.0.0/16 doesn't"),
        (pool(Gateway="10.1.0.0"), "gateway 10.1.0.0 is an end of 10.1.0.0/16"),
        (pool(IPRange="10.0.0.0/8"), "invalid ip-range 10.0.0.0/8: parent subnet"),
        (pool(AuxiliaryAddresses={"a": "10.3.0.1"}), "invalid auxiliary address a: parent subnet"),
        (pool(Subnet="127.5.0.0/16"), "no room for containers"),
        (pool(Subnet="fd00::/64"), "fd00::/64 of a network without IPv6 (EnableIPv6)"),
        (pool(Subnet="10.1.0.1/16"), "10.1.0.1/16"),
        ({"EnableIPv4": False}, "IPv4 or IPv6 must be enabled"),
        ({"ConfigOnly": True}, "configuration-only"),
        ({"Name": " "}, "invalid name: it is empty"),
        ({"Name": "a\nb"}, "printable characters are allowed"),
        ({"Options": {"com.docker.network.bridge.host_binding_ipv4": "x"}}, "host_binding_ipv4"),
        ({"Options": {"com.docker.network.bridge.name": "br-0123456789ab"}}, "cannot be the name"),
    ],
)
def test_what_no_bridge_can_be(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        bridge_spec_from(wire(**fields))
    assert text in str(error.value)


def six(*pools: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"EnableIPv6": True, "IPAM": {"Config": list(pools)}, **fields}


def six_pool(**fields: Any) -> dict[str, Any]:
    return {"Subnet": "fd00:a::/64", **fields}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (six({"Subnet": "zz::/64"}), "invalid subnet zz::/64: invalid CIDR block notation"),
        (six({"Subnet": "fd00::"}), "invalid subnet fd00::: invalid CIDR block notation"),
        (six({"Subnet": "fd00::1/64"}), "invalid subnet fd00::1/64: it should be fd00::/64"),
        (six(six_pool(Gateway="10.0.0.1")), "gateway 10.0.0.1: parent subnet is an IPv6 block"),
        (
            six(six_pool(Gateway="fd00:b::1")),
            "gateway fd00:b::1: parent subnet fd00:a::/64 doesn't",
        ),
        (six(six_pool(Gateway="x")), "invalid gateway x: invalid address"),
        (
            six(six_pool(Gateway="fd00:a::")),
            "failed to allocate gateway (fd00:a::): Address already",
        ),
        (six(six_pool(IPRange="fd00::/32")), "CIDR block is bigger than its parent subnet"),
        (
            six(six_pool(IPRange="fd00:b::/80")),
            "parent subnet fd00:a::/64 doesn't contain ip-range",
        ),
        (six(six_pool(IPRange="10.0.0.0/8")), "parent subnet is an IPv6 block"),
        (six(six_pool(IPRange="fd00:a::5/80")), "it should be fd00:a::/80"),
        (
            six(six_pool(AuxiliaryAddresses={"x": "fd00:b::1"})),
            "invalid auxiliary address x: parent",
        ),
        (six({"Subnet": "ff00::/64"}), "multicast subnet 'ff00::/64' is not allowed"),
        (six({"Subnet": "fe80::/64"}), "no room for containers"),
        (six({"Subnet": "fd00::/127"}), "no room for containers"),
        (six(six_pool(), {"Subnet": "fd00:b::/64"}), "doesn't support multiple subnets"),
        (six(EnableIPv4=False), "a network without IPv4 (EnableIPv4) is not supported"),
        (six(Options={"com.docker.network.driver.mtu": "1279"}), "MTU 1279 is too small for IPv6"),
        (
            six(Options={"com.docker.network.bridge.gateway_mode_ipv6": "routed"}),
            "gateway_mode_ipv6=routed is not supported",
        ),
    ],
)
def test_what_no_network_with_ipv6_can_be(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(WeftError) as error:
        bridge_spec_from(wire(**fields))
    assert text in str(error.value)


def test_a_configuration_for_each_family() -> None:
    pools = (six_pool(Gateway="fd00:a::9", AuxiliaryAddresses={"x": "fd00:a::5/64"}),
             {"Subnet": "10.1.0.0/24"})  # fmt: skip
    made = bridge_spec_from(wire(**six(*pools)))
    assert (str(made.pool and made.pool.subnet), made.has_ipv6) == ("10.1.0.0/24", True)
    assert made.ipv6_pool == Ipv6Pool(
        IPv6Network("fd00:a::/64"),
        IPv6Address("fd00:a::9"),
        reserved={"x": IPv6Address("fd00:a::5")},
    )
    made = bridge_spec_from(wire(**six()))
    assert (made.has_ipv6, made.pool, made.ipv6_pool) == (True, None, None)


def test_options_and_what_they_mean() -> None:
    prefix = "com.docker.network.bridge"
    made = bridge_spec_from(
        wire(
            Options={
                f"{prefix}.enable_icc": "false",
                f"{prefix}.enable_ip_masquerade": "0",
                f"{prefix}.host_binding_ipv4": "192.0.2.1",
                "com.docker.network.driver.mtu": "1400",
            }
        )
    )
    assert (made.talks, made.masquerades, str(made.binding), made.mtu) == (
        False, False, "192.0.2.1", 1400,
    )  # fmt: skip
    plain = bridge_spec_from(wire(Options={f"{prefix}.host_binding_ipv4": "0.0.0.0"}))
    assert (plain.talks, plain.masquerades, plain.binding, plain.mtu) == (True, True, None, 1500)


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        ({"IPAMConfig": {"IPv6Address": "fd00::1%eth0"}}, "invalid IPv6 address: fd00::1%eth0"),
        ({"IPAMConfig": {"IPv6Address": "10.0.0.1"}}, "invalid IPv6 address: 10.0.0.1"),
        ({"IPAMConfig": {"IPv6Address": "::"}}, "invalid IPv6 address: ::"),
        ({"Links": ["a:b"]}, "a link (Links) is not supported by Weft; containers on a network"),
        ({"GwPriority": 1}, "GwPriority"),
        (
            {"DriverOpts": {"com.docker.network.endpoint.ifname": "b"}},
            "EndpointConfig.DriverOpts: com.docker.network.endpoint.ifname is not supported",
        ),
        ({"MacAddress": "01:00:00:00:00:01"}, "invalid MAC address: 01:"),
        ({"MacAddress": "02:00"}, "invalid MAC address: 02:00"),
        ({"IPAMConfig": {"IPv4Address": "10.0.0"}}, "invalid IPv4 address"),
    ],
)
def test_what_no_endpoint_can_have(endpoint: dict[str, Any], text: str) -> None:
    asked = msgspec.convert({"Container": "c", "EndpointConfig": endpoint}, ConnectWire)
    with pytest.raises(InvalidArgument) as error:
        endpoint_from("n", asked.endpoint)
    assert text in str(error.value)

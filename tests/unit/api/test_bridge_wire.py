"""Requests about networks of one node, where the docker command does not check them itself."""

from typing import Any

import msgspec
import pytest

from weft.api.schema.bridge_network import ConnectWire, bridge_spec_from, endpoint_from
from weft.api.schema.network import NetworkWire
from weft.errors import InvalidArgument


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
        (pool(Subnet="fd00::/64"), "IPv6 subnet fd00::/64 is not supported"),
        (pool(Subnet="10.1.0.1/16"), "10.1.0.1/16"),
        ({"EnableIPv4": False}, "IPv4 or IPv6 must be enabled"),
        ({"ConfigOnly": True}, "configuration-only"),
        ({"Name": "a b"}, "name must be valid"),
        ({"Options": {"com.docker.network.bridge.host_binding_ipv4": "x"}}, "host_binding_ipv4"),
        ({"Options": {"com.docker.network.bridge.name": "br-0123456789ab"}}, "cannot be the name"),
    ],
)
def test_what_no_bridge_can_be(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        bridge_spec_from(wire(**fields))
    assert text in str(error.value)


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
        ({"IPAMConfig": {"IPv6Address": "fd00::1"}}, "IPv6 address fd00::1 is not supported"),
        ({"Links": ["a:b"]}, "a link (Links) is not supported by Weft; containers on a network"),
        ({"GwPriority": 1}, "GwPriority"),
        ({"DriverOpts": {"a": "b"}}, "driver options (a)"),
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

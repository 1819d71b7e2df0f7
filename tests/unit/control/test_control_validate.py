"""Specifications that are refused, and the words for it."""

from ipaddress import IPv4Address, IPv4Network

import msgspec
import pytest

from weft.control.validate import validate_network, validate_service
from weft.errors import InvalidArgument
from weft.model.ids import NetworkId
from weft.model.network import NetworkSpec, Pool
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    NetworkAttachmentSpec,
    Placement,
    PublishedPort,
    Resources,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)

TASK = TaskSpec(container=ContainerSpec(image="busybox"))
GOOD = ServiceSpec(name="web-1_a", task=TASK)
SUBNET = IPv4Network("10.1.0.0/24")


def task(**fields: object) -> dict[str, object]:
    return {"task": msgspec.structs.replace(TASK, **fields)}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": ""}, "meta: name must be provided"),
        ({"name": "a" * 64}, "name must be 63 characters or fewer"),
        ({"name": "a.b"}, "name must be valid as a DNS name component"),
        ({"replicas": -1}, "Number of replicas must be non-negative: -1"),
        (task(container=ContainerSpec(image="")), "ContainerSpec: image reference must be provided"),
        (task(container=ContainerSpec(image="A B")), 'ContainerSpec: "A B" is not a valid repository/tag'),
        (task(limits=Resources(nano_cpus=10)), "invalid cpu value 1e-08: Must be at least 0.001"),
        (task(reservations=Resources(memory=1024)), "invalid memory value 1024: Must be at least 4MiB"),
        (task(restart=RestartPolicy(delay=-1)), "TaskSpec: restart-delay cannot be negative"),
        (task(placement=Placement(constraints=("x",))), "constraint expected one operator from ==, !="),
        (task(networks=(NetworkAttachmentSpec(NetworkId("n")),) * 2), "TaskSpec: a network is attached more than once"),
        ({"update": UpdateConfig(monitor=-1)}, "TaskSpec: update-monitor cannot be negative"),
        (
            {"rollback": UpdateConfig(max_failure_ratio=2)},
            "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
        ),
        (
            {"endpoint": EndpointSpec("dnsrr", (PublishedPort(80, 80),))},
            "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
        ),
        (
            {"endpoint": EndpointSpec("vip", (PublishedPort(80, 80), PublishedPort(81, 80)))},
            "EndpointSpec: duplicate published ports provided",
        ),
    ],
)
def test_services(fields: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        validate_service(msgspec.structs.replace(GOOD, **fields))
    assert str(raised.value) == text


def test_a_good_service_passes() -> None:
    endpoint = EndpointSpec("vip", (PublishedPort(80, 80), PublishedPort(80, 80, "udp"), PublishedPort(1), PublishedPort(2)))
    validate_service(msgspec.structs.replace(GOOD, endpoint=endpoint, replicas=None))


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (NetworkSpec(name="x", pools=(Pool(IPv4Network("10.0.0.0/31")),)), "has no room for a container"),
        (
            NetworkSpec(name="x", pools=(Pool(SUBNET, IPv4Address("10.2.0.1")),)),
            "gateway 10.2.0.1 is not in subnet 10.1.0.0/24",
        ),
        (NetworkSpec(name="x", pools=(Pool(SUBNET, None, IPv4Network("10.1.0.0/16")),)), "ip-range 10.1.0.0/16 is not in"),
        (NetworkSpec(name="x", pools=(Pool(SUBNET),) * 2, vnis=(1,)), "insufficient vnis(1) passed to overlay"),
    ],
)
def test_networks(spec: NetworkSpec, text: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        validate_network(spec)
    assert text in str(raised.value)

"""Specifications that are refused, and the words for it."""

import re
from ipaddress import IPv4Address, IPv4Network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.control.requests.validation import validate_network, validate_service
from weft.errors import Forbidden, InvalidArgument
from weft.model.generic import GenericResource
from weft.model.health import HealthCheck
from weft.model.ids import NetworkId
from weft.model.network import NetworkSpec, Pool
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    Mount,
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


def checked(**fields: object) -> dict[str, object]:
    check = msgspec.structs.replace(HealthCheck(test=("CMD", "true")), **fields)
    return task(container=ContainerSpec(image="busybox", healthcheck=check))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            checked(interval=-1),
            "ContainerSpec: Interval in HealthConfig cannot be less than 1ms",
        ),
        (
            checked(timeout=999_999),
            "ContainerSpec: Timeout in HealthConfig cannot be less than 1ms",
        ),
        (
            checked(start_period=1),
            "ContainerSpec: StartPeriod in HealthConfig cannot be less than 1ms",
        ),
        (
            checked(start_interval=-5),
            "ContainerSpec: StartInterval in HealthConfig cannot be less than 1ms",
        ),
        (checked(retries=-1), "ContainerSpec: Retries in HealthConfig cannot be negative"),
        (
            checked(retries=2**31),
            "ContainerSpec: Retries in HealthConfig cannot be more than 2147483647",
        ),
        (
            checked(test=("CMDS", "x")),
            "ContainerSpec: Test in HealthConfig: Unknown healthcheck type 'CMDS'"
            " (expected one of NONE, CMD, CMD-SHELL)",
        ),
        (
            checked(test=("",)),
            "ContainerSpec: Test in HealthConfig: Unknown healthcheck type ''"
            " (expected one of NONE, CMD, CMD-SHELL)",
        ),
        (checked(test=("CMD",)), "ContainerSpec: Test in HealthConfig: CMD has no command"),
        (
            checked(test=("CMD-SHELL",)),
            "ContainerSpec: Test in HealthConfig: CMD-SHELL has no command",
        ),
        (checked(test=("CMD", "a\0b")), "ContainerSpec: Test in HealthConfig has a NUL in it"),
        ({"name": ""}, "meta: name must be provided"),
        ({"name": "a" * 64}, "name must be 63 characters or fewer"),
        ({"name": "a.b"}, "name must be valid as a DNS name component"),
        (
            {"name": "paymentgatewayintegration" * 2 + ".eu-west"},
            "name must be valid as a DNS name component",
        ),
        ({"name": "-a"}, "name must be valid as a DNS name component"),
        ({"name": "a_"}, "name must be valid as a DNS name component"),
        ({"replicas": -1}, "Number of replicas must be non-negative: -1"),
        ({"replicas": 10**7}, "Number of replicas must be at most 1000000: 10000000"),
        (
            task(container=ContainerSpec(image="")),
            "ContainerSpec: image reference must be provided",
        ),
        (
            task(container=ContainerSpec(image="A B")),
            'ContainerSpec: "A B" is not a valid repository/tag',
        ),
        (
            task(container=ContainerSpec(image="a" * 256)),
            'ContainerSpec: "' + "a" * 256 + '" is not a valid repository/tag',
        ),
        (task(limits=Resources(nano_cpus=10)), "invalid cpu value 1e-08: Must be at least 0.001"),
        (
            task(reservations=Resources(memory=1024)),
            "invalid memory value 1024: Must be at least 4MiB",
        ),
        (task(restart=RestartPolicy(delay=-1)), "TaskSpec: restart-delay cannot be negative"),
        (
            task(placement=Placement(constraints=("x",))),
            "constraint expected one operator from ==, !=",
        ),
        (
            task(placement=Placement(constraints=("node.id==" + "a" * 1100,))),
            f"constraint 'node.id=={'a' * 191}… (1109 characters)' is longer than 1024 characters",
        ),
        (
            task(networks=(NetworkAttachmentSpec(NetworkId("n")),) * 2),
            "TaskSpec: a network is attached more than once",
        ),
        ({"update": UpdateConfig(monitor=-1)}, "TaskSpec: update-monitor cannot be negative"),
        (
            {"rollback": UpdateConfig(max_failure_ratio=2)},
            "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
        ),
        (
            {"rollback": UpdateConfig(failure_action="rollback")},
            "RollbackConfig.FailureAction: rollback cannot be the action for a failed rollback",
        ),
        (
            {"endpoint": EndpointSpec("vip", (PublishedPort(0, 80),))},
            "EndpointSpec.Ports: TargetPort must be between 1 and 65535",
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


def with_container(**fields: object) -> ServiceSpec:
    container = msgspec.structs.replace(GOOD.task.container, **fields)
    return msgspec.structs.replace(
        GOOD, task=msgspec.structs.replace(GOOD.task, container=container), labels={"a": "b"}
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"env": ("A={{.Node.Nonsense}}",)},
            "expanding env failed: cannot expand template '{{.Node.Nonsense}}'",
        ),
        ({"env": ("A={{.Task.Slot",)}, "unclosed action"),
        ({"hostname": "{{if}}"}, "expanding hostname failed"),
        (
            {"mounts": (Mount(type="tmpfs", target="/x"), Mount(type="tmpfs", target="/x"))},
            "ContainerSpec: duplicate mount point: /x",
        ),
        (
            {
                "mounts": (
                    Mount(type="tmpfs", target="/{{.Task.Slot}}"),
                    Mount(type="tmpfs", target="/1"),
                )
            },
            "ContainerSpec: duplicate mount point: /1",
        ),
    ],
)
def test_a_container_that_no_task_could_have(fields: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        validate_service(with_container(**fields))
    assert text in str(raised.value)


@pytest.mark.parametrize(
    ("port", "text"),
    [
        (
            PublishedPort(80, 8000),
            "port 8000 published with ingress mode can't be used with the network host",
        ),
        (PublishedPort(80), "port 80 published with ingress mode"),
        (
            PublishedPort(80, 8000, mode="host"),
            "target port 80 can't be published as 8000 on the network host",
        ),
        (PublishedPort(80, 80, mode="host"), ""),
        (PublishedPort(80, mode="host"), ""),
    ],
)
def test_ports_on_the_hosts_network(port: PublishedPort, text: str) -> None:
    task = msgspec.structs.replace(GOOD.task, host_network=True, networks=())
    wanted = msgspec.structs.replace(GOOD, task=task, endpoint=EndpointSpec(ports=(port,)))
    if not text:
        validate_service(wanted)
        return
    with pytest.raises(InvalidArgument) as raised:
        validate_service(wanted)
    assert text in str(raised.value)


def test_templates_that_are_good_pass() -> None:
    validate_service(
        with_container(
            env=("A={{.Service.Labels.a}}", "{{=1"), hostname='{{if eq .Task.Slot "1"}}a{{end}}'
        )
    )


def test_a_good_service_passes() -> None:
    endpoint = EndpointSpec(
        "vip",
        (PublishedPort(80, 80), PublishedPort(80, 80, "udp"), PublishedPort(1), PublishedPort(2)),
    )
    validate_service(msgspec.structs.replace(GOOD, endpoint=endpoint, replicas=None))


def pools(*pools: Pool) -> NetworkSpec:
    return NetworkSpec(name="x", pools=pools)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (NetworkSpec(name=""), "meta: name must be provided"),
        (NetworkSpec(name="a/b"), "name must be valid as a DNS name component"),
        (NetworkSpec(name="a" * 64), "name must be 63 characters or fewer"),
        (
            pools(Pool(IPv4Network("10.0.0.0/30"))),
            "subnet 10.0.0.0/30: the prefix must be 1 to 29 bits long",
        ),
        (
            pools(Pool(IPv4Network("0.0.0.0/0"))),
            "subnet 0.0.0.0/0: the prefix must be 1 to 29 bits long",
        ),
        (pools(Pool(IPv4Network("224.0.0.0/24"))), "subnet 224.0.0.0/24 is not a range for hosts"),
        (
            pools(Pool(SUBNET, IPv4Address("10.2.0.1"))),
            "gateway 10.2.0.1 is not a host address of subnet 10.1.0.0/24",
        ),
        (
            pools(Pool(SUBNET, IPv4Address("10.1.0.255"))),
            "gateway 10.1.0.255 is not a host address of subnet 10.1.0.0/24",
        ),
        (
            pools(Pool(SUBNET, reserved={"a": IPv4Address("10.1.0.0")})),
            "aux-address a 10.1.0.0 is not a host address of",
        ),
        (
            pools(Pool(SUBNET, IPv4Address("10.1.0.9"), reserved={"a": IPv4Address("10.1.0.9")})),
            "an address of subnet 10.1.0.0/24 is reserved twice",
        ),
        (pools(Pool(SUBNET, None, IPv4Network("10.1.0.0/16"))), "ip-range 10.1.0.0/16 is not in"),
        (
            pools(Pool(SUBNET), Pool(IPv4Network("10.1.0.0/25"))),
            "subnet 10.1.0.0/25 overlaps 10.1.0.0/24",
        ),
        (
            pools(*(Pool(IPv4Network(f"10.1.{number}.0/24")) for number in range(65))),
            "65 subnets are more than 64",
        ),
        (
            NetworkSpec(
                name="x", pools=(Pool(SUBNET), Pool(IPv4Network("10.2.0.0/24"))), vnis=(1,)
            ),
            "insufficient vnis(1)",
        ),
        (NetworkSpec(name="x", vnis=(5000, 5000)), "a VNI is given twice"),
        (
            NetworkSpec(name="x", ingress=True, attachable=True),
            "ingress network cannot be attachable",
        ),
    ],
)
def test_networks(spec: NetworkSpec, text: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        validate_network(spec)
    assert text in str(raised.value)


@pytest.mark.parametrize("name", ["bridge", "host", "none", "default"])
def test_names_of_networks_that_every_host_has(name: str) -> None:
    with pytest.raises(Forbidden, match=f"{name} is a pre-defined network and cannot be created"):
        validate_network(NetworkSpec(name=name))


@given(st.text("ab1-_.é", max_size=12))
def test_a_name_is_one_where_the_originals_pattern_says_so(name: str) -> None:
    """It is slow, but not for these."""
    spec = msgspec.structs.replace(GOOD, name=name)
    if re.fullmatch(r"[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*", name):
        validate_service(spec)
    else:
        with pytest.raises(InvalidArgument):
            validate_service(spec)


@pytest.mark.parametrize(
    ("kinds", "text"),
    [
        (("GPU", "GPU"), "invalid argument for resource GPU: it is given twice"),
        (("",), "invalid argument for resource : not a kind"),
        (("a b",), "invalid argument for resource a b: not a kind"),
    ],
)
def test_generic_resources_have_kinds_each_once(kinds: tuple[str, ...], text: str) -> None:
    reserved = Resources(generic=tuple(GenericResource(kind) for kind in kinds))
    with pytest.raises(InvalidArgument, match=f"^{text}$"):
        validate_service(msgspec.structs.replace(GOOD, **task(reservations=reserved)))

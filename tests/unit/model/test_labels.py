"""The labels of a service that Weft obeys: what they mean, and the words for what they cannot
mean."""

import re
from ipaddress import IPv4Address

import pytest
from msgspec.structs import replace

from weft.errors import InvalidArgument
from weft.model.device import Device
from weft.model.labels import AFFINITY, DEVICES, PRIVILEGED, PUBLISH_ADDRESS, START_AFTER, applied
from weft.model.service import ContainerSpec, EndpointSpec, PublishedPort, ServiceSpec, TaskSpec

TASK = TaskSpec(container=ContainerSpec(image="busybox"))


def container(**labels: str) -> ContainerSpec:
    named = {f"weft.{name.replace('_', '-')}": value for name, value in labels.items()}
    spec = ServiceSpec(name="web", task=TASK, labels={"mine": "weft.devices", **named})
    return applied(spec).task.container


@pytest.mark.parametrize(
    ("text", "source", "target", "access"),
    [
        ("/dev/fuse", "/dev/fuse", "/dev/fuse", "rwm"),
        ("/dev/fuse:r", "/dev/fuse", "/dev/fuse", "r"),
        ("/dev/ttyUSB0:/dev/modem", "/dev/ttyUSB0", "/dev/modem", "rwm"),
        ("/dev/ttyUSB0:/dev/modem:rw", "/dev/ttyUSB0", "/dev/modem", "rw"),
    ],
)
def test_devices_are_written_as_for_docker_run(
    text: str, source: str, target: str, access: str
) -> None:
    other = Device(source="/dev/kvm", target="/dev/kvm")
    expected = (Device(source=source, target=target, access=access), other)
    assert container(devices=f"{text}, /dev/kvm").devices == expected


ALL = PublishedPort(80, 8080)
NAMES = PublishedPort(53, 53, "udp", "host")
OPEN = PublishedPort(90)


def ports(*published: PublishedPort, **labels: str) -> list[str]:
    """The addresses of the ports. `at`: of all; `tcp_8080`: of that port."""
    named = {
        PUBLISH_ADDRESS + ("" if name == "at" else ".{1}/{0}".format(*name.split("_"))): value
        for name, value in labels.items()
    }
    spec = ServiceSpec(name="web", task=TASK, labels=named, endpoint=EndpointSpec(ports=published))
    return [str(port.host_address) for port in applied(spec).endpoint.ports]


def test_ports_are_published_at_the_addresses_of_the_labels() -> None:
    assert ports(ALL, NAMES, OPEN) == ["None"] * 3
    assert ports(ALL, NAMES, OPEN, at="192.0.2.10") == ["192.0.2.10"] * 3
    several = ports(ALL, NAMES, OPEN, udp_53="127.0.0.1", tcp_8080="192.0.2.11")
    assert several == ["192.0.2.11", "127.0.0.1", "None"]
    assert ports(ALL, NAMES, at="192.0.2.10", udp_53="127.0.0.1") == ["192.0.2.10", "127.0.0.1"]
    assert ports(replace(ALL, host_address=IPv4Address("192.0.2.9"))) == ["None"]


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("0.0.0.0", "stands for all addresses: leave the label out"),
        ("239.1.2.3", "is not an address that a host can have"),
        ("255.255.255.255", "is not an address that a host can have"),
        ("::1", "is an IPv6 address: ports are published at IPv4 addresses only"),
        ("eth0", "must be an IPv4 address"),
    ],
)
def test_other_addresses_to_publish_at_are_refused(value: str, cause: str) -> None:
    for label in ("at", "tcp_8080"):
        with pytest.raises(InvalidArgument, match=cause):
            ports(ALL, **{label: value})


def test_labels_decide_alone_about_the_containers() -> None:
    """A specification that has been through the labels once, as at an update, is read anew."""
    spec = applied(
        ServiceSpec(name="web", task=TASK, labels={DEVICES: "/dev/kvm", PRIVILEGED: "true"})
    )
    assert spec.task.container.privileges.privileged
    assert applied(spec) == spec
    without = ServiceSpec(name="web", task=spec.task, labels={PRIVILEGED: "false"})
    assert applied(without).task == TASK


@pytest.mark.parametrize(
    ("label", "value", "cause"),
    [
        (PRIVILEGED, "yes", "must be true or false"),
        (PRIVILEGED, "", "must be true or false"),
        (PUBLISH_ADDRESS, "192.0.2.10", "the service publishes no port"),
        (f"{PUBLISH_ADDRESS}.80", "192.0.2.10", "the service publishes no port 80/tcp"),
        (f"{PUBLISH_ADDRESS}.x/udp", "192.0.2.10", "the service publishes no port x/udp"),
        (AFFINITY, "", "must be client-address"),
        (AFFINITY, "cookie", "must be client-address"),
        (START_AFTER, "db,,web", "must be a list with commas, without empty words"),
        (START_AFTER, ",".join("a" * 65), "names more than 64 services"),
        (DEVICES, "", "must be a list with commas, without empty words"),
        (DEVICES, "/dev/kvm,", "must be a list with commas, without empty words"),
        (DEVICES, "kvm", "'kvm' is not an absolute path without . and .."),
        (DEVICES, "/dev/../kvm", "'/dev/../kvm' is not an absolute path without . and .."),
        (DEVICES, "/dev/a\0b", "'/dev/a\\x00b' is not an absolute path without . and .."),
        (DEVICES, "/dev/kvm:/", "'/' is not an absolute path without . and .."),
        (DEVICES, "/dev/kvm:rr", "must be SOURCE[:TARGET][:ACCESS], ACCESS of r, w and m"),
        (DEVICES, "/dev/kvm:/dev/a:x", "must be SOURCE[:TARGET][:ACCESS], ACCESS of r, w and m"),
        (DEVICES, "/dev/a:/dev/b:/dev/c:r", "must be SOURCE[:TARGET][:ACCESS], ACCESS of r, w"),
        (DEVICES, "/dev/a:/dev/c,/dev/b:/dev/c", "names the target /dev/c twice"),
    ],
)
def test_a_label_without_meaning_is_refused_with_its_value(
    label: str, value: str, cause: str
) -> None:
    said = re.escape(f"Labels: {label}={value}: {cause}")
    with pytest.raises(InvalidArgument, match=said):
        applied(ServiceSpec(name="web", task=TASK, labels={label: value}))


def test_devices_are_bounded_and_unknown_labels_of_weft_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="has more than 64 devices"):
        container(devices=",".join(f"/dev/d{n}" for n in range(65)))
    with pytest.raises(InvalidArgument, match=r"weft\.device is not a label that Weft knows"):
        container(device="/dev/kvm")

"""Settings of a container's process with which it could start nowhere are refused when the service
is asked for, in words that name the setting."""

import re

import msgspec
import pytest

from weft.control.requests.validation import validate_service
from weft.errors import InvalidArgument
from weft.model.kernel_settings import ULIMITS
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    Job,
    PublishedPort,
    ServiceSpec,
    TaskSpec,
    Ulimit,
)


def service(*, on_the_host: bool = False, **fields: object) -> ServiceSpec:
    container = msgspec.structs.replace(ContainerSpec(image="busybox"), **fields)
    return ServiceSpec(name="web", task=TaskSpec(container=container, host_network=on_the_host))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"cap_add": ("NOPE",)}, "invalid CapabilityAdd: unknown capability: 'CAP_NOPE'"),
        ({"cap_drop": ("all", "cap_nope")}, "invalid CapabilityDrop: unknown capability: 'CAP_NOPE'"),
        ({"stop_signal": "SIGFOO"}, "invalid signal: SIGFOO"),
        ({"dir": "data"}, "the working directory 'data' is invalid"),
        ({"sysctls": {"kernel.foo": "1"}}, 'sysctl "kernel.foo" is not in a separate'),
        ({"sysctls": {"vm/swappiness": "1"}}, 'sysctl "vm/swappiness" is not in a separate'),
        ({"sysctls": {"network": "1"}}, 'sysctl "network" is not in a separate'),
        ({"sysctls": {"kernel.hostname": "x"}}, "use the container's hostname"),
        ({"sysctls": {"net/ipv4/ip_forward": "1"}, "on_the_host": True}, "not allowed in the host's"),
        ({"ulimits": (Ulimit("speed", 1, 1),)}, "invalid ulimit type: speed"),
        ({"ulimits": (Ulimit("nofile", 2, 1),)}, "must be less than or equal to hard limit: 2 > 1"),
        ({"hostname": "h" * 65}, "Hostname: hhh"),
        ({"hostname": "a\n1.2.3.4 b"}, "is not a name"),
        ({"hostname": "a b"}, "is not a name"),
    ],
)  # fmt: skip
def test_refused(fields: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidArgument, match="ContainerSpec: .*" + re.escape(text)):
        validate_service(service(**fields))  # type: ignore[arg-type]  # the options differ in type


@pytest.mark.parametrize(
    "fields",
    [
        {"cap_add": ("ALL", "net_admin", "CAP_SYS_TIME"), "cap_drop": ("MKNOD",)},
        {"stop_signal": "SIGRTMIN+3"},
        {"dir": "/data"},
        {"sysctls": {"net.core.somaxconn": "1", "kernel.sem": "1 2 3 4", "fs.mqueue.msg_max": "5"}},
        {"sysctls": {"kernel.domainname": "x"}, "on_the_host": True},
        {"ulimits": tuple(Ulimit(name, -1, -1) for name in ULIMITS)},
        {"hostname": "h" * 64},
        {"hostname": "{{.Service.Name}}-{{.Task.Slot}}-" + "{{.Node.ID}}" * 4},
    ],
)
def test_accepted(fields: dict[str, object]) -> None:
    validate_service(service(**fields))  # type: ignore[arg-type]  # the options differ in type


def test_a_job_publishes_no_ports() -> None:
    port = EndpointSpec(ports=(PublishedPort(target=80),))
    job = msgspec.structs.replace(service(), job=Job(), replicas=1, endpoint=port)
    with pytest.raises(InvalidArgument, match=r"EndpointSpec.Ports: a job cannot publish ports"):
        validate_service(job)

"""What a request for a plain container must not say: it would fail later than it should."""

import json
from typing import Any

import pytest

from weft.api.schema.container_request import limits_from, request_from
from weft.api.schema.container_wire import NewContainerWire, UpdateContainerWire
from weft.api.schema.decoding import decode
from weft.errors import InvalidArgument, Unsupported
from weft.model.container_request import ContainerRequest


def read(**fields: Any) -> ContainerRequest:
    body = json.dumps({"Image": "demo"} | fields).encode()
    return request_from(decode(body, NewContainerWire), "web", str, ())


@pytest.mark.parametrize(
    "mac", ["zz", "02:42:0a:00:00", "03:42:0a:00:00:01", "02:42:0a:00:00:01\n"]
)
def test_what_is_no_mac_of_one_interface(mac: str) -> None:
    """The network of the whole node would be set up with it, and fail."""
    endpoint = {"EndpointsConfig": {"bridge": {"MacAddress": mac}}}
    for fields in ({"MacAddress": mac}, {"NetworkingConfig": endpoint}):
        with pytest.raises(InvalidArgument, match="invalid MAC address"):
            read(**fields)


def test_a_mac_in_any_notation() -> None:
    (settings,) = read(MacAddress="02-42-0A-00-00-01").plain.networks
    assert settings.mac == "02:42:0a:00:00:01"


PATH = "/dev/a\0b"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Devices", [{"PathOnHost": PATH}]),
        ("Devices", [{"PathOnHost": "/dev/null", "PathInContainer": PATH}]),
        ("BlkioDeviceReadBps", [{"Path": PATH, "Rate": 1}]),
        ("BlkioWeightDevice", [{"Path": PATH, "Weight": 10}]),
    ],
)
def test_a_path_of_the_host_that_no_file_has(field: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=f"{field}: .*NUL"):
        read(HostConfig={field: value})


def test_an_update_is_read_as_strictly() -> None:
    for field in ("BlkioDeviceWriteIOps", "MemorySwappiness", "OomKillDisable"):
        with pytest.raises(Unsupported, match=f"{field} is not supported by Weft"):
            decode(json.dumps({field: [1]}).encode(), UpdateContainerWire)
    with pytest.raises(InvalidArgument, match="Minimum memory limit allowed is 6MB"):
        limits_from(decode(b'{"Memory": -1}', UpdateContainerWire))


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("IpcMode", "nonsense", "invalid IPC mode: nonsense"),
        ("IpcMode", "container:", "invalid IPC mode: container:"),
        ("PidMode", "bla", "invalid PID mode: bla"),
        ("PidMode", "container:", "invalid PID mode: container:"),
        ("UTSMode", "container:one", "invalid UTS mode: container:one"),
        ("UsernsMode", "bla", "invalid user namespace mode: bla"),
        ("CgroupnsMode", "bla", "invalid cgroup namespace mode: bla"),
        ("NetworkMode", "container:", "invalid network mode: invalid container format container:"),
    ],
)
def test_a_mode_that_a_namespace_cannot_have(field: str, value: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read(HostConfig={field: value})
    assert text in str(raised.value)


@pytest.mark.parametrize("mode", ["", "none", "private", "shareable", "host", "container:one"])
def test_each_mode_of_the_ipc_namespace(mode: str) -> None:
    assert read(HostConfig={"IpcMode": mode}).plain.modes.ipc == mode


@pytest.mark.parametrize(
    "rule",
    ["c 1:3", "x 1:3 r", "c 1:3 rwx", "c 1:3  r", "", "c 1 r", "c 9999999999:1 r", "c 1:3 r "],
)
def test_a_rule_for_devices_that_is_none_is_refused(rule: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid device cgroup rule format"):
        read(HostConfig={"DeviceCgroupRules": [rule]})


@pytest.mark.parametrize("rule", ["c 1:3 r", "b *:7 rwm", "a *:* rwm", "c 42:* mr"])
def test_a_rule_for_devices_is_kept_as_it_was_written(rule: str) -> None:
    made = read(HostConfig={"DeviceCgroupRules": [rule]})
    assert [str(each) for each in made.plain.device_rules] == [rule]

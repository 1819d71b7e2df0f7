"""The nodes and rules of a container's devices, from the nodes of this host."""

import os
from pathlib import Path

import pytest

from weft.errors import OperationFailed
from weft.model.device import Device, DeviceRule
from weft.model.privileges import Privileges
from weft.model.service import ContainerSpec
from weft.runtime.devices import Devices, find_devices

NOTHING = {"allow": False, "access": "rwm"}


def spec(*devices: Device, privileged: bool = False) -> ContainerSpec:
    return ContainerSpec(image="web", devices=devices, privileges=Privileges(privileged=privileged))


def test_without_a_wish_there_is_nothing() -> None:
    assert find_devices(spec()) == Devices((), (NOTHING,))


def test_a_link_leads_to_the_device_that_is_allowed(tmp_path: Path) -> None:
    link = tmp_path / "by-id"
    link.symlink_to("/dev/null")
    found = find_devices(spec(Device(source=str(link), target="/dev/mine", access="r")))
    status = os.stat("/dev/null")
    numbers = {"type": "c", "major": 1, "minor": 3}
    mode = {"fileMode": status.st_mode & 0o7777, "uid": status.st_uid, "gid": status.st_gid}
    assert found.nodes == ({"path": "/dev/mine"} | numbers | mode,)
    assert found.rules == (NOTHING, {"allow": True, "access": "r"} | numbers)


def test_rules_are_for_devices_without_nodes() -> None:
    rules = (
        DeviceRule(kind="c", major=42, access="rm"),
        DeviceRule(kind="b", minor=7, access="w"),
        DeviceRule(kind="a", access="rwm"),
    )
    assert [str(rule) for rule in rules] == ["c 42:* rm", "b *:7 w", "a *:* rwm"]
    assert find_devices(spec(), rules) == Devices((), (
        NOTHING,
        {"allow": True, "type": "c", "access": "rm", "major": 42},
        {"allow": True, "type": "b", "access": "w", "minor": 7},
        {"allow": True, "type": "a", "access": "rwm"},
    ))  # fmt: skip


def test_what_is_no_device_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for source, cause in (("file", "not a device node"), (".", "no devices"), ("none", "No such")):
        device = Device(source=str(tmp_path / source), target="/dev/mine")
        with pytest.raises(OperationFailed, match=cause):
            find_devices(spec(device))


def test_a_privileged_container_may_open_all_and_gets_what_the_runtime_does_not_make() -> None:
    mine = Device(source="/dev/zero", target="/dev/mine")
    found = find_devices(spec(mine, privileged=True))
    assert found.rules == ({"allow": True, "access": "rwm"},)
    paths = [node["path"] for node in found.nodes]
    assert paths[-1] == "/dev/mine"
    assert not {"/dev/null", "/dev/console", "/dev/ptmx"} & set(paths)
    assert not any(path.startswith(("/dev/pts/", "/dev/shm/", "/dev/fd/")) for path in paths)

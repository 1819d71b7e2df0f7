"""Devices and privileges that the labels of a service ask for, looked at from inside real
containers."""

import pytest

from tests.kernel import runtime_host
from tests.kernel.runtime_host import Host, finished, with_runtime
from weft.errors import OperationFailed
from weft.model.device import Device
from weft.model.privileges import Privileges
from weft.runtime.conmon import ConmonRuntime

pytestmark = runtime_host.NEEDED
host = runtime_host.host
image_archive = runtime_host.image_archive

LOOPS = Device(source="/dev/loop-control", target="/dev/mine", access="r")
"""Not /dev/net/tun: runc before 1.2 allows it to every container."""


@with_runtime
async def test_a_device_is_there_under_its_name_and_only_as_far_as_allowed(
    runtime: ConmonRuntime, host: Host
) -> None:
    kmsg = Device(source="/dev/kmsg", target="/dev/kmsg", access="w")
    script = (
        "exec 3</dev/mine && echo opened; ls /dev/loop-control; echo hello >/dev/kmsg && echo wrote;"
        " (exec 4>/dev/mine); mknod /dev/loop9 b 7 9 && head -c 0 /dev/loop9"
    )
    code, said = await finished(runtime, "sh", "-c", script, devices=(LOOPS, kmsg))
    lines = said.decode()
    assert "opened" in lines, lines
    assert "wrote" in lines
    assert "/dev/loop-control: No such file" in lines
    assert lines.count("Operation not permitted") == 2, lines
    assert code == 1


@with_runtime
async def test_a_device_that_the_host_lacks_is_named(runtime: ConmonRuntime, host: Host) -> None:
    missing = Device(source="/dev/none", target="/dev/none")
    with pytest.raises(OperationFailed, match='"/dev/none": No such file or directory'):
        await finished(runtime, "true", devices=(missing,))
    assert runtime.containers() == []


@with_runtime
async def test_a_privileged_container_has_what_its_host_has(
    runtime: ConmonRuntime, host: Host
) -> None:
    script = (
        "grep -E '^(CapEff|Seccomp):' /proc/self/status; grep -E '^CapBnd:' /proc/1/status;"
        " exec 3<>/dev/net/tun && echo tun; head -c 0 /dev/kmsg && echo kmsg;"
        " grep -cE ' (/sys|/sys/fs/cgroup[^ ]*|/proc/[^ ]*) .* ro,' /proc/self/mountinfo"
    )
    _, said = await finished(
        runtime, "sh", "-c", script, privileges=Privileges(privileged=True), cap_drop=("ALL",)
    )
    lines = said.decode().split("\n")
    held = dict(line.split(":\t") for line in lines if ":\t" in line)
    assert held["Seccomp"] == "0"
    assert held["CapEff"] == held["CapBnd"] != "0" * 16
    assert lines[-4:] == ["tun", "kmsg", "0", ""], lines

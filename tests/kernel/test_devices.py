"""Devices and privileges that users ask for, looked at from inside real
containers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from tests.kernel import runtime_host
from tests.kernel.runtime_host import Host, configure, finished, with_runtime
from weft.errors import OperationFailed
from weft.model.device import Device
from weft.model.device_request import DeviceRequest
from weft.model.plain_container import PlainContainer
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


@contextmanager
def described() -> Iterator[str]:
    """A device that a file of this host describes."""
    file, hook = Path(f"/var/run/cdi/weft-{os.getpid()}.yaml"), Path(f"/run/hook-{os.getpid()}")
    file.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nenv > made-by-hook\n")
    hook.chmod(0o755)
    file.write_text(
        "cdiVersion: 0.7.0\nkind: weft.test/null\ndevices:\n- name: 0\n  containerEdits:\n"
        "    env: [GIVEN=yes]\n    additionalGids: [77]\n"
        "    deviceNodes: [{path: /dev/given, hostPath: /dev/null, permissions: rw}]\n"
        "    mounts: [{hostPath: /etc/hostname, containerPath: /given, options: [ro, bind]}]\n"
        f"    hooks: [{{hookName: createContainer, path: {hook}}}]\n"
    )
    file.chmod(0o644)
    try:
        yield "weft.test/null=0"
    finally:
        file.unlink()
        hook.unlink()
        with suppress(OSError):
            file.parent.rmdir()


@with_runtime
async def test_a_described_device_comes_with_all_that_its_file_says(
    runtime: ConmonRuntime, host: Host
) -> None:
    """Its hook does not see the container's environment, by which an image could make it run a
    library of its own as root of the host."""
    script = (
        "echo $GIVEN; id -G; echo x >/dev/given && echo wrote; cat /given; cat /made-by-hook;"
        " touch /given || exit 3"
    )
    config = configure("sh", "-c", script, namespace="", env=("LD_PRELOAD=/from-the-image.so",))
    with described() as device:
        request = DeviceRequest(driver="cdi", ids=(device,))
        config = msgspec.structs.replace(config, plain=PlainContainer(device_requests=(request,)))
        await runtime.create(config)
    await runtime.start(config.id)
    ended = await runtime.wait(config.id)
    said = b"".join([line.data async for line in runtime.logs(config.id)]).decode()
    assert said.startswith(f"yes\n0 77\nwrote\n{Path('/etc/hostname').read_text()}"), said
    assert "PATH=/usr/sbin:/usr/bin:/sbin:/bin\n" in said
    assert "from-the-image" not in said
    assert ended.exit_code == 3


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

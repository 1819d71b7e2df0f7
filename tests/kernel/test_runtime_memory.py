"""Secrets and configs in containers by the real conmon and runc: files that are in memory only, and
that nobody on the host finds once the container is made."""

import os
from pathlib import Path

import pytest

from tests.kernel import runtime_host
from tests.kernel.runtime_host import Host, configure, with_runtime
from weft.errors import OperationFailed
from weft.model.container import MemoryFile
from weft.model.secret import DataReference
from weft.runtime.conmon import ConmonRuntime
from weft.runtime.mounts import mount_memory, mount_points_below

pytestmark = runtime_host.NEEDED
host = runtime_host.host
image_archive = runtime_host.image_archive

MARKER = b"marker-of-a-secret-in-memory"
SECRETS = (DataReference(id="s", name="s", target="pw"),)
CONFIGS = (DataReference(id="c", name="c", target="/etc/new/app"),)
FILES = (
    MemoryFile(path="/run/secrets/pw", data=MARKER, uid=33, gid=44, mode=0o440),
    MemoryFile(path="/etc/new/app", data=b"app"),
)


def found_on(host: Host) -> list[Path]:
    """Files on the host's disk that have the marker, whatever the container's name for it."""
    files = (path for top in (host.data, host.run) for path in top.rglob("*") if path.is_file())
    return [path for path in files if not path.is_symlink() and MARKER in path.read_bytes()]


@with_runtime
async def test_a_container_sees_its_files_and_the_host_does_not(
    runtime: ConmonRuntime, host: Host
) -> None:
    script = (
        "cat /run/secrets/pw; stat -c ' %u:%g:%a' /run/secrets/pw; cat /etc/new/app;"
        " echo x > /etc/new/app || echo ' refused'; rm /run/secrets/pw || echo kept;"
        " while [ ! -e /stop ]; do sleep 0.02; done"
    )
    config = configure("sh", "-c", script, secrets=SECRETS, configs=CONFIGS)
    await runtime.create(config, FILES)
    assert mount_points_below(host.data) == [host.data / "containers" / config.id / "merged"]
    assert found_on(host) == []
    container = await runtime.start(config.id)
    said = b""
    async for line in runtime.logs(config.id, follow=True):
        if line.stream == 1:
            said += line.data
        if said.endswith(b"kept\n"):
            break
    assert said == MARKER + b" 33:44:440\napp refused\nkept\n"
    inside = Path(f"/proc/{container.pid}/root/run/secrets/pw")
    assert inside.read_bytes() == MARKER
    assert os.statvfs(inside).f_flag & os.ST_RDONLY
    assert [path for path in found_on(host) if path.name != "log"] == []
    await runtime.stop(config.id, 0)


@with_runtime
async def test_an_ended_container_needs_its_files_again(runtime: ConmonRuntime, host: Host) -> None:
    config = configure("cat", "/run/secrets/pw", "/etc/new/app", secrets=SECRETS, configs=CONFIGS)
    with pytest.raises(OperationFailed, match="its secrets and configs is not here"):
        await runtime.create(config)
    await runtime.create(config, FILES)
    await runtime.start(config.id)
    assert (await runtime.wait(config.id)).exit_code == 0
    with pytest.raises(OperationFailed, match="its secrets and configs is not here"):
        await runtime.start(config.id)
    assert mount_points_below(host.data) == []
    await runtime.start(config.id, FILES)
    assert (await runtime.wait(config.id)).exit_code == 0
    said = b"".join([line.data async for line in runtime.logs(config.id)])
    assert said == 2 * (MARKER + b"app")


@with_runtime
async def test_a_link_in_the_container_leads_the_daemon_nowhere(
    runtime: ConmonRuntime, host: Host
) -> None:
    """The container moves the directory of its secrets and leaves a link to one of the host."""
    trap = host.data / "trap"
    trap.mkdir()
    script = f"mv /run/secrets /run/s && ln -s {trap} /run/secrets || cat /run/secrets/pw"
    config = configure("sh", "-c", script, secrets=SECRETS)
    for _ in range(2):
        if runtime.containers():
            await runtime.start(config.id, FILES[:1])
        else:
            await runtime.create(config, FILES[:1])
            await runtime.start(config.id)
        await runtime.wait(config.id)
        assert list(trap.iterdir()) == []
    trap.rmdir()


@with_runtime
async def test_a_new_daemon_takes_away_what_a_killed_one_left_mounted(
    runtime: ConmonRuntime, host: Host
) -> None:
    config = configure("sleep", "1000", secrets=SECRETS)
    await runtime.create(config, FILES[:1])
    await runtime.start(config.id)
    memory = host.data / "containers" / config.id / "memory"
    mount_memory(memory)
    (memory / "0").write_bytes(MARKER)
    second = await host.runtime()
    assert found_on(host) == []
    assert memory not in mount_points_below(host.data)
    assert Path(f"/proc/{second.get(config.id).pid}/root/run/secrets/pw").read_bytes() == MARKER
    await second.close()

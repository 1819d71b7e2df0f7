"""Health checks in a container of the real conmon and runc: what a probe comes to, and that nothing
is left of it."""

import time
from pathlib import Path

import msgspec

from tests.kernel import runtime_host
from tests.kernel.runtime_host import Host, started, with_runtime
from weft.engine.events import EventLog
from weft.engine.health import HealthMonitor
from weft.model.container import Container
from weft.model.health import MAX_OUTPUT, MILLISECOND, HealthCheck, HealthStatus, ProbeResult
from weft.model.ids import ContainerId
from weft.model.meta import SECOND
from weft.runtime.conmon import ConmonRuntime
from weft.runtime.images import ImageStore

pytestmark = runtime_host.NEEDED
host = runtime_host.host
image_archive = runtime_host.image_archive

SOON = 50 * MILLISECOND


class Checked:
    """One running container, checked in one way after another."""

    def __init__(self, runtime: ConmonRuntime, images: ImageStore, container: Container) -> None:
        self._runtime = runtime
        self.container = container
        self.events = EventLog(time.time_ns)
        self.monitor = HealthMonitor(runtime, images, self.events, time.time_ns)

    async def first(self, *test: str, timeout: int = 20 * SECOND) -> ProbeResult:
        """The first result of a check."""
        check = HealthCheck(test=test, interval=SOON, timeout=timeout, retries=1)
        container = msgspec.structs.replace(self._runtime.get(self.container.id), healthcheck=check)
        self.monitor.begin(container)
        await self.monitor.turned(container, HealthStatus.STARTING)
        health = self.monitor.of(container)
        assert health is not None
        self.monitor.forget(container.id)
        assert (health.status is HealthStatus.HEALTHY) == (health.log[0].exit_code == 0)
        return health.log[0]

    async def processes(self) -> list[str]:
        return [
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            for pid in await self._runtime.top(self.container.id)
        ]


async def checked(runtime: ConmonRuntime, host: Host) -> Checked:
    id: ContainerId = await started(runtime, "sleep", "1000", env=("A=container",))
    images = ImageStore(host.data / "images", time.time_ns)
    return Checked(runtime, images, runtime.get(id))


def freezer_of(pid: int) -> tuple[Path, str, str]:
    """The file that freezes the process's control group, and what it takes to freeze and to
    thaw."""
    groups = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    root = Path("/sys/fs/cgroup")
    for _, names, path in groups:
        if "freezer" in names.split(","):
            return root / "freezer" / path.lstrip("/") / "freezer.state", "FROZEN", "THAWED"
    return root / groups[0][2].lstrip("/") / "cgroup.freeze", "1", "0"


@with_runtime
async def test_probes_succeed_fail_hang_and_flood_and_leave_nothing(
    runtime: ConmonRuntime, host: Host
) -> None:
    c = await checked(runtime, host)
    good = await c.first("CMD-SHELL", "echo $A; echo bad >&2")
    assert (good.exit_code, sorted(good.output.split())) == (0, ["bad", "container"])
    assert [event.action for event in c.events.past] == [
        "exec_create: /bin/sh -c echo $A; echo bad >&2",
        "exec_start: /bin/sh -c echo $A; echo bad >&2",
        "exec_die",
        "health_status: healthy",
    ]
    bad = await c.first("CMD", "sh", "-c", "echo sick; exit 7")
    assert (bad.exit_code, bad.output) == (7, "sick\n")
    missing = await c.first("CMD", "nowhere")
    assert missing.exit_code == -1
    assert '"nowhere": executable file not found' in missing.output
    # A grandchild whose parent has ended, and one in the background; both keep the pipe open.
    hung = await c.first(
        "CMD-SHELL", "echo tired; (sleep 901 &); sleep 902 & sleep 903", timeout=SECOND
    )
    assert (hung.exit_code, hung.output) == (-1, "Health check exceeded timeout (1s): tired\n")
    flood = await c.first("CMD", "yes", timeout=SECOND // 2)
    assert flood.exit_code == -1
    assert flood.output.endswith("y\ny\n...")
    assert len(flood.output) < MAX_OUTPUT + 100
    assert await c.processes() == ["sleep 1000"]
    await c.monitor.close()


@with_runtime
async def test_a_frozen_container_fails_its_probes_and_recovers(
    runtime: ConmonRuntime, host: Host
) -> None:
    c = await checked(runtime, host)
    file, freeze, thaw = freezer_of(c.container.pid)
    file.write_text(freeze)
    try:
        frozen = await c.first("CMD", "true", timeout=SECOND)
    finally:
        file.write_text(thaw)
    assert frozen.exit_code == -1
    assert (await c.first("CMD", "true")).exit_code == 0
    assert await c.processes() == ["sleep 1000"]
    await c.monitor.close()

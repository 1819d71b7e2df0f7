"""What an agent does with secrets and configs, on virtual time: files in memory for its tasks, and
nothing of a secret on its disk."""

import asyncio
import logging
from pathlib import Path

import msgspec
import pytest

from tests.support.agent_rig import Rig, rig, simulated
from weft.agent.reboot import ALONE
from weft.model.secret import DataReference, Payload
from weft.model.task import TaskState

MARKER = b"hunter2 and more"
SECRET = DataReference(id="s1", name="password", target="pw", uid=7, gid=8, mode=0o400)
CONFIG = DataReference(id="c1", name="app", target="/etc/app.conf")


def needing(
    r: Rig,
    *,
    secrets: tuple[DataReference, ...] = (SECRET,),
    configs: tuple[DataReference, ...] = (CONFIG,),
) -> None:
    """The rig's tasks refer to these."""
    for id, task in r.swarm.tasks.items():
        container = msgspec.structs.replace(
            task.spec.container, secrets=tuple(secrets), configs=tuple(configs), env=("A=b=c",)
        )
        spec = msgspec.structs.replace(task.spec, container=container)
        r.swarm.tasks[id] = msgspec.structs.replace(task, spec=spec)


def supplied(r: Rig, config: bytes = b"port = 1", templated: bool = False) -> None:
    r.manager.secrets = (Payload(id="s1", data=MARKER),)
    r.manager.configs = (Payload(id="c1", data=config, templated=templated),)


def errors(r: Rig) -> set[str]:
    return {status.err for _, status in r.manager.log}


def on_disk(r: Rig) -> bytes:
    return b"".join(path.read_bytes() for path in r.data.rglob("*") if path.is_file())


@simulated
async def test_every_task_gets_its_files(tmp_path: Path) -> None:
    made = Rig(tmp_path / "data")
    needing(made)
    supplied(made)
    made.start()
    await made.until_all(TaskState.RUNNING)
    assert len(made.runtime.files) == 3
    for files in made.runtime.files.values():
        assert [(f.path, f.data, f.uid, f.gid, f.mode) for f in files] == [
            ("/run/secrets/pw", MARKER, 7, 8, 0o400),
            ("/etc/app.conf", b"port = 1", 0, 0, 0o444),
        ]
    assert MARKER not in on_disk(made)
    assert b"port = 1" in on_disk(made)
    assert errors(made) == {""}
    await made.stop()


@simulated
async def test_a_task_waits_for_what_no_manager_has_sent_and_says_so(tmp_path: Path) -> None:
    made = Rig(tmp_path / "data")
    needing(made)
    made.start()
    cause = "waits for secret password, config app: no manager has sent the data yet"
    await made.until(lambda: {s.err for s in made.manager.statuses.values()} == {cause})
    await asyncio.sleep(60)
    assert made.happened("create") == {}
    assert set(made.states().values()) == {TaskState.PREPARING}
    supplied(made)
    await made.manager.tell()
    await made.until_all(TaskState.RUNNING)
    assert {s.err for s in made.manager.statuses.values()} == {""}
    await made.stop()


@simulated
async def test_a_secret_that_is_gone_ends_the_task(tmp_path: Path) -> None:
    made = Rig(tmp_path / "data")
    needing(made)
    supplied(made)
    made.manager.secrets = (Payload(id="s1", is_gone=True),)
    made.start()
    await made.until_all(TaskState.REJECTED)
    assert errors(made) == {"", "secret password not found: it was removed"}
    await made.stop()


@simulated
async def test_after_a_reboot_without_a_manager_tasks_wait_for_their_secrets(
    tmp_path: Path,
) -> None:
    made = Rig(tmp_path / "data")
    needing(made)
    supplied(made)
    made.start()
    await made.until_all(TaskState.RUNNING)
    await made.kill()
    made.runtime.lose()
    made.manager.reachable = False
    made.start()
    await asyncio.sleep(ALONE + 20)
    assert made.runtime.running() == []
    cause = "waits for secret password: no manager has sent the data yet"
    assert {record.status.err for record in made.agent.records.all.values()} == {cause}
    made.manager.reachable = True
    await made.until(lambda: len(made.runtime.running()) == 3)
    assert [f.data for files in made.runtime.files.values() for f in files] == [
        MARKER, b"port = 1", MARKER, b"port = 1", MARKER, b"port = 1",
    ]  # fmt: skip
    await made.until(lambda: {s.err for s in made.manager.statuses.values()} == {""})
    await made.stop()


@simulated
async def test_after_a_reboot_without_a_manager_configs_are_there(tmp_path: Path) -> None:
    made = Rig(tmp_path / "data")
    needing(made, secrets=())
    supplied(made)
    made.start()
    await made.until_all(TaskState.RUNNING)
    await made.kill()
    made.runtime.lose()
    made.manager.reachable = False
    made.start()
    await asyncio.sleep(ALONE + 20)
    assert len(made.runtime.running()) == 3
    assert {f.data for files in made.runtime.files.values() for f in files} == {b"port = 1"}
    await made.stop()


@simulated
async def test_a_daemon_that_starts_again_leaves_running_containers_alone(tmp_path: Path) -> None:
    made = Rig(tmp_path / "data")
    needing(made)
    supplied(made)
    made.start()
    await made.until_all(TaskState.RUNNING)
    files = dict(made.runtime.files)
    await made.kill()
    made.manager.reachable = False
    made.start()
    await asyncio.sleep(60)
    assert made.runtime.files == files
    await made.check_running()
    await made.stop()


@simulated
async def test_what_ends_with_the_last_task(tmp_path: Path) -> None:
    made = Rig(tmp_path / "data")
    needing(made)
    supplied(made)
    made.start()
    await made.until_all(TaskState.RUNNING)
    await made.manager.want_all(TaskState.SHUTDOWN)
    await made.until_all(TaskState.SHUTDOWN)
    made.manager.secrets = made.manager.configs = ()
    await made.manager.tell()
    await made.until(lambda: not made.agent.assignment.secrets)
    assert made.runtime.files == {}
    assert b"port = 1" not in on_disk(made)
    await made.stop()


@simulated
async def test_templates_are_expanded_for_each_task(tmp_path: Path) -> None:
    made = Rig(tmp_path / "data")
    needing(made)
    template = b'{{.Task.Slot}} {{.Node.Hostname}} {{secret "pw"}} {{env "A"}}{{env "B"}}\xff'
    supplied(made, template, templated=True)
    made.start()
    await made.until_all(TaskState.RUNNING)
    assert {files[1].data for files in made.runtime.files.values()} == {
        f"{slot} node1 {MARKER.decode()} b=c".encode() + b"\xff" for slot in (1, 2, 3)
    }
    assert MARKER not in on_disk(made)
    await made.stop()


@pytest.mark.parametrize(
    "template",
    [
        b'{{secret "other"}}',
        b'{{index (secret "pw") 999}}',
        b'{{eq (secret "pw") 1}}',
        b'{{slice (secret "pw") 5 1}}',
        b'{{(secret "pw").x}}',
        b'{{len (secret "pw") 1}}',
        b'{{"\\ud800"}}{{secret "pw"}}',
        b'{{secret "pw" "pw"}}',
    ],
)
def test_no_failing_template_shows_a_secret(
    tmp_path: Path, template: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def scene(path: Path) -> None:
        async with rig(path) as r:
            await r.until_all(TaskState.RUNNING)
            needing(r)
            supplied(r, template, templated=True)
            r.swarm.service("late", r.net, on=[1])
            needing(r)
            await r.manager.tell()
            late = next(t for t in r.swarm.tasks.values() if t.service_name == "late").id
            await r.until(
                lambda: (
                    late in r.manager.statuses
                    and r.manager.statuses[late].state is TaskState.REJECTED
                )
            )
            assert "expanding config app failed: " in r.manager.statuses[late].err
            assert "hunter2" not in repr(r.manager.log) + caplog.text + repr(r.agent.assignment)
            assert MARKER not in on_disk(r)

    simulated(scene)(tmp_path)

"""What an agent does with the credentials of its tasks' services, on virtual time: they are for the
pull of the image, and nothing of them is on its disk."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from tests.support.agent_rig import Rig, simulated
from weft.model.registry import PullAuth, RegistryAuth
from weft.model.task import TaskState

IMAGE = "reg.test/app:1"
RIGHT = RegistryAuth(username="me", password="hunter2-marker")
WRONG = RegistryAuth(username="me", password="other-marker")
WAITS = "waits for credentials for the registry reg.test: no manager has sent the data yet"


def private(directory: Path) -> Rig:
    """A rig whose tasks' image is in a private registry, and not here."""
    made = Rig(directory / "data")
    made.images.private[IMAGE] = RIGHT
    for id, task in made.swarm.tasks.items():
        container = msgspec.structs.replace(task.spec.container, image=IMAGE)
        spec = msgspec.structs.replace(task.spec, container=container)
        made.swarm.tasks[id] = msgspec.structs.replace(task, spec=spec, private_registry="reg.test")
    return made


def give(made: Rig, auth: RegistryAuth, registry: str = "reg.test") -> None:
    services = {task.service for task in made.swarm.tasks.values()}
    made.manager.registry_auths = tuple(
        PullAuth(service=id, registry=registry, auth=auth) for id in services
    )


def errors(made: Rig) -> set[str]:
    return {status.err for status in made.manager.statuses.values()}


@simulated
async def test_an_image_is_pulled_with_the_credentials_of_its_service(tmp_path: Path) -> None:
    made = private(tmp_path)
    give(made, RIGHT)
    made.start()
    await made.until_all(TaskState.RUNNING)
    assert made.images.pulls == [IMAGE], "three tasks, one pull"
    assert made.images.shown == [RIGHT]
    for path in made.data.rglob("*"):
        assert not path.is_file() or b"marker" not in path.read_bytes(), path
    await made.stop()


@simulated
async def test_a_task_waits_for_credentials_and_says_so(tmp_path: Path) -> None:
    made = private(tmp_path)
    give(made, RIGHT, "other.test")
    made.start()
    await made.until(lambda: errors(made) == {WAITS})
    await asyncio.sleep(60)
    assert made.images.pulls == []
    assert set(made.states().values()) == {TaskState.PREPARING}
    give(made, RIGHT)
    await made.manager.tell()
    await made.until_all(TaskState.RUNNING)
    assert errors(made) == {""}
    await made.stop()


@simulated
async def test_after_a_restart_without_a_manager_a_pull_waits(tmp_path: Path) -> None:
    made = private(tmp_path)
    give(made, RIGHT)
    made.images.latency = 1000.0
    made.start()
    await made.until(lambda: made.images.shown == [RIGHT])
    await made.kill()
    made.manager.reachable = False
    made.images.latency = 0.0
    made.start()
    await asyncio.sleep(100)
    assert made.images.shown == [RIGHT], "no pull without credentials"
    assert {record.status.err for record in made.agent.records.all.values()} == {WAITS}
    made.manager.reachable = True
    await made.until_all(TaskState.RUNNING, 100)
    await made.stop()


@simulated
async def test_wrong_credentials_end_the_task(tmp_path: Path) -> None:
    made = private(tmp_path)
    give(made, WRONG)
    made.start()
    await made.until_all(TaskState.REJECTED)
    assert errors(made) == {f"No such image: {IMAGE}"}
    await made.stop()


@pytest.mark.parametrize("registry", ["reg.test", "other.test"])
def test_an_image_that_is_here_needs_no_credentials(tmp_path: Path, registry: str) -> None:
    @simulated
    async def play(tmp_path: Path) -> None:
        made = private(tmp_path)
        made.images.add(IMAGE)
        give(made, WRONG, registry)
        made.start()
        await made.until_all(TaskState.RUNNING)
        assert made.images.pulls == []
        await made.stop()

    play(tmp_path)

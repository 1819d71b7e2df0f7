"""Generic resources as the docker command sees them: what a node has, what a service reserves, and
what its tasks get."""

import json
import shutil

import pytest

from tests.conformance.client import Daemon
from tests.support.fake_images import IMAGE
from weft.model.state import ClusterState
from weft.model.task import TaskState

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")

PIECES = [
    {"NamedResourceSpec": {"Kind": "GPU", "Value": "uuid-1"}},
    {"NamedResourceSpec": {"Kind": "GPU", "Value": "uuid-2"}},
]
LICENCES = {"DiscreteResourceSpec": {"Kind": "licences", "Value": 3}}


def test_reserved_resources_reach_the_container_and_are_given_back(manager: Daemon) -> None:
    (node,) = json.loads(manager.ok("node", "inspect", "self"))
    assert node["Description"]["Resources"]["GenericResources"] == [*PIECES, LICENCES]
    assert json.loads(manager.ok("info", "-f", "{{json .GenericResources}}"))[:2] == PIECES
    id = manager.container("--generic-resource", "GPU=2", "--generic-resource", "licences=1")
    (container,) = json.loads(manager.ok("inspect", id))
    assert {"DOCKER_RESOURCE_GPU=uuid-1,uuid-2", "DOCKER_RESOURCE_LICENCES=1"} < {
        *container["Config"]["Env"]
    }
    reserved = "{{json .Spec.TaskTemplate.Resources.Reservations.GenericResources}}"
    found = json.loads(manager.ok("service", "inspect", "-f", reserved, "web"))
    assert {r["DiscreteResourceSpec"]["Kind"]: r["DiscreteResourceSpec"]["Value"] for r in found} == {
        "GPU": 2, "licences": 1,
    }  # fmt: skip
    (task,) = json.loads(manager.ok("inspect", manager.ok("service", "ps", "-q", "web").strip()))
    assert task["GenericResources"] == task["AssignedGenericResources"]
    assert all(piece in task["GenericResources"] for piece in PIECES)

    manager.ok(
        *("service", "create", "-d", "--no-resolve-image", "--name", "other"),
        *("--generic-resource", "GPU=1", IMAGE),
    )
    reason = "no suitable node (insufficient resources on 1 node)"
    manager.until(lambda state: reason in {task.status.err for task in state.tasks.values()})
    manager.ok("service", "rm", "web")
    manager.until(_runs_with_first_piece)


def _runs_with_first_piece(state: ClusterState) -> bool:
    return any(
        [resource.name for resource in task.generic] == ["uuid-1"]
        for task in state.tasks_in(TaskState.RUNNING).values()
    )


def test_a_named_piece_cannot_be_reserved(manager: Daemon) -> None:
    said = manager.refused(
        *("service", "create", "-d", "--no-resolve-image", "--generic-resource", "GPU=uuid-1"),
        IMAGE,
    )
    assert "invalid" in said
    assert manager.ok("service", "ls", "-q") == ""

"""How services change while the stock docker command waits: updates, rollbacks, scaling, and nodes
that come and go. Behind the server a whole node, and where it says so a second one."""

import json
import shutil
from typing import Any

import pytest

from tests.conformance.client import Daemon
from tests.support.fake_images import IMAGE
from weft.model.node import NodeState
from weft.model.task import TaskState

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")

QUICK = ("--update-monitor", "10ms", "--rollback-monitor", "10ms", "--no-resolve-image")


def inspect(manager: Daemon, service: str = "web") -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(manager.ok("service", "inspect", service))
    return found[0]


def tasks(manager: Daemon, *filters: str) -> list[dict[str, str]]:
    """Rows of `docker service ps`."""
    asked = [word for one in filters for word in ("--filter", one)]
    shown = manager.ok("service", "ps", "web", *asked, "--no-trunc", "--format", "json")
    return [json.loads(line) for line in shown.splitlines()]


def variables(manager: Daemon) -> list[str]:
    """Of the service and of its running containers, which must agree."""
    wanted: list[str] = inspect(manager)["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"]
    for id in manager.ok("ps", "-q").split():
        environment = json.loads(manager.ok("inspect", "-f", "{{json .Config.Env}}", id))
        assert set(wanted) <= set(environment)
    return wanted


def test_an_update_its_rollback_and_scaling_are_waited_for(manager: Daemon) -> None:
    manager.ok("service", "create", "--name", "web", "--replicas", "3", "-e", "A=1", *QUICK, IMAGE)
    old = {row["ID"] for row in tasks(manager, "desired-state=running")}
    change = ("--env-rm", "A", "--env-add", "A=2", "--update-parallelism", "2")
    manager.ok("service", "update", *change, "web")
    assert inspect(manager)["UpdateStatus"]["State"] == "completed"
    assert inspect(manager)["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=1"]
    manager.settled()
    assert variables(manager) == ["A=2"]
    new = {row["ID"] for row in tasks(manager, "desired-state=running")}
    assert (len(new), new & old) == (3, set())
    assert {row["ID"] for row in tasks(manager, "desired-state=shutdown")} == old
    told = manager.ok("service", "rollback", "web")
    assert "rollback: manually requested rollback" in told
    assert inspect(manager)["UpdateStatus"]["State"] == "rollback_completed"
    manager.settled()
    assert variables(manager) == ["A=1"]
    told = manager.ok("service", "scale", "web=5")
    assert "web scaled to 5" in told
    assert "converged" in told
    assert len(manager.ok("ps", "-q").split()) == 5
    manager.ok("service", "scale", "web=0")
    manager.settled()
    assert manager.ok("ps", "-q") == ""


@pytest.mark.parametrize(
    ("action", "state", "said"),
    [
        ("pause", "paused", "service update paused: update paused due to failure or early"),
        ("rollback", "rollback_completed", "update rolled back due to failure or early"),
        ("continue", "completed", ""),
    ],
)
def test_an_update_to_tasks_that_end(manager: Daemon, action: str, state: str, said: str) -> None:
    manager.container("-e", "A=1", "--update-monitor", "1s", "--rollback-monitor", "10ms")
    done = manager.run(
        *("service", "update", "--update-failure-action", action, "--restart-max-attempts", "1"),
        *("--no-resolve-image", "--args", "sh -c 'exit 3'", "web"),
    )
    assert inspect(manager)["UpdateStatus"]["State"] == state, done
    assert said in done.stdout.decode() + done.stderr.decode()
    wanted = inspect(manager)["Spec"]["TaskTemplate"]["ContainerSpec"].get("Args")
    assert wanted == (None if action == "rollback" else ["sh", "-c", "exit 3"])


def test_a_drained_node_gives_its_tasks_to_another(manager: Daemon, worker: Daemon) -> None:
    manager.ok("node", "update", "--availability", "drain", "node1")
    manager.ok("service", "create", "--name", "web", "--replicas", "2", *QUICK, IMAGE)
    assert {row["Node"] for row in tasks(manager)} == {"node2"}
    assert len(worker.ok("ps", "-q").split()) == 2
    manager.ok("node", "update", "--availability", "active", "node1")
    manager.ok("node", "update", "--availability", "drain", "node2")
    own = manager.node.membership.node
    manager.until(
        lambda state: (
            [t.node for t in state.tasks.values() if t.state is TaskState.RUNNING] == [own, own]
        )
    )
    assert [row["Node"] for row in tasks(manager, "desired-state=running")] == ["node1", "node1"]
    assert worker.ok("ps", "-q") == ""


def test_a_node_that_leaves_is_down_and_may_be_removed(manager: Daemon, worker: Daemon) -> None:
    assert "is not down and can't be removed" in manager.refused("node", "rm", "node2")
    worker.ok("swarm", "leave")
    manager.until(lambda state: any(n.status.state is NodeState.DOWN for n in state.nodes.values()))
    shown = manager.ok("node", "ls", "-f", "role=worker", "--format", "{{.Hostname}} {{.Status}}")
    assert shown == "node2 Down\n"
    assert manager.ok("node", "rm", "node2") == "node2\n"
    assert "node node2 not found" in manager.refused("node", "inspect", "node2")


def test_a_task_that_cannot_run_says_why(manager: Daemon) -> None:
    manager.ok("service", "create", "-d", "--name", "web", "--no-resolve-image",
               "--restart-condition", "none", "missing/image")  # fmt: skip
    manager.until(lambda state: any(t.state.is_terminal for t in state.tasks.values()))
    [row] = tasks(manager)
    assert row["CurrentState"].startswith("Rejected")
    assert "pull access denied" in row["Error"]
    manager.ok("service", "update", "-d", "--no-resolve-image", "--image", IMAGE, "--args", "sh -c 'exit 3'", "web")  # fmt: skip
    manager.until(lambda state: any(t.state is TaskState.FAILED for t in state.tasks.values()))
    assert "task: non-zero exit (3)" in [row["Error"].strip('"') for row in tasks(manager)]

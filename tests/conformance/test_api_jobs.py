"""Jobs, by the docker command and docker-py: creation with its progress, `ls`, `ps`, `inspect`, a
new iteration, stack files."""

import json
from pathlib import Path

import docker
import pytest
from docker.types import RestartPolicy, ServiceMode

from tests.conformance.client import Daemon, eventually
from tests.support.fake_images import IMAGE

JOB = ("service", "create", "--no-resolve-image", "--name", "job", "--mode", "replicated-job")


def shown(manager: Daemon, *filters: str) -> dict[str, str]:
    """The job's row in `docker service ls`."""
    arguments = [word for value in filters for word in ("--filter", value)]
    rows = manager.ok("service", "ls", "--format", "json", *arguments).splitlines()
    return {row["Name"]: row["Replicas"] for row in map(json.loads, rows)}


def tasks(manager: Daemon, service: str = "job") -> list[tuple[str, str, str]]:
    rows = map(json.loads, manager.ok("service", "ps", service, "--format", "json").splitlines())
    return sorted(
        (row["Name"].strip(), row["DesiredState"], row["CurrentState"].split()[0]) for row in rows
    )


def test_a_replicated_job_from_creation_to_removal(manager: Daemon) -> None:
    created = manager.ok(*JOB, "--replicas", "3", "--max-concurrent", "1", IMAGE, "true")
    assert "job complete" in created
    assert shown(manager, "mode=replicated-job") == {"job": "0/1 (3/3 completed)"}
    assert shown(manager, "mode=global-job") == shown(manager, "mode=replicated") == {}
    own = manager.ok("node", "inspect", "-f", "{{.ID}}", "self").strip()
    assert tasks(manager) == sorted(
        (f"job.{number or own}", "Complete", "Complete") for number in range(3)
    )
    service = json.loads(manager.ok("service", "inspect", "job"))[0]
    assert service["Spec"]["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 3}}
    assert service["JobStatus"]["JobIteration"] == {}
    assert "Service Mode" in manager.ok("service", "inspect", "--pretty", "job")
    first = service["JobStatus"]["LastExecution"]

    assert "job complete" in manager.ok("service", "update", "--force", "job")
    service = json.loads(manager.ok("service", "inspect", "job"))[0]
    assert service["JobStatus"]["JobIteration"] == {"Index": 1}
    assert service["JobStatus"]["LastExecution"] > first
    assert len(tasks(manager)) == 6
    task = json.loads(manager.ok("inspect", manager.ok("service", "ps", "-q", "job").split()[0]))
    assert task[0]["JobIteration"] in ({}, {"Index": 1})

    assert "job complete" in manager.ok("service", "scale", "job=2")
    assert shown(manager) == {"job": "0/1 (2/2 completed)"}
    assert "Jobs may not have an update config" in manager.refused(
        "service", "update", "-d", "--update-parallelism", "2", "job"
    )
    assert "job complete" in manager.ok("service", "rollback", "job")
    assert shown(manager) == {"job": "0/1 (3/3 completed)"}
    manager.ok("service", "rm", "job")
    manager.cleared()


def test_a_global_job_completes_on_every_node(manager: Daemon, worker: Daemon) -> None:
    eventually(lambda: manager.ok("node", "ls", "--format", "{{.Status}}").split() == ["Ready"] * 2)
    created = manager.ok(
        "service", "create", "--no-resolve-image", "--name", "job", "--mode", "global-job",
        "--restart-condition", "on-failure", IMAGE, "true",
    )  # fmt: skip
    assert "job complete" in created
    assert shown(manager, "mode=global-job") == {"job": "0/0 (2/2 completed)"}
    assert {state for _, _, state in tasks(manager)} == {"Complete"}


def test_a_task_that_fails_is_tried_again_until_it_completes(
    manager: Daemon, tmp_path: Path
) -> None:
    mark = tmp_path / "tried"
    script = f"test -e {mark} || {{ touch {mark}; exit 3; }}"
    created = manager.ok(*JOB, "--restart-delay", "10ms", IMAGE, "sh", "-c", script)
    assert "job complete" in created
    assert shown(manager) == {"job": "0/1 (1/1 completed)"}
    assert sorted(state for _, _, state in tasks(manager)) == ["Complete", "Failed"]


@pytest.mark.parametrize(
    ("policy", "failures"),
    [
        (["--restart-condition", "none"], 1),
        (["--restart-max-attempts", "2", "--restart-delay", "10ms"], 3),
    ],
)
def test_a_job_is_given_up_as_its_restart_policy_says(
    manager: Daemon, policy: list[str], failures: int
) -> None:
    manager.ok(*JOB, "-d", *policy, IMAGE, "false")
    eventually(lambda: [state for _, _, state in tasks(manager)] == ["Failed"] * failures)
    assert shown(manager) == {"job": "0/1 (0/1 completed)"}
    assert {desired for _, desired, _ in tasks(manager)} == {"Shutdown"}


def test_jobs_by_docker_py(manager: Daemon) -> None:
    client = docker.DockerClient(f"unix://{manager.path}", version="1.51")
    mode = ServiceMode("replicated-job", replicas=4, concurrency=2)
    job = client.services.create(
        IMAGE, ["true"], name="job", mode=mode, restart_policy=RestartPolicy("none")
    )

    def completed() -> list[str]:
        rows = job.tasks({"desired-state": "complete"})
        return [row["Status"]["State"] for row in rows]

    eventually(lambda: completed() == ["complete"] * 4)
    assert job.tasks({"desired-state": "running"}) == []
    assert [row.name for row in client.services.list(filters={"mode": "replicated-job"})] == ["job"]
    [row] = client.api.services(status=True)
    assert row["ServiceStatus"] == {"RunningTasks": 0, "DesiredTasks": 2, "CompletedTasks": 4}
    slots = sorted(task.get("Slot", 0) for task in job.tasks())
    assert slots == [0, 1, 2, 3]
    client.close()


def test_a_stack_may_have_jobs(manager: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "stack.yml"
    file.write_text(
        f"""
services:
  once: {{image: {IMAGE}, command: ["true"], deploy: {{mode: replicated-job, replicas: 2}}}}
  each: {{image: {IMAGE}, command: ["true"], deploy: {{mode: global-job}}}}
"""
    )
    manager.ok("stack", "deploy", "-d=true", "--resolve-image", "never", "-c", str(file), "s")
    done = {"s_once": "0/2 (2/2 completed)", "s_each": "0/0 (1/1 completed)"}
    eventually(lambda: shown(manager) == done)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--mode", "global-job", "--update-delay", "1s"], "not supported for jobs"),
        (["--max-concurrent", "2"], "max-concurrent can only be used with replicated-job mode"),
        (["--mode", "global-job", "--replicas", "2"], "replicas can only be used with replicated"),
    ],
)
def test_jobs_that_are_refused(manager: Daemon, arguments: list[str], text: str) -> None:
    assert text in manager.refused(
        "service", "create", "-d", "--no-resolve-image", *arguments, IMAGE, "true"
    )

"""Logs of services and tasks as the stock docker command sees them: a real server on a UNIX socket,
behind it a whole node."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.errors
import pytest

from tests.conformance.client import Daemon, eventually

UNREADABLE = "configured logging driver does not support reading"

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")


# --- logs of services and tasks


TWICE = "echo out; echo err >&2; exec sleep 600"


def said(daemon: Daemon, *argv: str, lines: int) -> tuple[list[str], list[str]]:
    """What `docker service logs` shows on both streams, sorted, once there are that many lines on
    each."""

    def shown() -> tuple[list[str], list[str]] | None:
        done = daemon.run("service", "logs", *argv)
        assert done.returncode == 0, done.stderr
        streams = (
            sorted(done.stdout.decode().splitlines()),
            sorted(done.stderr.decode().splitlines()),
        )
        return streams if [len(stream) for stream in streams] == [lines, lines] else None

    found: tuple[list[str], list[str]] = eventually(shown)
    return found


def test_logs_of_a_service(any_daemon: Daemon) -> None:
    any_daemon.ok("swarm", "init")
    any_daemon.container("--replicas", "2", script=TWICE)
    ids = any_daemon.ok("service", "ps", "-q", "--no-trunc", "web").split()
    slots = {any_daemon.ok("inspect", "-f", "{{.Slot}}", id).strip(): id for id in ids}
    out, err = said(any_daemon, "web", lines=2)
    assert out == [f"web.{slot}.{slots[slot][:12]}@node1    | out" for slot in ("1", "2")]
    assert err == [f"web.{slot}.{slots[slot][:12]}@node1    | err" for slot in ("1", "2")]
    assert said(any_daemon, "--no-task-ids", "web", lines=2)[0] == [
        "web.1@node1    | out",
        "web.2@node1    | out",
    ]
    assert (
        said(any_daemon, "--no-trunc", "web", lines=2)[0][0] == f"web.1.{slots['1']}@node1    | out"
    )
    assert said(any_daemon, "--raw", "web", lines=2) == (["out", "out"], ["err", "err"])
    service = any_daemon.ok("service", "inspect", "-f", "{{.ID}}", "web").strip()
    node = any_daemon.ok("node", "inspect", "-f", "{{.ID}}", "self").strip()
    assert (
        said(any_daemon, "--no-resolve", "web", lines=2)[0][0]
        == f"{service}.1.{slots['1'][:12]}@{node}    | out"
    )
    assert (
        said(any_daemon, "--details", "web", lines=2)[0][0]
        == f"web.1.{slots['1'][:12]}@node1    |  out"
    )
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"
    for line in said(any_daemon, "-t", "web", lines=2)[0]:
        assert re.fullmatch(moment + r" web\.[12]\.[0-9a-z]{12}@node1    \| out", line)
    for reference in (slots["2"], slots["2"][:10], f"web.2.{slots['2']}"):
        out, err = said(any_daemon, reference, lines=1)
        assert (out, err) == (
            [f"web.2.{slots['2'][:12]}@node1    | out"],
            [f"web.2.{slots['2'][:12]}@node1    | err"],
        )
    assert any_daemon.ok("service", "logs", "--since", "2100-01-01T00:00:00Z", "web") == ""
    assert "no such task or service: nothing" in any_daemon.refused("service", "logs", "nothing")


def test_the_last_lines_of_each_task(manager: Daemon) -> None:
    manager.container(
        "--replicas",
        "2",
        script="printf 'a\\nb\\n'; printf c; sleep 0.1; printf 'd\\n'; exec sleep 600",
    )

    def last(count: str) -> list[str]:
        return sorted(manager.ok("service", "logs", "--raw", "--tail", count, "web").split())

    eventually(lambda: last("all") == ["a", "a", "b", "b", "cd", "cd"])
    assert last("1") == ["cd", "cd"]
    assert last("2") == ["b", "b", "cd", "cd"]
    assert last("0") == []
    assert 'tail value must be a positive integer or "all"' in manager.refused(
        "service", "logs", "--tail", "few", "web"
    )
    assert "negative tail values not supported" in manager.refused(
        "service", "logs", "--tail", "-1", "web"
    )


def test_logs_of_a_service_are_followed_also_of_tasks_that_come_later(any_daemon: Daemon) -> None:
    any_daemon.ok("swarm", "init")
    any_daemon.container(script="echo begins; exec sleep 600")
    argv = any_daemon.command("service", "logs", "--follow", "--no-task-ids", "web")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "web.1@node1    | begins\n"
        any_daemon.ok("service", "scale", "-d", "web=2")
        assert following.stdout.readline() == "web.2@node1    | begins\n"
        following.terminate()


def test_logs_of_a_service_with_a_terminal_are_raw(manager: Daemon) -> None:
    manager.container("-t", script="echo seen; sleep 600")
    assert "tty service logs only supported with --raw" in manager.refused("service", "logs", "web")
    eventually(lambda: manager.ok("service", "logs", "--raw", "web") == "seen\r\n")


def test_logs_that_are_missing_are_said_to_be(manager: Daemon, worker: Daemon) -> None:
    """Those of a node that has ended without a word."""
    manager.container("--mode", "global", script=TWICE)
    said(manager, "web", lines=2)
    worker.close()
    done = manager.run("service", "logs", "web")
    assert done.returncode == 1
    assert b"| out" in done.stdout
    assert (
        b"error from daemon in stream: Error grabbing logs: rpc error: code = Unknown desc ="
        b" warning: incomplete" in done.stderr
    )


def test_wrong_requests_for_logs(manager: Daemon) -> None:
    manager.container()
    client = docker.APIClient(base_url=f"unix://{manager.path}", version="auto")
    task = manager.ok("service", "ps", "-q", "--no-trunc", "web").strip()
    try:
        for path in ("/services/web/logs", f"/tasks/{task}/logs"):
            for query, status, why in (
                ({}, 400, "Bad parameters: you must choose at least one stream"),
                (
                    {"stdout": "1", "tail": "x"},
                    400,
                    'tail value must be a positive integer or "all"',
                ),
                ({"stdout": "1", "since": "yesterday"}, 400, "invalid since"),
            ):
                answer = client.get(client._url(path), params=query)
                assert (answer.status_code, why in answer.json()["message"]) == (status, True)
        answer = client.get(client._url("/services/nothing/logs"), params={"stdout": "1"})
        assert (answer.status_code, answer.json()["message"]) == (404, "service nothing not found")
        answer = client.get(client._url("/services/web/logs"), params={"stdout": "1"})
        assert answer.headers["Content-Type"] == "application/vnd.docker.multiplexed-stream"
        assert answer.content == b"\x01\0\0\0\0\0\0\x0alistening\n"
    finally:
        client.close()
    for driver in ("none", "journald", "syslog"):
        container = manager.container("--log-driver", driver, name=f"mute-{driver}")
        for argv in (("service", "logs", f"mute-{driver}"), ("logs", container)):
            assert UNREADABLE in manager.refused(*argv)


def test_the_options_of_log_drivers_are_kept_and_their_details_shown(manager: Daemon) -> None:
    options = ("max-size=10m", "max-file=3", "compress=true", "labels=team,none", "env-regex=^LEV")
    manager.container(
        "--log-driver", "local", *(f"--log-opt={option}" for option in (*options, "tag={{.Name}} 1")),
        "--container-label", "team=blue", "--env", "LEVEL=high", script="echo seen; exec sleep 600",
    )  # fmt: skip
    kept = dict(option.split("=", 1) for option in options) | {"tag": "{{.Name}} 1"}
    template = "{{json .Spec.TaskTemplate.LogDriver}}"
    assert json.loads(manager.ok("service", "inspect", "-f", template, "web")) == {
        "Name": "local",
        "Options": kept,
    }
    eventually(lambda: manager.ok("service", "logs", "--raw", "web") == "seen\n")
    [container] = manager.ok("ps", "-q").split()
    config = manager.ok("inspect", "-f", "{{json .HostConfig.LogConfig}}", container)
    assert json.loads(config) == {"Type": "local", "Config": kept}
    name = manager.ok("inspect", "-f", "{{.Name}}", container).strip()[1:]
    assert manager.ok("logs", "--details", container) == f"LEVEL=high,tag={name}+1,team=blue seen\n"
    assert manager.ok("service", "logs", "--details", "--no-task-ids", "web") == (
        f"web.1@node1    | LEVEL=high,tag={name} 1,team=blue seen\n"
    )
    manager.ok("service", "update", "-d", "--log-driver", "json-file", "web")
    shown = manager.ok("service", "inspect", "-f", template, "web")
    assert json.loads(shown) == {"Name": "json-file"}


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A manager with the service `there`."""
    daemon = Daemon(tmp_path_factory.mktemp("refusing") / "docker.sock")
    daemon.ok("swarm", "init")
    daemon.container(name="there")
    yield daemon
    daemon.close()


@pytest.mark.parametrize(
    ("driver", "option", "cause"),
    [
        ("json-file", "size=1", "unknown log opt 'size' for json-file log driver"),
        ("local", "size=1", "unknown log opt 'size' for log driver local"),
        ("none", "max-size=1m", "unknown log opt 'max-size' for none log driver"),
        ("json-file", "max-size=10x", "invalid value for max-size: 10x: invalid suffix: 'x'"),
        ("local", "max-file=0", "max-file cannot be less than 1"),
        ("json-file", "compress=true", "compress cannot be true when max-file is less than 2"),
        ("local", "max-file=1", "compression cannot be enabled when max file count is 1"),
        ("local", "compress=maybe", "invalid boolean value for compress: maybe"),
        ("local", "env-regex=(", "invalid value for env-regex: (: not a regular expression"),
        ("local", "tag={{.Nothing}}", "invalid value for tag"),
        ("json-file", "mode=non-blocking", "log mode non-blocking (log opt mode) is not supported"),
        ("journald", "max-size=1m", "unknown log opt 'max-size' for journald log driver"),
        ("syslog", "syslog-address=ftp://x", "unsupported scheme: 'ftp'"),
        ("syslog", "labels=team", "log opt labels for syslog log driver is not supported by Weft"),
        ("gelf", "tag=x", "the log driver gelf is not supported by Weft"),
        ("asdf", "tag=x", "logger: no log driver named 'asdf' is registered"),
    ],
)
def test_log_drivers_and_options_that_are_refused(
    refusing: Daemon, driver: str, option: str, cause: str
) -> None:
    argv = ("--log-driver", driver, "--log-opt", option)
    assert cause in refusing.refused("service", "create", "-d", "--name", "web", *argv, "image")
    assert cause in refusing.refused("service", "update", "-d", *argv, "there")


def test_a_stack_files_logging_is_checked(manager: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "stack.yml"
    text = "services: {web: {image: x, logging: {driver: local, options: {max-size: %s}}}}"
    file.write_text(text % "1q")
    assert "invalid suffix: 'q'" in manager.refused("stack", "deploy", "-c", str(file), "s")
    file.write_text(text % "1m")
    manager.ok("stack", "deploy", "-c", str(file), "s")
    shown = manager.ok("service", "inspect", "-f", "{{.Spec.TaskTemplate.LogDriver}}", "s_web")
    assert "max-size:1m" in shown

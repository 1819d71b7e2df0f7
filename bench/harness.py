"""What the benchmarks share: the Engine API of a lab's nodes over their sockets, waiting, processor
time, medians.

A benchmark prints ratios of two things measured in one run, because machines differ and are shared;
absolute figures beside them are for orientation only. Nothing here is part of the tests; some
benchmarks use what the tests share, `tests.support`, which can be imported once this has been.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from weft.api.client import UnixConnection

IMAGE = "zaggash/demo-webapp:latest"
ROOT = Path(__file__).resolve().parents[1]
WEFT = ROOT / ".venv" / "bin" / "weft"
sys.path.append(str(ROOT))


class Engine:
    """The Engine API at one socket; one connection, kept open."""

    def __init__(self, path: str) -> None:
        self._connection = UnixConnection(path)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        payload = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        self._connection.request(method, f"/v1.47{path}", payload, headers)
        response = self._connection.getresponse()
        text = response.read()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {text.decode()}")
        return json.loads(text) if text.strip() else None

    def running(self, service: str) -> int:
        [status] = [s for s in self.call("GET", "/services?status=true") if s["ID"] == service]
        return int(status["ServiceStatus"]["RunningTasks"])

    def containers(self, name: str) -> list[dict[str, Any]]:
        filters = json.dumps({"label": [f"com.docker.swarm.service.name={name}"]})
        found: list[dict[str, Any]] = self.call(
            "GET", f"/containers/json?filters={filters.replace(' ', '')}"
        )
        return found


def node(name: str) -> Engine:
    return Engine(f"/run/weft/lab/{name}/docker.sock")


def service_spec(name: str, replicas: int, **extra: Any) -> dict[str, Any]:
    task: dict[str, Any] = {"ContainerSpec": {"Image": IMAGE}}
    if "networks" in extra:
        task["Networks"] = [{"Target": n} for n in extra["networks"]]
    spec: dict[str, Any] = {
        "Name": name,
        "TaskTemplate": task,
        "Mode": {"Replicated": {"Replicas": replicas}},
    }
    if "ports" in extra:
        spec["EndpointSpec"] = {"Mode": extra.get("mode", "vip"), "Ports": extra["ports"]}
    return spec


def wait(condition: Callable[[], Any], timeout: float = 120, every: float = 0.01) -> float:
    """Seconds until the condition holds."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout:
            raise TimeoutError(f"not so after {timeout} s")
        time.sleep(every)
    return time.monotonic() - start


def on(name: str, *argv: str, check: bool = True, timeout: float = 120) -> str:
    """What a command prints inside a node of the lab (or `client`)."""
    command = [str(WEFT), "lab", "exec", name, "--", *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Place:
    """Somewhere to run a command: a node, or the network namespace of a task on it."""

    def __init__(self, node: str, pid: int | None, address: str) -> None:
        self.node, self.address = node, address
        self.prefix = ["nsenter", "-n", "-t", str(pid)] if pid else []

    def run(self, *argv: str, check: bool = True) -> str:
        return on(self.node, *self.prefix, *argv, check=check)


def task_place(host: str, service: str, network: str) -> Place:
    """Of the service's only task on that node."""
    engine = node(host)
    [container] = engine.containers(service)
    details = engine.call("GET", f"/containers/{container['Id']}/json")
    return Place(
        host, details["State"]["Pid"], details["NetworkSettings"]["Networks"][network]["IPAddress"]
    )


def busy_seconds() -> float:
    """Processor time of the whole machine so far, without what was stolen from it."""
    user, nice, system, _idle, _wait, irq, softirq = (
        int(v) for v in Path("/proc/stat").read_text().split()[1:8]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def spread(values: Iterable[float], digits: int = 2) -> str:
    """`median [min-max]`."""
    found = sorted(values)
    if not found:
        return "-"
    return f"{statistics.median(found):.{digits}f} [{found[0]:.{digits}f}-{found[-1]:.{digits}f}]"


def need_lab(nodes: int = 3) -> None:
    """Ends the program unless a lab of so many nodes is up."""
    if not all(Path(f"/run/weft/lab/node{k}/docker.sock").exists() for k in range(1, nodes + 1)):
        sys.exit(f"this needs a lab: weft lab up --nodes {nodes}")


def daemon_memory() -> list[float]:
    """Resident MB of each node's daemon, found by its API socket in the command line of the lab."""
    return [_resident(pid) for pid in _processes("weft", "daemon")]


def monitor_memory() -> str:
    """Resident MB of conmon, of the containers that are running now; the lab must have some."""
    return spread((_resident(pid) for pid in _processes("conmon")), 1)


def bare_runtime(count: int) -> float:
    """Seconds to make and start `count` containers of `true` with conmon's runtime alone, on all
    cores: the floor."""
    script = ROOT / "bench" / "bare-runtime"
    done = subprocess.run(
        [sys.executable, str(script), str(count)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def _processes(*words: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if all(any(os.path.basename(a) == w.encode() for a in argv[:4]) for w in words):
            found.append(int(path.parent.name))
    return found


def _resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

"""What users notice of faults: five hosts, three of them managers, and a client that asks 200 times a second.

Two services: `web` has a task on every host, `steady` none on node5, to which the worst happens. A request through a host that is
itself off or cut off cannot be answered by anybody and is not counted. Requests to tasks that were not hit all have to be answered;
of the others it is printed for how long they were not. After each fault everything has to be as it was asked for, no address may be
held twice and nothing may run twice.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from weft.lab import faults
from weft.lab.layout import Host, Layout
from weft.lab.processes import send

HOSTS = {f"node{k}": f"10.59.72.{10 + k}" for k in range(1, 6)}
WEFT = [str(Path(sys.executable).with_name("weft"))]
MANAGERS = ("node1", "node2", "node3")
VICTIM = "node5"
WEB, STEADY = 8080, 8081
REPLICAS = 10
GRACE = 15.0
"""Seconds of silence until a host is given up."""
AFTERWARDS = 2.0
"""Seconds that the client goes on when the fault is over."""
FAILOVER = 5.0
"""Seconds within which another manager leads."""


class Request(NamedTuple):
    start: float
    target: str
    seconds: float
    who: str
    why: str


class Load:
    """The client, while the block lasts."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __enter__(self) -> "Load":
        targets = [f"{address}:{port}" for address in HOSTS.values() for port in (WEB, STEADY)]
        program = [sys.executable, str(Path(__file__).with_name("load.py")), *targets]
        self._client = subprocess.Popen(
            [*WEFT, "lab", "exec", "client", "--", *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Asks on for a moment: what the fault has led to shows only then."""
        try:
            self._client.wait(AFTERWARDS)
        except subprocess.TimeoutExpired:
            out, _ = self._client.communicate(timeout=60)
            self.requests = [Request(*json.loads(line)) for line in out.splitlines()]

    def failed(self, port: int, *, beside: str = "") -> list[Request]:
        """Requests to the service that failed, of those that were made through other hosts than `beside`."""
        return [request for request in self._asked(port, beside) if request.why]

    def report(self, fault: str, beside: str) -> None:
        """Prints for how long `web` was missed, and that it is not any more."""
        asked, failed = self._asked(WEB, beside), self.failed(WEB, beside=beside)
        seconds = failed[-1].start - failed[0].start if failed else 0.0
        print(
            f"\n{fault}: {len(failed)} of {len(asked)} requests to a service with a task there failed, within {seconds:.2f} s"
        )
        assert not any(request.why for request in asked[-100:]), failed[-5:]

    def _asked(self, port: int, beside: str) -> list[Request]:
        ours = [r for r in self.requests if r.target.endswith(f":{port}") and r.target != f"{HOSTS.get(beside)}:{port}"]
        assert len(ours) > 100, "the client has hardly asked"
        return ours


class Swarm:
    """The lab with the two services, and the questions that the tests ask of it."""

    def __init__(self, cluster) -> None:
        self.cluster = cluster
        self.layout = Layout()

    def host(self, name: str) -> Host:
        return self.layout.node(int(name.removeprefix("node")))

    def leader(self, asked: str = "node1") -> str:
        rows = self.cluster.docker(asked, "node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}", timeout=10)
        return next((row.split()[0] for row in rows.splitlines() if row.endswith("Leader")), "")

    def eventually(self, condition: Callable[[], object], timeout: float, what: str) -> None:
        self.cluster.eventually(condition, timeout, what)

    def running(self, service: str, asked: str) -> int:
        rows = self.cluster.docker(asked, "service", "ls", "--filter", f"name={service}", "--format", "{{.Replicas}}")
        return int(rows.split("/")[0])

    def containers(self, service: str) -> dict[str, str]:
        """Address on the ingress network of each running container, by its id, on all hosts."""
        found = {}
        for host in HOSTS:
            ids = self.cluster.containers(host, service)
            for container in json.loads(self.cluster.docker(host, "inspect", *ids)) if ids else []:
                found[container["Id"]] = container["NetworkSettings"]["Networks"]["ingress"]["IPAddress"]
        return found

    def is_whole(self, replicas: int = REPLICAS) -> bool:
        """All hosts are ready, exactly what was asked for runs, and each has an address of its own."""
        ready = self.cluster.docker("node1", "node", "ls", "--format", "{{.Status}}").split() == ["Ready"] * len(HOSTS)
        web, steady = self.containers("web"), self.containers("steady")
        addresses = [*web.values(), *steady.values()]
        counts = self.running("web", "node1"), self.running("steady", "node1"), len(web), len(steady)
        return ready and counts == (len(HOSTS), replicas, len(HOSTS), replicas) and len(set(addresses)) == len(addresses)


@pytest.fixture(scope="module")
def lab(cluster) -> Iterator[Swarm]:
    cluster.run(*WEFT, "lab", "up", "--nodes", str(len(HOSTS)), "--managers", str(len(MANAGERS)), timeout=120)
    create = ("service", "create", "-q", "--restart-delay", "0s")
    cluster.docker("node1", *create, "--name", "web", "-p", f"{WEB}:80", "--mode", "global", cluster.image)
    cluster.docker("node1", *create, "--name", "steady", "-p", f"{STEADY}:80", "--replicas", str(REPLICAS), "--constraint",
                   f"node.hostname!={VICTIM}", cluster.image)  # fmt: skip
    yield Swarm(cluster)
    cluster.lab("down")
    cluster.run(*WEFT, "lab", "up", "--nodes", "3", timeout=120)


@pytest.fixture
def swarm(lab: Swarm) -> Iterator[Swarm]:
    """Whole before the test and after it."""
    lab.eventually(lab.is_whole, 60, "a whole swarm")
    yield lab
    for name in HOSTS:
        lab.cluster.run(*WEFT, "lab", "heal", name, ok=False)
        lab.cluster.run(*WEFT, "lab", "resume", name, ok=False)
    lab.cluster.run(*WEFT, "lab", "up", timeout=120)
    lab.eventually(lab.is_whole, 60, "a whole swarm after the fault")


def test_a_daemon_is_killed(swarm: Swarm) -> None:
    with Load() as load:
        swarm.cluster.lab("kill", VICTIM)
        swarm.cluster.lab("restart", VICTIM)
        swarm.eventually(swarm.is_whole, 30, "a whole swarm")
    assert load.failed(WEB) == load.failed(STEADY) == []


def test_all_daemons_are_killed_together(swarm: Swarm) -> None:
    before = swarm.containers("web")
    with Load() as load:
        for name in HOSTS:
            swarm.cluster.lab("kill", name)
        swarm.cluster.run(*WEFT, "lab", "up", timeout=120)
        swarm.eventually(swarm.is_whole, 30, "a whole swarm")
    assert load.failed(WEB) == load.failed(STEADY) == []
    assert swarm.containers("web") == before, "containers were replaced"


def test_a_host_reboots(swarm: Swarm) -> None:
    with Load() as load:
        swarm.cluster.lab("reboot", VICTIM)
        swarm.eventually(swarm.is_whole, 60, "a whole swarm")
    assert load.failed(STEADY, beside=VICTIM) == []
    load.report("a host reboots", VICTIM)


def test_a_host_is_shut_down(swarm: Swarm) -> None:
    """Its tasks are nobody's until it is given up, but after a moment nobody is sent there any more."""
    with Load() as load:
        swarm.cluster.lab("halt", VICTIM)
        swarm.eventually(lambda: _down(swarm), GRACE + 15, "the verdict")
    assert load.failed(STEADY, beside=VICTIM) == []
    load.report("a host loses its power", VICTIM)


def test_a_host_is_cut_off_and_comes_back(swarm: Swarm) -> None:
    """Nobody is told: its tasks are missed until its silence has lasted too long. It keeps them; they end when it is back."""
    with Load() as load:
        swarm.cluster.lab("cut", VICTIM)
        swarm.eventually(lambda: _down(swarm), GRACE + 15, "the verdict")
        assert swarm.cluster.containers(VICTIM, "web"), "a host without a manager keeps what it runs"
        swarm.cluster.lab("heal", VICTIM)
        swarm.eventually(swarm.is_whole, 30, "a whole swarm")
    assert load.failed(STEADY, beside=VICTIM) == []
    load.report("a host is cut off", VICTIM)


def test_the_leader_is_killed_while_a_service_grows(swarm: Swarm) -> None:
    leader = swarm.leader()
    other = next(name for name in MANAGERS if name != leader)
    with Load() as load:
        swarm.cluster.docker(other, "service", "scale", "-d", f"steady={2 * REPLICAS}")
        swarm.cluster.lab("kill", leader)
        swarm.eventually(lambda: swarm.leader(other) not in ("", leader), FAILOVER, "another leader")
        swarm.eventually(lambda: swarm.running("steady", other) == 2 * REPLICAS, 30, "all of the tasks")
        swarm.cluster.lab("restart", leader)
        swarm.eventually(lambda: swarm.is_whole(2 * REPLICAS), 30, "a whole swarm")
    assert load.failed(WEB) == load.failed(STEADY) == []
    swarm.cluster.docker(other, "service", "scale", "-d", f"steady={REPLICAS}")


def test_a_member_of_the_store_is_killed(swarm: Swarm) -> None:
    leader = swarm.leader()
    other = next(name for name in MANAGERS if name != leader)
    with Load() as load:
        member = faults.store_process(swarm.layout, swarm.host(leader))
        assert member is not None
        assert send(member, 9)
        write = ("service", "update", "-d", "--label-add", "written=after", "web")
        swarm.eventually(lambda: swarm.cluster.docker(other, *write), FAILOVER, "a write that is accepted")
        swarm.eventually(lambda: faults.store_process(swarm.layout, swarm.host(leader)), 15, "the member again")
    assert load.failed(WEB) == load.failed(STEADY) == []


def test_a_manager_stands_still_for_longer_than_the_grace(swarm: Swarm) -> None:
    leader = swarm.leader()
    other = next(name for name in MANAGERS if name != leader)
    with Load() as load:
        swarm.cluster.lab("pause", leader)
        end = time.monotonic() + GRACE + 3
        swarm.eventually(lambda: swarm.leader(other) not in ("", leader), 2 * FAILOVER, "another leader")
        swarm.cluster.docker(other, "service", "update", "-d", "--label-add", "written=meanwhile", "web")
        swarm.eventually(lambda: time.monotonic() > end, GRACE + 10, "the end of the pause")
        swarm.cluster.lab("resume", leader)
        swarm.eventually(swarm.is_whole, 30, "a whole swarm")
    assert load.failed(WEB) == load.failed(STEADY) == []


def _down(swarm: Swarm) -> bool:
    rows = swarm.cluster.docker("node1", "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
    return f"{VICTIM} Down" in rows

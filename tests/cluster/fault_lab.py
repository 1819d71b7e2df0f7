"""What the tests of faults are made of: the client that asks all the while, the swarm's state, and
the table of what the client saw."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.cluster.conftest import Cluster
from weft.lab.layout import Host, Layout
from weft.lab.processes import load as process_of
from weft.store.etcd.process import SOCKET

HOSTS = {f"node{k}": f"10.59.72.{10 + k}" for k in range(1, 6)}
MANAGERS = ("node1", "node2", "node3")
VICTIM = "node5"
WEFT = [str(Path(sys.executable).with_name("weft"))]
WEB, STEADY = 8080, 8081
REPLICAS = 10
SLOW = 0.5
"""Seconds."""
SENT_AGAIN = 0.9
"""Seconds. The client's kernel sends a SYN again after one: what took longer was sent to nobody
first."""
MOMENT = 0.1
"""Seconds: how finely it is told for how long requests failed."""
AFTERWARDS = 2.0
"""Seconds that the client goes on when the fault is over."""
PATIENCE = 10.0
"""The client's."""


class Request(NamedTuple):
    start: float
    late: float
    target: str
    seconds: float
    who: str
    why: str

    @property
    def host(self) -> str:
        return self.target.partition(":")[0]


class Seen(NamedTuple):
    """What the client saw of a service."""

    asked: int
    failed: tuple[Request, ...]
    slow: int
    again: tuple[Request, ...]
    """Answered, but only when their SYN was sent again."""

    def __str__(self) -> str:
        return (
            f"{self.asked:>6} {len(self.failed):>6} {total(self.failed):>5.1f} s {self.slow:>5}"
            f" {total(self.again):>5.1f} s"
        )


def total(requests: Sequence[Request]) -> float:
    """Seconds in which these were made, all moments together."""
    return MOMENT * len({int(request.start / MOMENT) for request in requests})


class Load:
    """The client, while the block lasts."""

    def __init__(self, targets: Sequence[str] = ()) -> None:
        """`targets`: `address:port` of each; by default both services on every host."""
        self.requests: list[Request] = []
        self._targets = targets or [
            f"{address}:{port}" for address in HOSTS.values() for port in (WEB, STEADY)
        ]

    def __enter__(self) -> "Load":
        program = [sys.executable, str(Path(__file__).with_name("load.py")), *self._targets]
        self._client = subprocess.Popen(
            [*WEFT, "lab", "exec", "client", "--", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Asks on for a moment: what the fault has led to may show only then."""
        try:
            self._client.wait(AFTERWARDS)
        except subprocess.TimeoutExpired:
            out = self._client.communicate(timeout=60)[0]
            self.requests = [Request(*json.loads(line)) for line in out.splitlines()]

    def seen(self, port: int, *beside: str) -> Seen:
        """Through other hosts than `beside`. Failures while the client itself did not get the
        processor to ask in time, as on a machine that has other things to do, say nothing."""
        left_out = {HOSTS[name] for name in beside}
        ours = [
            r for r in self.requests if r.target.endswith(f":{port}") and r.host not in left_out
        ]
        assert len(ours) > 100, "the client has hardly asked"
        starved = [r.start for r in self.requests if r.late > SLOW]
        due = [
            r
            for r in ours
            if not any(r.start - SLOW < moment < r.start + PATIENCE for moment in starved)
        ]
        failed = tuple(r for r in due if r.why)
        again = tuple(r for r in due if not r.why and r.seconds > SENT_AGAIN)
        return Seen(len(ours), failed, sum(not r.why and r.seconds > SLOW for r in ours), again)


class Swarm:
    """The lab with the two services, the questions that the tests ask of it, and the table that
    they fill."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.layout = Layout()
        self.table = [
            f"{'FAULT':<44} {'SERVICE':<7} {'ASKED':>6} {'FAILED':>6} {'FOR':>7} {'>0.5s':>5}"
            f" {'>0.9s':>7}"
        ]

    def note(self, fault: str, web: Seen, steady: Seen) -> None:
        self.table += [f"{fault:<44} {'web':<7} {web}", f"{'':<44} {'steady':<7} {steady}"]

    def host(self, name: str) -> Host:
        return self.layout.node(int(name.removeprefix("node")))

    def daemon(self, name: str) -> object:
        """Which process it is; nothing if it does not run."""
        return process_of(self.host(name).daemon_record)

    def lab(self, *argv: str) -> str:
        return str(self.cluster.run(*WEFT, "lab", *argv, timeout=120).stdout)

    def leader(self, asked: str) -> str:
        rows = self.cluster.docker(
            asked, "node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}", timeout=10
        )
        return next((row.split()[0] for row in rows.splitlines() if row.endswith("Leader")), "")

    def leader_and_other(self) -> tuple[str, str]:
        leader = self.leader("node1")
        return leader, next(name for name in MANAGERS if name != leader)

    def leads_store(self, name: str) -> bool:
        """Its member of the store is the one that the others follow: not always that of the
        managers' leader."""
        member = self.host(name).run / "weft" / "etcd" / SOCKET
        url = "http://localhost/v3/maintenance/status"
        said = json.loads(
            self.cluster.run(
                "curl", "-sS", "--unix-socket", str(member), "-d", "{}", url, timeout=10
            ).stdout
        )
        return bool(said["leader"] == said["header"]["member_id"])

    def eventually(self, condition: Callable[..., object], timeout: float, what: str) -> float:
        """Gives how long it took."""
        begun = time.monotonic()
        self.cluster.eventually(condition, timeout, what)
        return time.monotonic() - begun

    def running(self, service: str, asked: str = "node1") -> int:
        rows = self.cluster.docker(
            asked, "service", "ls", "--filter", f"name={service}", "--format", "{{.Replicas}}"
        )
        return int(rows.split("/")[0])

    def states(self, asked: str = "node1") -> dict[str, str]:
        rows = self.cluster.docker(asked, "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
        return dict(row.split() for row in rows.splitlines())

    def containers(self, service: str) -> dict[str, str]:
        """Address on the ingress network of each running container, by its id, on all hosts."""
        found = {}
        for host in HOSTS:
            ids = self.cluster.containers(host, service)
            for container in json.loads(self.cluster.docker(host, "inspect", *ids)) if ids else []:
                # One that is ending has none.
                if ingress := container["NetworkSettings"]["Networks"].get("ingress"):
                    found[container["Id"]] = ingress["IPAddress"]
        return found

    def is_whole(self, replicas: int = REPLICAS) -> bool:
        """All hosts are ready, exactly what was asked for runs, and each has an address of its
        own."""
        if self.states() != dict.fromkeys(HOSTS, "Ready") or (
            self.running("web"),
            self.running("steady"),
        ) != (
            replicas,
            REPLICAS,
        ):
            return False
        if "Unreachable" in self.cluster.docker(
            "node1", "node", "ls", "--format", "{{.ManagerStatus}}"
        ):
            return False
        web, steady = self.containers("web"), self.containers("steady")
        addresses = [*web.values(), *steady.values()]
        return (len(web), len(steady)) == (replicas, REPLICAS) and len(set(addresses)) == len(
            addresses
        )

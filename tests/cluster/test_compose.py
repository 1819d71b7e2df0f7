"""Plain containers as people have them, on a host in no swarm: two Compose projects and a container
of each restart policy, through a crash of the daemon and a reboot of the host."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import stand_ins
from tests.cluster.conftest import Cluster

PROJECTS = Path(__file__).with_name("projects")
HOST = "node3"
SOCKET = f"unix:///run/weft/lab/{HOST}/docker.sock"
PORT, BOARD = 8088, 3000
WORK = ("--stop-signal", "SIGINT", "registry.example.com/shop/app:1.4.2", "app", "worker")
"""A program that ends with 0 when it is asked to."""
POLICIES = ("no", "on-failure", "always", "unless-stopped")
PROJECTS_RUN = {
    *(f"shop-{name}" for name in ("cache-1", "db-1", "proxy", "web-1", "worker-1", "worker-2")),
    *(f"monitoring-{name}-1" for name in ("grafana", "prometheus")),
    "node-exporter", "cadvisor",
}  # fmt: skip
SOCKET_PROXY = "monitoring-socket-proxy-1"
"""The one that has no policy of its own."""
RUN = {*PROJECTS_RUN, "on-failure", "always", "unless-stopped"}
KEY = "not-much-of-a-key"


class Lone:
    """A host in no swarm, and the docker command there."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster, self.directory = cluster, directory

    def docker(self, *argv: str) -> str:
        return self.cluster.docker(HOST, *argv)

    def compose(self, project: str, *argv: str) -> str:
        directory = str(self.directory / project)
        return self.docker("compose", "--project-directory", directory, *argv)

    def services(self, project: str) -> dict[str, Any]:
        """By name of the container; those that have ended as well."""
        found = self.compose(project, "ps", "--all", "--format", "json")
        return {one["Name"]: one for one in map(json.loads, found.splitlines())}

    def page(self, port: int, path: str) -> list[str]:
        url = f"http://{self.cluster.nodes[HOST]}:{port}/{path}"
        said: str = self.cluster.on("client", "curl", "-sS", "--max-time", "5", url)
        return said.splitlines()

    def rows(self) -> int:
        """Asks the shop for its page; how many rows its database has since."""
        version, cache, rows = self.page(PORT, "cgi-bin/order")
        assert version.startswith("version 1.4.2 on ")
        assert cache == "cache PONG"
        assert rows.startswith("created as shop, ")
        return int(rows.split()[3])

    def board(self) -> str:
        """Asks the monitoring project for all that it sees of the host; the list of containers,
        which it has through the daemon's socket."""
        password, *metrics = self.page(BOARD, "cgi-bin/board")
        seen = dict(line.split(" ", 1) for line in metrics if " " in line)
        assert password == "admin"
        assert seen["node_name"] == seen["machine_name"] == HOST
        assert "ens160" in seen["node_network"]
        assert int(seen["node_processes"]) > 10
        assert int(seen["container_files"]) > 10
        assert seen["kmsg"] == "1"
        return metrics[-1]

    def runs(self) -> set[str]:
        """Names of the running containers."""
        return set(self.docker("ps", "--format", "{{.Names}}").split())

    def began(self) -> dict[str, str]:
        """When each container was started last, and its process."""
        ids = self.docker("ps", "-aq").split()
        shown = "{{.Name}} {{.State.StartedAt}} {{.State.Pid}}"
        lines = self.docker("inspect", "-f", shown, *ids).splitlines()
        return {line[1:].partition(" ")[0]: line.partition(" ")[2] for line in lines}

    def state(self, name: str) -> str:
        """Of a container: its state and exit code."""
        shown = "{{.State.Status}} {{.State.ExitCode}}"
        return self.docker("inspect", "-f", shown, name).strip()

    def begin(self, how: str) -> None:
        """Starts the daemon again, or its host."""
        self.cluster.lab(how, HOST)
        self.cluster.eventually(lambda: self.docker("version"), 20)


@pytest.fixture(scope="module")
def lone(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lone]:
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    assert plugin.returncode == 0, "docker compose is missing: scripts/bootstrap --tests"
    directory = tmp_path_factory.mktemp("projects")
    shutil.copytree(PROJECTS, directory, dirs_exist_ok=True)
    archive = directory / "stand-ins.tar"
    stand_ins.write_archive(archive)
    node = cluster.docker(HOST, "info", "-f", "{{.Swarm.NodeID}}").strip()
    cluster.docker(HOST, "swarm", "leave")
    cluster.docker("node1", "node", "rm", node)
    cluster.docker(HOST, "load", "-q", "-i", str(archive))
    yield Lone(cluster, directory)
    cluster.lab("up")
    left = cluster.docker(HOST, "ps", "-aq").split()  # none, unless a test has failed
    cluster.docker(HOST, "rm", "-f", "-v", "none", *left)
    for kind in ("network", "volume"):
        cluster.docker(HOST, kind, "prune", "-f")
    cluster.docker(HOST, "rmi", *stand_ins.IMAGES)


def start_one_of_each_policy(lone: Lone) -> None:
    """And another that a user stops; and one that is removed when it ends."""
    for policy in POLICIES:
        for name in (policy, f"{policy}-stopped"):
            lone.docker("run", "-d", "--name", name, "--restart", policy, *WORK)
        lone.docker("stop", f"{policy}-stopped")
    lone.docker("run", "-d", "--name", "removed", "--rm", *WORK)


def use_the_shop(lone: Lone) -> None:
    """As people do from day to day."""
    assert lone.compose("shop", "exec", "-T", "web", "cat", "/run/secrets/session_key") == KEY
    said = lone.compose("shop", "run", "--rm", "-T", "console", "app", "console", "echo", "hello")
    assert said == "hello\n"
    lone.compose("shop", "up", "-d", "--scale", "worker=3")
    assert "shop-worker-3" in lone.services("shop")
    lone.compose("shop", "up", "-d")
    assert "shop-worker-3" not in lone.services("shop")
    lone.compose("shop", "restart", "cache")
    assert "created as shop, 1 rows" in lone.compose("shop", "logs", "--no-color", "migrate")
    proxy = lone.services("shop")["shop-proxy"]
    assert [port["PublishedPort"] for port in proxy["Publishers"]] == [PORT, 8443]
    assert lone.services("shop")["shop-migrate-1"]["ExitCode"] == 0


def traces(lone: Lone) -> list[str]:
    """What containers and networks leave on a host, but for the network `bridge`."""
    kinds = (("container", "-aq"), ("network", "-q"), ("volume", "-q"))
    listed = [lone.docker(kind, "ls", all) for kind, all in kinds]
    links = lone.cluster.on(HOST, "ip", "-br", "link").split()
    return [*listed, *sorted(word for word in links if word.startswith(("br-", "veth", "wl")))]


def test_projects_and_policies_through_a_crash_and_a_reboot(lone: Lone) -> None:
    before = traces(lone)
    lone.compose("shop", "up", "-d")
    lone.compose("monitoring", "up", "-d", "--wait")
    start_one_of_each_policy(lone)
    assert lone.rows() == 2, "one of the migration, one of the page"
    assert {"/cadvisor"} in [set(one["Names"]) for one in json.loads(lone.board())]
    use_the_shop(lone)
    rows, began = lone.rows(), lone.began()

    lone.cluster.lab("kill", HOST)
    assert lone.page(BOARD, "api/health") == ["ok"], "without the daemon"
    for name in ("no", "on-failure"):
        lone.cluster.on(HOST, "kill", "-9", began[name].split()[-1])
    lone.begin("restart")
    # The proxy asks for a name again after five seconds, if nobody has answered it.
    lone.cluster.eventually(lambda: lone.rows() > rows, 20)
    lone.cluster.eventually(lone.board, 20)
    again = {"on-failure", "always-stopped"}
    lone.cluster.eventually(lambda: lone.runs() == {*RUN, *again, "removed", SOCKET_PROXY}, 20)
    assert lone.state("no") == "exited 137"
    now = lone.began()
    assert {name for name in began if now[name] != began[name]} == {*again, "no"}

    lone.docker("kill", "monitoring-socket-proxy-1")
    lone.begin("reboot")
    lone.cluster.eventually(lambda: lone.runs() == {*RUN, *again}, 20)
    assert "removed" not in lone.began()
    assert lone.cluster.eventually(lone.rows, 20) > rows, "rows that outlived the reboot"
    lone.cluster.eventually(lambda: lone.services("shop")["shop-web-1"]["Health"] == "healthy", 20)
    lone.compose("monitoring", "up", "-d", "--wait")
    assert {"/cadvisor"} in [set(one["Names"]) for one in json.loads(lone.board())]

    lone.docker("rm", "-f", "-v", *POLICIES, *(f"{policy}-stopped" for policy in POLICIES))
    lone.compose("monitoring", "down", "-v")
    lone.compose("shop", "down", "-v")
    assert traces(lone) == before

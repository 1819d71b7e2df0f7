"""Several managers: promoted, led by one of them, lost and found again, demoted. On a lab of three
hosts, with the docker command.

Each test begins and ends with node1 as the only manager, which is what the other tests expect.
"""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cluster.conftest import Cluster, Names

NO_LEADER = "The swarm does not have a leader"
OTHERS = ("node2", "node3")


def managers(cluster: Cluster, asked: str = "node1") -> dict[str, str]:
    """Hostname to `Leader`, `Reachable`, `Unreachable`, as one manager sees it."""
    out = cluster.docker(asked, "node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}")
    return {words[0]: words[1] for line in out.splitlines() if len(words := line.split()) == 2}


def all_there(cluster: Cluster, asked: str = "node1") -> bool:
    return sorted(managers(cluster, asked).values()) == ["Leader", "Reachable", "Reachable"]


def leader(cluster: Cluster, asked: str) -> str:
    return next(
        (name for name, status in managers(cluster, asked).items() if status == "Leader"), ""
    )


def promote(cluster: Cluster) -> None:
    cluster.docker("node1", "node", "promote", *OTHERS)
    for node in ("node1", *OTHERS):
        cluster.eventually(
            lambda node=node: all_there(cluster, node), 60, f"three managers, seen by {node}"
        )


def demote(cluster: Cluster, node: str) -> None:
    """The member of the one before may have led the store's, and then there is an election
    first."""
    cluster.eventually(
        lambda: cluster.docker("node1", "node", "demote", node), 30, f"{node} is demoted"
    )
    cluster.eventually(lambda: node not in managers(cluster), 60, f"{node} is a worker")


@pytest.fixture
def three_managers(cluster: Cluster, healthy: Cluster) -> Iterator[Cluster]:
    promote(cluster)
    yield cluster
    cluster.lab("up")
    for node in ("node1", *OTHERS):
        cluster.eventually(
            lambda node=node: all_there(cluster, node), 60, f"three managers, seen by {node}"
        )
    for node in OTHERS:
        demote(cluster, node)
        cluster.eventually(
            lambda node=node: (
                cluster.docker(node, "info", "-f", "{{.Swarm.ControlAvailable}}") == "false\n"
            ),
            30,
        )
    cluster.eventually(lambda: managers(cluster) == {"node1": "Leader"}, 30, "node1 alone")


def test_any_manager_shows_logs_whoever_has_the_session(
    three_managers: Cluster, names: Names
) -> None:
    """Sessions are spread over the managers: whichever is asked, most are with another one."""
    cluster = three_managers
    web = names("logged")
    cluster.create(web, command=("sh", "-c", "echo begins; while sleep 0.2; do echo goes on; done"))
    tasks = cluster.running(web)
    assert {task["Node"] for task in tasks} == set(cluster.nodes)
    expected = {f"{task['Name']}@{task['Node']}    | begins" for task in tasks}

    def first_lines(asked: str, *argv: str) -> set[str]:
        out = cluster.docker(asked, "service", "logs", "--no-task-ids", *argv, web)
        return {line for line in out.splitlines() if line.endswith("begins")}

    for asked in ("node1", *OTHERS):
        cluster.eventually(
            lambda asked=asked: first_lines(asked) == expected, 20, f"all logs, from {asked}"
        )
    argv = [
        "docker",
        "-H",
        "unix:///run/weft/lab/node1/docker.sock",
        "service",
        "logs",
        "-f",
        "-t",
        "--no-task-ids",
        web,
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as following:
        try:
            assert following.stdout is not None
            cluster.docker("node2", "service", "scale", "-d", f"{web}=4")
            later = next(line for line in following.stdout if f" {web}.4@" in line)
            assert later.endswith("| begins\n")
            cluster.lab("kill", "node3")
            cluster.lab("restart", "node3")
            back = datetime.now(UTC).isoformat()
            line = next(line for line in following.stdout if "@node3" in line and line > back)
            assert line.endswith("| goes on\n")
        finally:
            following.terminate()
    cluster.eventually(lambda: all_there(cluster, "node1"), 30, "three managers again")


def services(cluster: Cluster, node: str) -> set[str]:
    return set(cluster.docker(node, "service", "ls", "--format", "{{.Name}}").split())


def test_nothing_is_lost_when_managers_come_and_go(
    cluster: Cluster, names: Names, healthy: Cluster
) -> None:
    """What the one manager had, three have, and the last one again; containers run through it
    all."""
    web, net = names("moved"), names("movednet")
    cluster.docker("node1", "network", "create", "-d", "overlay", "--label", "a=b", net)
    cluster.create(web, "--network", net, "-p", "8091:80", "--env", "X=y")
    before = cluster.container_ids(web)
    shown = json.loads(cluster.docker("node1", "service", "inspect", web))[0]["Spec"]
    promote(cluster)
    try:
        for node in ("node1", *OTHERS):
            assert json.loads(cluster.docker(node, "service", "inspect", web))[0]["Spec"] == shown
            assert json.loads(cluster.docker(node, "network", "inspect", net))[0]["Labels"] == {
                "a": "b"
            }
        cluster.docker("node3", "service", "scale", "-d", f"{web}=4")
        cluster.eventually(lambda: len(cluster.running(web)) == 4)
        assert set(before) < set(cluster.container_ids(web))
        assert cluster.whoami("10.59.72.12", 4, 8091)
    finally:
        for node in OTHERS:
            demote(cluster, node)
    assert services(cluster, "node1") >= {web}
    assert set(before) < set(cluster.container_ids(web))
    refused = cluster.docker_fails("node1", "node", "demote", "node1")
    assert "attempting to demote the last manager of the swarm" in refused


def test_another_manager_leads_when_the_leader_dies(
    three_managers: Cluster, names: Names, tmp_path: Path
) -> None:
    """It can open the secrets that the dead one has sealed."""
    cluster = three_managers
    first, second = names("before"), names("after")
    cluster.create(first, "-p", "8092:80")
    old = leader(cluster, "node1")
    asked = next(node for node in ("node1", *OTHERS) if node != old)
    (tmp_path / "data").write_text("sealed by the old leader")
    cluster.docker(old, "secret", "create", "left-behind", str(tmp_path / "data"))
    cluster.lab("kill", old)
    try:
        cluster.eventually(lambda: leader(cluster, asked) not in ("", old), 15, "another leader")
        alive = ("--constraint", f"node.hostname!={old}")
        cluster.docker(
            asked,
            "service",
            "create",
            "-d",
            "--name",
            second,
            "--replicas",
            "2",
            "--secret",
            "left-behind",
            *alive,
            cluster.image,
        )
        cluster.eventually(
            lambda: (
                f"{second} 2/2"
                in cluster.docker(asked, "service", "ls", "--format", "{{.Name}} {{.Replicas}}")
            ),
            20,
        )
        node = next(n for n in ("node1", *OTHERS) if n != old and cluster.containers(n, second))
        container = cluster.containers(node, second)[0]
        shown = cluster.docker(node, "exec", container, "cat", "/run/secrets/left-behind")
        assert shown == "sealed by the old leader"
        assert managers(cluster, asked)[old] == "Unreachable"
        assert cluster.answers(cluster.nodes[old], 8092), (
            "the mesh of the host whose daemon is dead"
        )
    finally:
        cluster.lab("restart", old)
    cluster.eventually(lambda: all_there(cluster, asked), 30, "three managers again")
    assert services(cluster, old) >= {first, second}
    cluster.docker(old, "service", "rm", second)
    cluster.docker(old, "secret", "rm", "left-behind")


def test_without_a_majority_what_runs_runs_and_reads_work(
    three_managers: Cluster, names: Names
) -> None:
    cluster = three_managers
    web = names("alone")
    cluster.create(web, "-p", "8093:80")
    before = cluster.container_ids(web)
    for node in OTHERS:
        cluster.lab("pause", node)
    try:
        cluster.eventually(
            lambda: NO_LEADER in refused_write(cluster, web), 30, "writes are refused"
        )
        assert web in services(cluster, "node1")
        assert all(cluster.answers(address, 8093) for address in cluster.nodes.values())
    finally:
        for node in OTHERS:
            cluster.lab("resume", node)
    cluster.eventually(
        lambda: cluster.docker("node1", "service", "scale", "-d", f"{web}=4"),
        30,
        "writes work again",
    )
    cluster.eventually(lambda: len(cluster.running(web)) == 4, 30)
    assert set(before) < set(cluster.container_ids(web))


def refused_write(cluster: Cluster, service: str) -> str:
    done = cluster.run("docker", "-H", "unix:///run/weft/lab/node1/docker.sock", "service", "update", "-d", "--label-add",
                       "x=y", service, ok=False, timeout=60)  # fmt: skip
    return str(done.stderr)


def test_a_new_root_reaches_every_manager_and_its_store_while_work_goes_on(
    three_managers: Cluster, names: Names
) -> None:
    cluster = three_managers
    web = names("rooted")
    cluster.create(web, "-p", "8094:80")
    before, root = store_processes(cluster), cluster.docker("node1", "swarm", "ca")
    cluster.docker("node1", "swarm", "ca", "--rotate", "--quiet", timeout=60)
    assert cluster.docker("node2", "swarm", "ca") != root
    replicas = 3

    def scaled() -> bool:
        """Through one manager or the other: that to which a member belongs that is just being
        started again cannot write."""
        argv = ("service", "scale", "-d", f"{web}={replicas}")
        hosts = [f"unix:///run/weft/lab/{node}/docker.sock" for node in ("node1", "node2")]
        return any(
            cluster.run("docker", "-H", host, *argv, ok=False).returncode == 0 for host in hosts
        )

    def restarted() -> bool:
        nonlocal replicas
        replicas = 7 - replicas
        cluster.eventually(scaled, 10, "a write that is accepted")
        return not before & store_processes(cluster)

    cluster.eventually(restarted, 60, "the stores' processes were started again, one by one")
    for node in ("node1", *OTHERS):
        cluster.eventually(
            lambda node=node: all_there(cluster, node), 30, f"three managers, seen by {node}"
        )
    cluster.eventually(lambda: len(cluster.running(web)) == replicas, 20)
    token = cluster.docker("node2", "swarm", "join-token", "-q", "worker")
    assert token.startswith("SWMTKN-1-")
    assert cluster.docker("node1", "swarm", "join-token", "-q", "worker") == token


def store_processes(cluster: Cluster) -> set[tuple[str, str]]:
    return {
        (node, cluster.on(node, "cat", "/run/weft/etcd/member.json")) for node in ("node1", *OTHERS)
    }


def test_a_manager_leaves_and_comes_back(three_managers: Cluster) -> None:
    cluster = three_managers
    assert "Use `--force` to suppress this message" in cluster.docker_fails(
        "node3", "swarm", "leave"
    )
    cluster.docker("node3", "swarm", "leave", "--force")
    assert cluster.docker("node3", "info", "-f", "{{.Swarm.LocalNodeState}}") == "inactive\n"
    gone = cluster.docker("node1", "node", "ls", "-q", "--filter", "name=node3").strip()
    cluster.eventually(lambda: managers(cluster)["node3"] == "Unreachable", 15)
    assert "must be demoted to worker before removal" in cluster.docker_fails(
        "node1", "node", "rm", "--force", gone
    )
    cluster.docker("node1", "node", "demote", gone)
    cluster.eventually(lambda: cluster.docker("node1", "node", "rm", "--force", gone), 15)
    token = cluster.docker("node2", "swarm", "join-token", "-q", "manager").strip()
    joined = cluster.docker("node3", "swarm", "join", "--token", token, "--advertise-addr", cluster.nodes["node3"],
                            f"{cluster.nodes['node2']}:2377")  # fmt: skip
    assert joined == "This node joined a swarm as a manager.\n"
    cluster.eventually(lambda: all_there(cluster, "node3"), 15)


def test_the_key_of_a_manager_that_was_removed_is_of_no_use_to_an_outsider(
    three_managers: Cluster, tmp_path: Path
) -> None:
    cluster = three_managers
    for name in ("node.crt", "node.key"):
        (tmp_path / name).write_bytes(
            cluster.on("node3", "cat", f"/var/lib/weft/swarm/{name}").encode()
        )

    def members(node: str) -> str:
        """Of etcd, as it tells the client; empty if it does not."""
        files = ("--cert", str(tmp_path / "node.crt"), "--key", str(tmp_path / "node.key"))
        url = f"https://{cluster.nodes[node]}:2380/members"
        return str(
            cluster.on(
                "client", "curl", "-sk", "--http1.1", "--max-time", "5", *files, url, ok=False
            )
        )

    assert all("clientURLs" in members(node) for node in ("node1", "node2"))
    gone = cluster.docker("node1", "node", "ls", "-q", "--filter", "name=node3").strip()
    demote(cluster, "node3")
    assert not any(members(node) for node in ("node1", "node2")), "at once"
    cluster.eventually(lambda: cluster.docker("node1", "node", "rm", "--force", gone), 15)
    cluster.docker("node3", "swarm", "leave", "--force")
    assert not any(members(node) for node in ("node1", "node2"))
    token = cluster.docker("node2", "swarm", "join-token", "-q", "manager").strip()
    cluster.docker("node3", "swarm", "join", "--token", token, "--advertise-addr", cluster.nodes["node3"],
                   f"{cluster.nodes['node2']}:2377")  # fmt: skip
    cluster.eventually(lambda: all_there(cluster, "node3"), 30)


def test_the_lab_is_mended_when_its_first_host_is_no_manager(three_managers: Cluster) -> None:
    cluster = three_managers
    cluster.docker("node2", "node", "demote", "node1")
    control = ("info", "-f", "{{.Swarm.ControlAvailable}}")
    try:
        cluster.eventually(
            lambda: "node1" not in managers(cluster, "node2"), 30, "node1 as a worker"
        )
        cluster.eventually(
            lambda: cluster.docker("node1", *control) == "false\n",
            30,
            "node1 as a worker, as it sees it",
        )
        cluster.lab("kill", "node1")
        cluster.lab("up")
        ready = ("node", "ls", "--format", "{{.Hostname}} {{.Status}}", "--filter", "name=node1")
        assert cluster.docker("node2", *ready) == "node1 Ready\n"
        assert "node1" not in managers(cluster, "node2"), "nobody asked for that"
    finally:
        cluster.docker("node2", "node", "promote", "node1")
        cluster.eventually(lambda: all_there(cluster, "node1"), 60, "node1 as a manager")

"""Services as their user sees them: replicas, placement, restarts, loss of a node, ports, names,
and what is refused."""

import json
import subprocess
import time
from pathlib import Path

from tests.cluster.conftest import Cluster, Names


def test_scaling_up_and_down(cluster: Cluster, names: Names) -> None:
    cluster.create(names("scaled"), replicas=2)
    cluster.docker("node1", "service", "scale", "scaled=6")
    assert len(cluster.container_ids("scaled")) == 6
    assert {len(ids) for ids in cluster.all_containers("scaled").values()} == {2}
    cluster.docker("node1", "service", "scale", "scaled=1")
    cluster.eventually(lambda: len(cluster.container_ids("scaled")) == 1, 20, "one container")


def test_a_task_that_fails_is_restarted_as_often_as_the_policy_says(
    cluster: Cluster, names: Names
) -> None:
    options = (
        "--restart-condition",
        "on-failure",
        "--restart-delay",
        "100ms",
        "--restart-max-attempts",
        "2",
        "--detach",
    )
    cluster.create(names("failing"), *options, replicas=1, command=("sh", "-c", "exit 3"))
    cluster.eventually(
        lambda: len(cluster.tasks("failing")) == 3, 30, "the first task and two more"
    )
    cluster.eventually(
        lambda: all(t["CurrentState"].startswith("Failed") for t in cluster.tasks("failing")), 15
    )
    assert {task["Error"] for task in cluster.tasks("failing")} == {'"task: non-zero exit (3)"'}


def test_a_container_that_is_killed_is_replaced(cluster: Cluster, names: Names) -> None:
    cluster.create(names("killed"), "--restart-delay", "100ms", replicas=1)
    (task,) = cluster.running("killed")
    node = task["Node"]
    (old,) = cluster.containers(node, "killed")
    cluster.on(node, "kill", "-9", cluster.pid(node, old))
    cluster.eventually(
        lambda: [t for t in cluster.running("killed") if t["ID"] != task["ID"]], 20, "another task"
    )
    assert old not in cluster.container_ids("killed")


def test_tasks_move_away_from_a_lost_node_and_it_comes_back_clean(
    cluster: Cluster, healthy: Cluster, names: Names
) -> None:
    cluster.create(names("moving"))
    cluster.run("ip", "link", "set", "weft-n3", "down")
    cluster.eventually(
        lambda: (
            "Down" in cluster.docker("node1", "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
        ),
        60,
        "node3 down",
    )
    cluster.eventually(
        lambda: {t["Node"] for t in cluster.running("moving")} == {"node1", "node2"},
        40,
        "tasks elsewhere",
    )
    cluster.run("ip", "link", "set", "weft-n3", "up")
    cluster.eventually(
        lambda: (
            cluster.docker("node1", "node", "ls", "--format", "{{.Status}}").split()
            == ["Ready"] * 3
        ),
        40,
        "node3 back",
    )
    cluster.eventually(
        lambda: not cluster.containers("node3", "moving"), 30, "the old task of node3 gone"
    )
    assert len(cluster.running("moving")) == 3


def test_a_drained_node_gives_its_tasks_away(cluster: Cluster, names: Names) -> None:
    cluster.create(names("drained"))
    cluster.docker("node1", "node", "update", "--availability", "drain", "node2")
    try:
        cluster.eventually(
            lambda: {t["Node"] for t in cluster.running("drained")} == {"node1", "node3"}, 30
        )
        cluster.eventually(lambda: not cluster.containers("node2", "drained"), 20)
    finally:
        cluster.docker("node1", "node", "update", "--availability", "active", "node2")


def test_a_subnet_that_is_full_is_shown_in_the_tasks(cluster: Cluster, names: Names) -> None:
    """A /29 has six host addresses; the gateway, the service's own and the load balancers take some
    of them."""
    cluster.docker(
        "node1",
        "network",
        "create",
        "--driver",
        "overlay",
        "--subnet",
        "10.31.2.0/29",
        names("tiny"),
    )
    cluster.create(names("many"), "--network", "tiny", "--detach", replicas=9)
    pending = cluster.eventually(
        lambda: [t for t in cluster.tasks("many") if "address" in t["Error"].lower()],
        20,
        "an error that says why",
    )
    assert pending[0]["CurrentState"].startswith(("New", "Pending"))
    running = cluster.eventually(lambda: cluster.running("many"), 20)
    assert 1 <= len(running) <= 5


def test_a_port_that_is_taken(cluster: Cluster, names: Names) -> None:
    cluster.create(names("first"), "-p", "8092:80", replicas=1)
    said = cluster.docker_fails(
        "node1", "service", "create", "--name", names("second"), "-p", "8092:80", cluster.image
    )
    assert "port '8092' is already in use by service 'first'" in said
    assert "second" not in cluster.docker("node1", "service", "ls", "--format", "{{.Name}}").split()
    labels = ("weft.publish-address=127.0.0.1", "weft.publish-address.8096/tcp=10.59.72.12")
    ports = ("-p", "8096:80", "-p", "published=8097,target=80,mode=host")
    named = [word for label in labels for word in ("--label", label)]
    cluster.create(names("at-one"), *named, *ports, replicas=1)
    (task,) = cluster.running("at-one")
    node = task["Node"]

    def answers(asker: str, address: str, port: int) -> bool:
        url = f"http://{address}:{port}/whoami"
        return "hostname" in cluster.on(asker, "curl", "-s", "--max-time", "3", url, ok=False)

    asked = {address: answers("client", address, 8096) for address in cluster.nodes.values()}
    assert asked == {address: address == "10.59.72.12" for address in asked}
    assert answers(node, "127.0.0.1", 8097)
    assert not answers("client", cluster.nodes[node], 8097)
    assert "127.0.0.1:8097->80/tcp" in cluster.docker(node, "ps", "--format", "{{.Ports}}")


UDP_SERVER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 9000))
print("ready", flush=True)
while True:
    data, peer = s.recvfrom(100)
    s.sendto(peer[0].encode(), peer)
"""
UDP_CLIENT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
s.sendto(b"hello", (sys.argv[1], 9092))
print(s.recvfrom(100))
"""


def test_published_udp(cluster: Cluster, names: Names) -> None:
    """The answer comes from the address that was asked, and says which address the server saw: the
    client's own."""
    cluster.create(names("udp"), "-p", "9092:9000/udp", replicas=1)
    node = cluster.running("udp")[0]["Node"]
    pid = cluster.pid(node, cluster.containers(node, "udp")[0])
    argv = [
        *cluster.weft,
        "lab",
        "exec",
        node,
        "--",
        "nsenter",
        "-n",
        "-t",
        pid,
        "/usr/bin/python3",
        "-c",
        UDP_SERVER,
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        for address in cluster.nodes.values():
            said = cluster.on("client", "/usr/bin/python3", "-c", UDP_CLIENT, address)
            assert said.strip() == f"(b'{cluster.client}', ('{address}', 9092))"
        server.terminate()


def test_the_mesh_from_inside(cluster: Cluster, names: Names) -> None:
    """From a host through 127.0.0.1 and its own address, and from a container to its own service
    through a node's address."""
    cluster.create(names("hairpin"), "-p", "8093:80")
    for node, address in cluster.nodes.items():
        for target in ("127.0.0.1", address):
            cluster.on(node, "curl", "-sS", "--max-time", "3", f"http://{target}:8093/whoami")
    (container,) = cluster.containers("node2", "hairpin")
    seen = [
        json.loads(
            cluster.inside(
                "node2",
                container,
                "curl",
                "-sS",
                "--max-time",
                "3",
                "http://10.59.72.12:8093/whoami",
            )
        )["hostname"]
        for _ in range(9)
    ]
    assert len(set(seen)) == 3


def test_no_request_is_lost_while_scaling_down(cluster: Cluster, names: Names) -> None:
    cluster.create(names("shrinking"), "-p", "8094:80", replicas=6)
    cluster.docker("node1", "service", "scale", "--detach", "shrinking=2")
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        assert len(cluster.whoami(cluster.nodes["node1"], 20, 8094)) == 20


def test_a_virtual_address_keeps_the_caller_and_spreads(cluster: Cluster, names: Names) -> None:
    cluster.docker(
        "node1",
        "network",
        "create",
        "--driver",
        "overlay",
        "--subnet",
        "10.31.3.0/24",
        names("vip-net"),
    )
    wanted = ["10.31.3.60", "10.31.3.61", "10.31.3.62"]
    labels = ("weft.address.vip-net=10.31.3.50", f"weft.task-addresses.vip-net={','.join(wanted)}")
    chosen = [word for label in labels for word in ("--label", label)]
    cluster.create(names("vip"), "--network", "vip-net", *chosen)
    (container,) = cluster.containers("node1", "vip")
    vip = cluster.docker("node1", "exec", container, "getent", "ahostsv4", "vip").split()[0]
    assert vip == "10.31.3.50"
    (link,) = json.loads(
        cluster.inside("node1", container, "ip", "-j", "-4", "address", "show", "eth0")
    )
    own = link["addr_info"][0]["local"]
    answers = [
        json.loads(
            cluster.inside(
                "node1", container, "curl", "-sS", "--max-time", "3", f"http://{vip}/whoami"
            )
        )
        for _ in range(12)
    ]
    assert len({a["hostname"] for a in answers}) == 3
    assert {a["server_addr"] for a in answers} == set(wanted)
    assert {a["remote_addr"] for a in answers if a["server_addr"] != own} == {own}
    cluster.docker(
        "node1", "service", "update", "-d", "--label-add", "weft.affinity=client-address", "vip"
    )
    probe = f"for i in $(seq 20); do curl -sS --max-time 3 http://{vip}/whoami; echo; done"

    def reached() -> set[str]:
        said = cluster.inside("node1", container, "sh", "-c", probe)
        return {json.loads(line)["server_addr"] for line in said.splitlines() if line}

    cluster.eventually(lambda: len(reached()) == 1, 10, "one task for one client")


def test_names_follow_the_tasks(cluster: Cluster, names: Names) -> None:
    cluster.docker("node1", "network", "create", "--driver", "overlay", names("names-net"))
    cluster.create(names("named"), "--network", "names-net", replicas=3)
    (container,) = cluster.containers("node1", "named")

    def count() -> int:
        out = cluster.docker("node1", "exec", container, "getent", "ahostsv4", "tasks.named")
        return len({line.split()[0] for line in out.splitlines()})

    assert count() == 3
    cluster.docker("node1", "service", "scale", "named=5")
    cluster.eventually(lambda: count() == 5, 10, "five addresses")


def test_an_update_replaces_the_tasks(cluster: Cluster, names: Names) -> None:
    cluster.create(names("updated"), replicas=2)
    before = {t["ID"] for t in cluster.running("updated")}
    cluster.docker("node1", "service", "update", "--env-add", "COLOUR=blue", "updated")
    tasks = cluster.running("updated")
    assert len(tasks) == 2
    assert before.isdisjoint(t["ID"] for t in tasks)
    node = tasks[0]["Node"]
    assert "COLOUR=blue" in cluster.docker(
        node, "exec", cluster.containers(node, "updated")[0], "env"
    )


def test_an_update_of_ports_leaves_tasks_with_the_ports_that_they_have(
    cluster: Cluster, names: Names
) -> None:
    """Halfway through: the first task is replaced, and nobody listens on the new target in this
    image."""
    options = ("--update-delay", "1h", "-p", "8096:80")
    cluster.create(names("ports"), *options, replicas=3)
    before = {t["ID"] for t in cluster.running("ports")}
    new = ("--publish-rm", "80", "--publish-add", "8096:81", "--publish-add", "8097:80")
    cluster.docker("node1", "service", "update", "--detach", *new, "ports")

    def replaced() -> bool:
        now = {t["ID"] for t in cluster.running("ports")}
        return len(now) == 3 and len(now - before) == 1

    cluster.eventually(replaced, 30, "one task replaced")

    def answering(address: str) -> list[str]:
        asked = f"curl -sS --max-time 2 http://{address}:8096/whoami || true; echo"
        lines = cluster.on(
            "client", "sh", "-c", f"for i in 1 2 3 4 5 6; do {asked}; done"
        ).splitlines()
        return [json.loads(line)["hostname"] for line in lines if line.startswith("{")]

    def two_of_three(address: str) -> bool:
        answers = answering(address)
        return (len(answers), len(set(answers))) == (4, 2)

    for address in cluster.nodes.values():  # a host that has not heard yet begins its turns anew
        cluster.eventually(
            lambda address=address: two_of_three(address),
            60,
            "the two old tasks answer, each in its turn",
        )
        assert len({a["hostname"] for a in cluster.whoami(address, 6, 8097)}) == 1, "the new one"


def test_an_update_that_changes_no_task_ends(cluster: Cluster, names: Names) -> None:
    """A constraint that all tasks satisfy already: the command waits until it hears that they are
    up to date."""
    cluster.create(names("stays"), replicas=2)
    before = cluster.container_ids("stays")
    said = cluster.docker(
        "node1",
        "service",
        "update",
        "--constraint-add",
        "node.hostname!=nowhere",
        "stays",
        timeout=60,
    )
    assert "Service stays converged" in said
    assert cluster.container_ids("stays") == before


def test_what_cannot_be_had_is_refused_and_changes_nothing(cluster: Cluster, names: Names) -> None:
    before = cluster.docker("node1", "network", "ls", "-q").split()
    refused = cluster.docker_fails(
        "node1", "network", "create", "-d", "overlay", "--opt", "encrypted=false", "no-net"
    )
    assert "option encrypted" in refused
    for subnet in ("10.31.4.0/33", "10.0.0.128/25"):
        cluster.docker_fails(
            "node1", "network", "create", "-d", "overlay", "--subnet", subnet, "no-net"
        )
    assert "not found" in cluster.docker_fails(
        "node1", "service", "create", "--network", "no-such-net", cluster.image
    )
    for own in ("2377:80", "published=2377,target=80,mode=host", "4789:80/udp"):
        said = cluster.docker_fails("node1", "service", "create", "--publish", own, cluster.image)
        assert "cannot publish port" in said
    assert "No such image" in cluster.docker_fails("node1", "image", "inspect", "no-such-image")
    assert "This node is not a swarm manager" in cluster.docker_fails("node2", "service", "ls")
    assert sorted(cluster.docker("node1", "network", "ls", "-q").split()) == sorted(before)


def test_a_network_over_the_hosts_own_subnet_is_had_and_harms_nobody(
    cluster: Cluster, names: Names
) -> None:
    """Its containers cannot reach the hosts; who asks the hosts for them, from that very subnet,
    can."""
    subnet = ("--subnet", "10.59.72.0/24")
    cluster.docker("node1", "network", "create", "-d", "overlay", *subnet, names("over-net"))
    cluster.create(names("over"), "--network", "over-net", "-p", "8093:80")
    for host in ("10.59.72.11", "10.59.72.12", "10.59.72.13"):
        seen = {answer["hostname"] for answer in cluster.whoami(host, 6, port=8093)}
        assert seen == {id[:12] for id in cluster.container_ids("over")}
    ready = cluster.docker("node1", "node", "ls", "--format", "{{.Status}}").split()
    assert ready == ["Ready"] * 3


def test_a_network_in_use_cannot_be_removed(cluster: Cluster, names: Names) -> None:
    cluster.docker("node1", "network", "create", "--driver", "overlay", names("used-net"))
    cluster.create(names("user"), "--network", "used-net", replicas=1)
    assert "in use by service" in cluster.docker_fails("node1", "network", "rm", "used-net")


STACK = """
services:
  one:
    image: zaggash/demo-webapp
    deploy: {replicas: 2}
  two:
    image: zaggash/demo-webapp
    networks: [default, more]
networks:
  more: {}
"""


def test_a_stack_is_removed_with_its_networks(cluster: Cluster, tmp_path: Path) -> None:
    """The command removes the networks in the moment in which the services are gone."""
    file = tmp_path / "stack.yml"
    file.write_text(STACK)
    for _ in range(4):
        cluster.docker("node1", "stack", "deploy", "--detach=true", "-c", str(file), "heap")
        cluster.eventually(
            lambda: len(cluster.running("heap_one")) == 2 and cluster.running("heap_two"), 30
        )
        cluster.docker("node1", "stack", "rm", "heap")
        left = cluster.docker("node1", "network", "ls", "--format", "{{.Name}}").split()
        assert not [name for name in left if name.startswith("heap")]
    cluster.eventually(
        lambda: not cluster.container_ids("heap_one") + cluster.container_ids("heap_two"), 30
    )

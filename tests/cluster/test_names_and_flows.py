"""What the agent does beside packets: names that others know are asked of them, and UDP flows leave
a task that is gone."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cluster.conftest import Cluster, Names

PYTHON = "/usr/bin/python3"
NAME_SERVER = """
import sys
sys.path[:0] = sys.argv[1:]
from dnslib import A, RR
from dnslib.server import BaseResolver, DNSServer
class Resolver(BaseResolver):
    def resolve(self, request, handler):
        reply = request.reply()
        reply.add_answer(RR(request.q.qname, rdata=A("192.0.2.77"), ttl=5))
        return reply
for tcp in (False, True):
    DNSServer(Resolver(), address="10.59.72.100", port=53, tcp=tcp).start_thread()
print("ready", flush=True)
sys.stdin.read()
"""
UDP_SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 9000))
print("ready", flush=True)
while True:
    data, peer = s.recvfrom(100)
    s.sendto(sys.argv[1].encode(), peer)
"""
UDP_CLIENT = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.2)
s.connect((sys.argv[1], int(sys.argv[2])))
while True:
    try:
        s.send(b"who?")
        print(s.recv(100).decode(), flush=True)
        time.sleep(0.05)
    except OSError as error:
        print("-", flush=True)
        time.sleep(0.05)
"""
"""One socket, one port, for as long as it lives."""


@contextlib.contextmanager
def program(*argv: str) -> "Iterator[subprocess.Popen[str]]":
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextlib.contextmanager
def ready(*argv: str) -> "Iterator[subprocess.Popen[str]]":
    with program(*argv) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def next_answer(client: "subprocess.Popen[str]", wanted: set[str], lines: int = 100) -> str:
    """The first of the wanted answers; the client says something at least four times a second."""
    assert client.stdout is not None
    said = []
    for _ in range(lines):
        said.append(client.stdout.readline().strip())
        if said[-1] in wanted:
            return said[-1]
    raise AssertionError(f"none of {wanted} in {said}")


def test_a_name_of_the_world_outside_is_asked_of_the_servers_that_the_user_named(
    cluster: Cluster, names: Names
) -> None:
    packages = [path for path in sys.path if path.endswith("site-packages")]
    with ready(
        *cluster.weft, "lab", "exec", "client", "--", sys.executable, "-c", NAME_SERVER, *packages
    ):
        cluster.create(names("asking"), "--dns", cluster.client, replicas=1)
        node = cluster.running("asking")[0]["Node"]
        (container,) = cluster.containers(node, "asking")
        found = cluster.docker(node, "exec", container, "getent", "ahostsv4", "example.org")
        assert found.split()[0] == "192.0.2.77"
        own = cluster.docker(node, "exec", container, "getent", "ahostsv4", "no-such-name.invalid")
        assert own.split()[0] == "192.0.2.77"


@pytest.mark.parametrize("by", ["task", "service"])
def test_a_name_server_in_the_swarm_is_asked_from_where_the_container_is(
    cluster: Cluster, names: Names, by: str
) -> None:
    """On a network that has no way out, for names that nobody knows there."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    everywhere = NAME_SERVER.replace(cluster.client, "0.0.0.0")
    network = cluster.docker(
        "node1", "network", "create", "-d", "overlay", "--internal", names("dns-net")
    ).strip()
    cluster.create(
        names("dns-server"),
        "--network",
        "dns-net",
        "--constraint",
        "node.hostname==node2",
        replicas=1,
    )
    (server,) = cluster.containers("node2", "dns-server")
    (link,) = json.loads(
        cluster.inside("node2", server, "ip", "-j", "-4", "address", "show", "eth0")
    )
    address = link["addr_info"][0]["local"]
    if by == "service":
        virtual = cluster.inspect("node1", "service", "inspect", "dns-server")["Endpoint"][
            "VirtualIPs"
        ]
        (address,) = [v["Addr"].split("/")[0] for v in virtual if v["NetworkID"] == network]
    enter = ("nsenter", "-n", "-t", cluster.pid("node2", server), sys.executable)
    with ready(*cluster.weft, "lab", "exec", "node2", "--", *enter, "-c", everywhere, *packages):
        options = ("--network", "dns-net", "--dns", address, "--constraint", "node.hostname==node1")
        cluster.create(names("dns-client"), *options, replicas=1)
        (container,) = cluster.containers("node1", "dns-client")
        found = cluster.docker("node1", "exec", container, "getent", "ahostsv4", "www.example.org")
        assert found.split()[0] == "192.0.2.77"


def test_services_that_only_publish_ports_do_not_know_each_other(
    cluster: Cluster, names: Names
) -> None:
    """They could not reach each other by the ingress network."""
    cluster.create(names("one-mesh"), "-p", "8102:80", replicas=1)
    cluster.create(names("two-mesh"), "-p", "8103:80", "--hostname", "www.example.org", replicas=1)
    node = cluster.running("one-mesh")[0]["Node"]
    (container,) = cluster.containers(node, "one-mesh")
    for name in ("two-mesh", "tasks.two-mesh", "two-mesh.ingress", "www.example.org"):
        asked = cluster.run(
            "docker",
            "-H",
            f"unix:///run/weft/lab/{node}/docker.sock",
            "exec",
            container,
            "getent",
            "ahostsv4",
            name,
            ok=False,
        )
        assert "10.0.0." not in asked.stdout, name


@pytest.mark.parametrize("by", ["published port", "virtual address"])
def test_a_udp_flow_moves_when_its_task_is_gone(cluster: Cluster, names: Names, by: str) -> None:
    network = cluster.docker(
        "node1", "network", "create", "-d", "overlay", names("flow-net")
    ).strip()
    cluster.create(
        names("flow"),
        "--network",
        "flow-net",
        "-p",
        "9095:9000/udp",
        "--restart-condition",
        "none",
        replicas=2,
    )
    cluster.create(
        names("flow-caller"),
        "--network",
        "flow-net",
        "--constraint",
        "node.hostname==node1",
        replicas=1,
    )
    homes = {id: node for node, ids in cluster.all_containers("flow").items() for id in ids}
    with contextlib.ExitStack() as stack:
        for id, node in homes.items():
            enter = (
                *cluster.weft,
                "lab",
                "exec",
                node,
                "--",
                "nsenter",
                "-n",
                "-t",
                cluster.pid(node, id),
            )
            stack.enter_context(ready(*enter, PYTHON, "-c", UDP_SERVER, id))
        where: tuple[str, ...] = (*cluster.weft, "lab", "exec", "client", "--")
        target = (cluster.nodes["node3"], "9095")
        if by == "virtual address":
            (caller,) = cluster.containers("node1", "flow-caller")
            pid = cluster.pid("node1", caller)
            where = (*cluster.weft, "lab", "exec", "node1", "--", "nsenter", "-n", "-t", pid)
            virtual = cluster.inspect("node1", "service", "inspect", "flow")["Endpoint"][
                "VirtualIPs"
            ]
            (address,) = [v["Addr"].split("/")[0] for v in virtual if v["NetworkID"] == network]
            target = (address, "9000")
        client = stack.enter_context(program(*where, PYTHON, "-c", UDP_CLIENT, *target))
        first = next_answer(client, set(homes))
        assert next_answer(client, set(homes)) == first, "one flow stays with one task"
        cluster.on(homes[first], "kill", "-9", cluster.pid(homes[first], first))
        (other,) = set(homes) - {first}
        assert next_answer(client, {other}) == other


@pytest.mark.parametrize("mode", ["ingress", "host"])
def test_a_udp_flow_follows_its_port_from_before_it_is_published(
    cluster: Cluster, names: Names, mode: str
) -> None:
    """The client, which never stops and keeps its own port, is there first; then the task is
    replaced, twice."""
    port = f"mode={mode},target=9000,published=9098,protocol=udp"
    also = (
        f"mode={'host' if mode == 'ingress' else 'ingress'},target=9000,published=9099,protocol=udp"
    )
    target = (cluster.nodes["node1"], "9098")
    with program(
        *cluster.weft, "lab", "exec", "client", "--", PYTHON, "-c", UDP_CLIENT, *target
    ) as client:
        assert next_answer(client, {"-"}) == "-"
        options = ("--publish", port, "--publish", also, "--constraint", "node.hostname==node1")
        cluster.create(names("followed"), *options, replicas=1)
        for number in range(3):
            if number:
                cluster.docker("node1", "service", "update", "--env-add", f"N={number}", "followed")
            (task,) = cluster.containers("node1", "followed")
            enter = (
                *cluster.weft,
                "lab",
                "exec",
                "node1",
                "--",
                "nsenter",
                "-n",
                "-t",
                cluster.pid("node1", task),
            )
            with ready(*enter, PYTHON, "-c", UDP_SERVER, task):
                assert next_answer(client, {task}) == task

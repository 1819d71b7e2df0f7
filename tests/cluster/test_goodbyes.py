"""Goodbyes under load: a client asks all the while, and notices nothing of a node that is drained or
leaves; a connection that stands outlives its service by the grace period."""

import subprocess
import sys
import time

from tests.cluster.conftest import Cluster, Names
from tests.cluster.fault_lab import Load

PORT = 8123
STUBBORN = """trap : TERM
/usr/sbin/nginx &
while :; do wait; done"""
"""A shell that serves on after its stop signal."""
TALK = """
import http.client, sys, time
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=3)
try:
    while True:
        connection.request("GET", "/whoami")
        connection.getresponse().read()
        print(time.time(), flush=True)
        time.sleep(0.1)
except OSError:
    pass
"""
"""One connection, on which it asks until nobody answers; when each answer came."""


def test_nobody_notices_that_a_node_is_drained_or_leaves(
    cluster: Cluster, names: Names, healthy: Cluster
) -> None:
    """The client asks the other hosts: the address of the one that leaves is gone, of course."""
    cluster.create(names("staying"), "-p", f"{PORT}:80", "--update-order", "start-first")
    hosts = [cluster.nodes[name] for name in ("node1", "node2")]
    node3 = cluster.docker("node3", "info", "-f", "{{.Swarm.NodeID}}").strip()
    with Load([f"{host}:{PORT}" for host in hosts]) as load:
        cluster.docker("node1", "node", "update", "--availability", "drain", "node2")
        cluster.eventually(lambda: not cluster.containers("node2", "staying"), 30)
        cluster.docker("node1", "node", "update", "--availability", "active", "node2")
        assert cluster.containers("node3", "staying")
        cluster.docker("node3", "swarm", "leave")
        cluster.docker("node1", "node", "rm", node3)
        cluster.eventually(lambda: len(cluster.running("staying")) == 3, 20)
    token = cluster.docker("node1", "swarm", "join-token", "-q", "worker").strip()
    cluster.docker("node3", "swarm", "join", "--token", token, f"{hosts[0]}:2377")
    seen = load.seen(PORT)
    assert (seen.failed, seen.again) == ((), ()), seen


def test_a_connection_outlives_its_service_by_the_grace_period(
    cluster: Cluster, names: Names
) -> None:
    cluster.create(
        names("ending"), "-p", f"{PORT}:80", "--stop-grace-period", "4s", "--constraint",
        "node.hostname==node2", "--entrypoint", "sh", replicas=1, command=("-c", STUBBORN),
    )  # fmt: skip
    asked = [*cluster.weft, "lab", "exec", "client", "--", sys.executable, "-c", TALK]
    with subprocess.Popen(
        [*asked, cluster.nodes["node1"], str(PORT)], stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        client.stdout.readline()
        cluster.docker("node1", "service", "rm", "ending")
        removed = time.time()
        cluster.eventually(lambda: not cluster.answers(cluster.nodes["node1"], PORT), 2)
        refused = cluster.on("client", "curl", "-sS", f"http://{cluster.nodes['node1']}:{PORT}",
                             "--stderr", "-", ok=False)  # fmt: skip
        assert "curl: (7)" in refused, "not left without an answer"
        last = float(client.communicate(timeout=30)[0].split()[-1])
    assert 3 < last - removed < 6, "as long as the container is there, and no longer"

"""`weft flows` on a lab of three hosts: connections by virtual address, by the mesh and through both,
each once and by name; as they come, one that is refused; and what `weft top` counts there."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.cluster.conftest import WEFT, Cluster, Names

PORT = 8098
SOCKET = "unix:///run/weft/lab/node1/docker.sock"


def flows(cluster: Cluster, service: str, *argv: str) -> dict[str, Any]:
    words = ["env", f"DOCKER_HOST={SOCKET}", *WEFT, "flows", "--json", "--service", service, *argv]
    found: dict[str, Any] = json.loads(cluster.run(*words).stdout)
    return found


@contextmanager
def followed(service: str) -> Iterator[list[dict[str, Any]]]:
    """The changes that `weft flows --follow` tells."""
    process = subprocess.Popen(
        [*WEFT, "flows", "--follow", "--json", "--service", service], stdout=subprocess.PIPE,
        text=True, env=dict(os.environ, DOCKER_HOST=SOCKET),
    )  # fmt: skip
    told: list[dict[str, Any]] = []

    def reading() -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                told.append(json.loads(line))

    thread = threading.Thread(target=reading)
    thread.start()
    try:
        yield told
    finally:
        process.terminate()
        thread.join()
        process.wait()


def test_who_talks_to_whom(cluster: Cluster, names: Names) -> None:
    net, web, app = names("flows-net"), names("flows-web"), names("flows-app")
    cluster.docker("node1", "network", "create", "-d", "overlay", net)
    for name, host, more in ((web, "node2", ["-p", f"{PORT}:80"]), (app, "node3", [])):
        where = ["--constraint", f"node.hostname=={host}", "--network", net]
        cluster.docker(
            "node1", "service", "create", "-d", "--name", name, *where, *more, cluster.image
        )
    cluster.eventually(
        lambda: cluster.running(web) and cluster.running(app), 60, "both services running"
    )
    (caller,) = cluster.containers("node3", app)

    def ask(*argv: str) -> None:
        cluster.docker("node3", "exec", caller, "wget", "-q", "-O-", *argv)

    cluster.eventually(lambda: cluster.answers(cluster.nodes["node1"], PORT), what="the mesh")
    ask(f"http://{web}/whoami")
    ask(f"http://{cluster.nodes['node1']}:{PORT}/whoami")
    found = {(each["Source"], each["Way"]): each for each in flows(cluster, web)["Flows"]}
    assert set(found) == {
        (f"outside {cluster.client}", f"mesh node1:{PORT}"),
        (app, "virtual address"),
        (app, f"mesh node1:{PORT}"),
    }
    assert {(each["Target"], each["Port"], each["Protocol"]) for each in found.values()} == {
        (web, 80, "tcp")
    }
    assert found[app, "virtual address"]["Connections"] == 1
    assert found[app, f"mesh node1:{PORT}"]["Connections"] == 1
    each = flows(cluster, web, "--each")["Flows"]
    assert {(one["Source"], one["Target"]) for one in each if one["Source"].startswith(app)} == {
        (f"{app}.1", f"{web}.1")
    }

    words = ["env", f"DOCKER_HOST={SOCKET}", *WEFT, "top", "--once", "--json", "--filter", web]
    counted = json.loads(cluster.run(*words).stdout)
    assert [(each["Name"], each["Node"]) for each in counted["Services"]] == [(web, "node2")]
    for node in counted["Nodes"]:
        assert set(node["RoundTrips"]) == {*cluster.nodes} - {node["Node"]}
        assert node["Underlay"]["Received"] > 0  # the nodes' own sessions, if nothing else
        assert net in node["Networks"] or node["Node"] == "node1"

    with followed(web) as told:

        def is_told(change: str) -> bool:
            """Connections are made until one is told of: the look may just have begun."""
            cluster.run(
                "docker", "-H", "unix:///run/weft/lab/node3/docker.sock", "exec", caller,
                "wget", "-q", "-O-", f"http://{web}:{81 if change == 'refused' else 80}/", ok=False,
            )  # fmt: skip
            return any(
                (one["Change"], one["Source"], one["Target"]) == (change, f"{app}.1", f"{web}.1")
                for one in told
            )

        for change in ("closing", "refused"):
            cluster.eventually(lambda change=change: is_told(change), what=f"one that is {change}")

"""A secret and a config from creation to the last task that needs them, on real hosts: where they
are, and where nothing of them is ever found."""

import secrets
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import Cluster, Names

NODES = ("node1", "node2", "node3")


@pytest.fixture
def made(cluster: Cluster, names: Names, tmp_path: Path) -> Any:
    """Creates secrets and configs, and removes those that are left when the services are gone."""
    given: list[tuple[str, str]] = []

    def make(kind: str, name: str, data: str, *options: str) -> None:
        file = tmp_path / f"{kind}-{name}"
        file.write_text(data)
        given.append((kind, name))
        cluster.docker("node1", kind, "create", *options, name, str(file))
        file.unlink()

    yield make
    for service in cluster.docker("node1", "service", "ls", "-q").split():
        cluster.docker("node1", "service", "rm", service)
    for kind, name in given:
        cluster.run(
            "docker", "-H", "unix:///run/weft/lab/node1/docker.sock", kind, "rm", name, ok=False
        )


def found_anywhere(cluster: Cluster, service: str, patterns: Path) -> str:
    """Places outside of containers that have the marker. It is in a file, so that no command line
    has it because of this search."""
    files = "grep -rlsF -f $0 --devices=skip /var/lib/weft /run/weft"
    processes = (
        "for p in /proc/[0-9]*; do grep -lsaF -f $0 $p/cmdline $p/environ; done; grep -l ramfs"
        " /proc/self/mounts"
    )
    markers = patterns.read_text().split()
    found = "".join(
        cluster.on(node, "sh", "-c", f"{files}; {processes}", str(patterns), ok=False, timeout=120)
        for node in NODES
    )
    # The daemons' logs are outside of the lab's hosts.
    found += cluster.run("sh", "-c", files, str(patterns), ok=False).stdout
    shown = [
        cluster.docker("node1", "service", "inspect", service),
        cluster.docker("node1", "service", "ps", "--no-trunc", service),
        cluster.docker("node1", "secret", "ls"),
        cluster.docker("node1", "events", "--since", "1h", "--until", "0s"),
        *(
            cluster.docker(node, "inspect", container)
            for node, containers in cluster.all_containers(service).items()
            for container in containers
        ),
    ]
    return found + "".join("docker shows it" for text in shown if any(m in text for m in markers))


def seen(cluster: Cluster, service: str, *paths: str) -> set[str]:
    """What the containers of the service see."""
    return {
        cluster.docker(node, "exec", container, "cat", *paths)
        for node, containers in cluster.all_containers(service).items()
        for container in containers
    }


def test_from_creation_to_the_last_task(
    cluster: Cluster, names: Names, made: Any, tmp_path: Path
) -> None:
    marker, later = (f"marker-{secrets.token_hex(16)}" for _ in range(2))
    patterns = tmp_path / "patterns"
    patterns.write_text(f"{marker}\n{later}\n")
    service = names("sealed")
    made("secret", "password", marker)
    made(
        "config", "app", 'on {{.Node.Hostname}} with {{secret "pw"}}', "--template-driver", "golang"
    )
    cluster.create(
        service, "--secret", "source=password,target=pw,uid=33,mode=0440", "--config",
        "source=app,target=/etc/app/conf", "--update-parallelism", "0",
    )  # fmt: skip
    assert seen(cluster, service, "/run/secrets/pw", "/etc/app/conf") == {
        f"{marker}on {node} with {marker}" for node in NODES
    }
    [container] = cluster.containers("node2", service)
    inside = ("exec", container, "sh", "-c")
    assert cluster.docker("node2", *inside, "stat -c %u:%g:%a /run/secrets/pw") == "33:0:440\n"
    assert "Read-only" in cluster.docker_fails("node2", *inside, "echo x > /run/secrets/pw")
    assert found_anywhere(cluster, service, patterns) == ""

    # Another daemon leaves the containers what they have.
    cluster.lab("restart", "node2")
    cluster.eventually(lambda: cluster.containers("node2", service) == [container], 20)
    assert cluster.docker("node2", *inside, "cat /run/secrets/pw") == marker

    # Another secret in the place of the first, which is then of no use.
    said = f"secret 'password' is in use by the following service: {service}"
    assert said in cluster.docker_fails("node1", "secret", "rm", "password")
    made("secret", "password-2", later)
    cluster.docker(
        "node1", "service", "update", "--secret-rm", "password", "--secret-add",
        "source=password-2,target=pw", service,
    )  # fmt: skip
    assert seen(cluster, service, "/run/secrets/pw") == {later}
    cluster.docker("node1", "secret", "rm", "password")
    assert found_anywhere(cluster, service, patterns) == ""

    # With the last task the nodes lose what they were sent.
    kept = "ls /var/lib/weft/swarm/agent/configs 2>/dev/null | grep ."
    assert cluster.on("node3", "sh", "-c", kept)
    cluster.docker("node1", "service", "rm", service)
    cluster.docker("node1", "secret", "rm", "password-2")
    cluster.docker("node1", "config", "rm", "app")
    for node in NODES:
        cluster.eventually(
            lambda node=node: cluster.on(node, "sh", "-c", kept, ok=False) == "", 30, node
        )

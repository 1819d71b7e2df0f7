"""What docs/install.md and the other pages have people type on a host, in the order of a host's life: taken
from the pages, with this host's address and files where the pages have examples."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.package.booted_host import ADDRESS, INSTALL, MORE, BootedHost
from tests.package.conftest import ready
from tests.support.documents import Page

pytestmark = pytest.mark.root
IMAGE = "zaggash/demo-webapp:latest"
EXAMPLES = re.compile(r"192\.0\.2\.1[12]")
"""This host is all three hosts of the pages."""
TLS = f"""
hosts = ["tcp://{ADDRESS}:2376"]
tlsverify = true
tlscacert = "/root/tls/ca.pem"
tlscert = "/root/tls/cert.pem"
tlskey = "/root/tls/key.pem"
"""
INSTALLATION, REAL, README = (
    Page("docs/install.md"), Page("docs/running-on-real-hosts.md"), Page("README.md"),
)  # fmt: skip


@pytest.fixture
def machine(
    tmp_path: Path, package: Path, next_package: Path, demo_image: Path
) -> Iterator[BootedHost]:
    with BootedHost("trixie", tmp_path, MORE) as machine:
        ready(machine)
        machine.put(package, "/root/weft-swarm_0.1.0_amd64.deb")
        machine.put(next_package, "/root/weft-swarm_0.2.0_amd64.deb")
        machine.put(demo_image, "/root/demo.tar")
        yield machine


def typed(machine: BootedHost, line: str, *, check: bool = True, place: str = "/root") -> str:
    line = EXAMPLES.sub(ADDRESS, line)
    line = line.replace("apt install", INSTALL).replace("apt purge", "apt-get purge -qq -y")
    return machine.sh(f"cd {place} && {line}", check=check, seconds=300)


def test_the_commands_that_the_pages_have_for_a_host(machine: BootedHost) -> None:
    installed(machine)
    first_service(machine)
    looked_at(machine)
    asked_over_tls(machine)
    saved_and_restored(machine)
    removed(machine)


def installed(machine: BootedHost) -> None:
    [line] = INSTALLATION.commands("apt install ./weft-swarm_0.1")
    assert README.commands("apt install ./weft-swarm") == [line]
    assert "is now a manager" in typed(machine, line)
    assert "docker command here yet" not in machine.sh("weft check", check=False)
    for line in (*REAL.commands("apt install ./weft-swarm"), *INSTALLATION.commands("weft check")):
        said = typed(machine, line, check=False)
    assert "The daemon starts here" in said or "This host is fit." in said
    machine.sh("docker load -qi /root/demo.tar && docker tag zaggash/demo-webapp nginx")


def first_service(machine: BootedHost) -> None:
    create, *ask = INSTALLATION.commands("docker service create")
    typed(machine, create.replace("docker service create", "docker service create --quiet --no-resolve-image"))  # fmt: skip
    for line in ask:
        assert "<!doctype html>" in typed(machine, line).lower()
    [line] = INSTALLATION.commands("docker swarm join-token manager")
    assert "docker swarm join --token" in typed(machine, line)
    nodes, scale, ask_another = INSTALLATION.commands("docker node ls")
    assert "Leader" in typed(machine, nodes)
    typed(machine, scale)
    assert "<!doctype html>" in typed(machine, ask_another).lower()
    for line in INSTALLATION.commands("docker save"):
        typed(machine, line)


def looked_at(machine: BootedHost) -> None:
    [line] = Page("docs/metrics.md").commands("curl --unix-socket")
    assert "# TYPE weft_" in typed(machine, line)
    machine.sh("docker network create -d overlay own")
    told = "docker service create -q --no-resolve-image --name told --log-driver journald --network own"
    machine.sh(f"{told} {IMAGE} sh -c 'echo words; sleep 1000'")
    machine.sh("docker run -d -p 8099:80 nginx")
    name = machine.sh("docker ps --format '{{.Names}}' -f name=told").strip()
    [line] = Page("docs/logs.md").commands("journalctl CONTAINER_NAME")
    assert "words" in typed(machine, line.replace("web.1.…", name))
    for line in INSTALLATION.commands("weft check  "):
        fails = line.startswith("weft check")
        assert typed(machine, line, check=not fails)
    service = machine.sh("docker service inspect -f '{{.ID}}' told").strip()
    container = machine.sh("docker ps -q -f name=told").strip()
    space = machine.sh("ls /run/docker/netns | grep ^1- | head -1").strip()
    words = {
        "network inspect -v NAME": "network inspect -v own", "NAME": "web",
        "WEFT_SERVICE=ID": f"WEFT_SERVICE={service}", "WEFT_CONTAINER=ID": f"WEFT_CONTAINER={container}",
        "netns/1-…": f"netns/{space}", "IFACE": "eth0", "less ": "cat ", "tcpdump": "timeout 2 tcpdump",
    }  # fmt: skip
    absent = ("etcd", "esp")
    """This host is the only manager, and has no encrypted network."""
    for line in REAL.commands("docker service ps"):
        for word, value in words.items():
            line = line.replace(word, value)
        said = typed(machine, line, check=not any(word in line for word in absent))
        assert said, line
        assert "No entries" not in said, line


def asked_over_tls(machine: BootedHost) -> None:
    machine.sh("mkdir -m 700 /root/tls")
    for line in REAL.commands("openssl req"):
        typed(machine, line, place="/root/tls")
    machine.sh(f"cat >>/etc/weft/config.toml <<'END'\n{TLS}\nEND\nsystemctl restart weft")
    [line] = REAL.commands("DOCKER_CERT_PATH")
    assert "Server:" in typed(machine, line, place="/root/tls")
    line = line.replace("$PWD/me", "/nowhere")
    assert "Server:" not in typed(machine, line, check=False, place="/root/tls")


def saved_and_restored(machine: BootedHost) -> None:
    for line in INSTALLATION.commands("systemctl stop"):
        typed(machine, line)
    node = machine.sh("docker info -f '{{.Swarm.NodeID}}'")
    for line in REAL.commands("systemctl stop"):
        if not line.startswith("kill"):  # there is no etcd beside the only manager
            typed(machine, line)
    machine.sh("docker service rm web")
    machine.sh("systemctl stop weft.socket weft.service")
    for line in REAL.commands("rm -r /var/lib/weft/swarm"):
        typed(machine, line)
    assert machine.sh("docker info -f '{{.Swarm.NodeID}}'") == node
    machine.sh("until docker service ls --format '{{.Name}} {{.Replicas}}' | grep 'web 3/3'; do sleep 0.2; done")  # fmt: skip
    [line] = INSTALLATION.commands("apt install ./weft-swarm_0.2")
    typed(machine, line)
    assert machine.sh("docker version -f '{{.Server.Version}}'").strip() == "9.9.9"


def removed(machine: BootedHost) -> None:
    for line in (
        *INSTALLATION.commands("docker swarm leave --force"),
        *INSTALLATION.commands("apt purge"),
    ):
        typed(machine, line)
    assert machine.sh("ls -d /run/weft /etc/weft 2>/dev/null", check=False) == ""

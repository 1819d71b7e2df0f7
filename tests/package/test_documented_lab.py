"""The lab as the package brings it, and the commands that the pages show in a lab: taken from the pages,
with the lab's names where the pages have examples."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.package.booted_host import INSTALL, MORE, BootedHost
from tests.package.conftest import ready
from tests.support.documents import Page

pytestmark = pytest.mark.root
NODE1, NODE2 = (f"docker -H unix:///run/weft/lab/node{n}/docker.sock" for n in (1, 2))
IMAGE = "zaggash/demo-webapp"


class Lab:
    """A shell on the machine that the lab is on: it remembers what was exported."""

    def __init__(self, machine: BootedHost) -> None:
        self.machine = machine
        self._exported = "true"

    def run(self, command: str, *, check: bool = True) -> str:
        if command.startswith("export "):
            self._exported = command
            return ""
        return self.machine.sh(f"{self._exported}; {command}", check=check)

    def session(self, page: Page, begins: str) -> dict[str, str]:
        """Each command of a session, and what it printed."""
        return {line: self.run(line) for line in page.commands(begins)}

    def watched(self, command: str, traffic: str) -> str:
        """Runs a command that waits for packets."""
        loop = f"while [ ! -e /tmp/seen ]; do {traffic}; sleep 0.2; done"
        return self.run(
            f"rm -f /tmp/seen; ({loop}) >/dev/null 2>&1 & {command}; s=$?; touch /tmp/seen; exit $s"
        )


@pytest.fixture
def lab(tmp_path: Path, package: Path) -> Iterator[Lab]:
    with BootedHost("trixie", tmp_path, MORE) as machine:
        ready(machine)
        machine.put(package, "/root/weft.deb")
        machine.sh(f"{INSTALL} /root/weft.deb", seconds=300)
        yield Lab(machine)


def test_a_machine_without_the_labs_programs_is_told_what_to_install(
    tmp_path: Path, package: Path
) -> None:
    """All of them at once, and nothing is begun."""
    with BootedHost("trixie", tmp_path) as machine:
        ready(machine)
        machine.put(package, "/root/weft.deb")
        machine.sh(f"{INSTALL} /root/weft.deb", seconds=300)
        said = machine.sh("weft lab up", check=False)
        assert said.startswith("weft: cannot make a lab: tini, nginx, busybox, ping not installed")
        assert "tini nginx busybox-static iputils-ping" in said
        assert "there is no lab" in machine.sh("weft lab status", check=False)


def task(docker: str, service: str) -> str:
    return f"{docker} exec $({docker} ps -q -f label=com.docker.swarm.service.name={service})"


def address(lab: Lab, docker: str, service: str) -> str:
    """Of the service's task on that node, on its own overlay."""
    shown = "{{range $n, $e := .NetworkSettings.Networks}}{{$n}}={{$e.IPAddress}} {{end}}"
    id = f"$({docker} ps -q -f label=com.docker.swarm.service.name={service})"
    found = lab.run(f"{docker} inspect -f '{shown}' {id}").split()
    return next(a for n, a in (each.split("=") for each in found) if n not in ("ingress", "docker_gwbridge"))  # fmt: skip


def test_the_commands_that_the_pages_show_in_a_lab(lab: Lab) -> None:
    readme = Page("README.md")
    first_session(lab, readme)
    looking(lab)
    encrypted(lab, readme)
    plain_containers(lab)
    managers(lab, readme)
    lab.run("weft lab down")
    assert "there is no lab" in lab.run("weft lab status", check=False)


def first_session(lab: Lab, readme: Page) -> None:
    *lines, last = readme.commands("# weft lab up")
    assert last == "weft lab down"
    for line in lines:
        if "tcpdump" in line:
            ping = f"{task(NODE2, 'webapp')} ping -c 1 {address(lab, NODE1, 'webapp')}"
            assert "VXLAN" in lab.watched(line, ping)
            continue
        said = lab.run(line)
        if line.startswith("weft lab exec client"):
            assert '"remote_addr":"10.59.72.100"' in said
        if line == "docker service ps webapp":
            assert said.count("Running") >= 3


def looking(lab: Lab) -> None:
    capture, looking = Page("docs/capture.md"), Page("docs/looking-at-the-network.md")
    [line] = capture.commands("# weft capture demo")
    ping = f"{task(NODE2, 'webapp')} ping -c 1 {address(lab, NODE1, 'webapp')}"
    seen = lab.watched(f"{line} --count 6", ping)
    assert "icmp webapp" in seen
    lab.run("docker network create -d overlay mynet")
    for name in ("web -p 8081:80", "app"):
        lab.run(f"docker service create -q --no-resolve-image --network mynet --name {name} {IMAGE}")  # fmt: skip
    [line] = looking.commands("# weft trace app web")[:1]
    assert "the packet arrives, and its answer comes back" in lab.run(line)
    [line] = looking.block("# weft trace app web --port").commands
    assert "nobody listens" in lab.run(line, check=False)
    both, outside = looking.commands("weft trace SRC DST")
    words = {
        "SRC": "app", "DST": "web",
        "[--port N]": "--port 80", "[--proto tcp|udp]": "--proto tcp", "[--no-probe]": "--no-probe", "[--json]": "--json",
    }  # fmt: skip
    assert '"Arrived": true' in lab.run(filled(both, words))
    words = {"ADDRESS": "10.59.72.100", "DST": "node2:8080"}
    assert "the packet arrives" in lab.run(filled(outside, words))
    [line] = Page("docs/top.md").commands("weft top [")
    words = {"[--once]": "--once", "[--tasks]": "--tasks", "[--filter TEXT]": "--filter web"}
    words |= {"[--sort COLUMN]": "", "[--every SECONDS]": "", "[--json]": ""}
    assert "web" in lab.run(filled(line, words))
    flows = Page("docs/flows.md")
    [line] = flows.commands("weft flows")
    words = {"[--follow] ": "", "[--service SERVICE]": "--service web", "[--each]": "--each"}
    lab.run(filled(line, words | {"[--json]": "--json"}))
    [line] = flows.commands("# weft flows")
    assert "SOURCE" in lab.run(line)
    [line] = flows.commands("# weft flows --follow")
    where = lab.run("docker service ps -f desired-state=running --format '{{.Node}}' app").strip()
    ask = (
        f"{task(f'docker -H unix:///run/weft/lab/{where}/docker.sock', 'app')} wget -qO- http://web"
    )
    assert "web" in lab.watched(f"{line} | head -1", ask)
    doctor = Page("docs/doctor.md").commands("weft doctor")
    for line in doctor:
        lab.run(filled(line, {"[--repair]": "--repair", "[--json]": "--json"}), check=False)


def filled(line: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        line = line.replace(word, value)
    return line


def encrypted(lab: Lab, readme: Page) -> None:
    for line in readme.commands("# docker network create --driver overlay --opt encrypted"):
        ping = f"{task(NODE2, 'safe')} ping -c 1 $A"
        if "tcpdump" in line:
            target = address(lab, NODE1, "safe")
            assert "ESP(spi=" in lab.watched(line, ping.replace("$A", target))
            continue
        said = lab.run(line)
        assert "mtu 1424" in said or "nsenter" not in line
    page = Page("docs/encryption.md")
    for line in page.commands("docker network create"):
        lab.run(line.replace("…", f"--no-resolve-image {IMAGE}"))
    for line in page.commands("weft keys"):
        lab.run(f"until {line}; do sleep 1; done")
    target = address(lab, NODE1, "safe")
    for line in page.commands("tcpdump -n -i IFACE esp"):
        on_node = "weft lab exec node1 -- sh -c '{}'"
        plain = f"{task(NODE2, 'webapp')} ping -c 1 {address(lab, NODE1, 'webapp')}"
        ping = f"{task(NODE2, 'safe')} ping -c 1 {target}; {plain}"
        if line.startswith("tcpdump"):
            line = line.replace("IFACE", "ens160 -c 1").replace("'", '"')
            assert lab.watched(on_node.format(line), ping)
        else:
            lab.run(
                on_node.format(line.replace("less", "cat")),
                check=not re.search("xfrm|weft-guard", line),
            )


def plain_containers(lab: Lab) -> None:
    block = Page("docs/running-on-real-hosts.md").block("node1# docker network create")
    lab.run(f"weft lab exec node3 -- docker run -d --name web {IMAGE}")
    for line in block.lines:
        found = re.fullmatch(r"(node\d)# (.*)", line)
        assert found, line
        command = re.sub(r"\b(postgres|alpine)\b", IMAGE, found[2])
        assert lab.run(f"weft lab exec {found[1]} -- {command}") is not None
    for node, name in (("node2", "db"), ("node3", "web")):
        lab.run(f"weft lab exec {node} -- docker rm -f {name}")


def managers(lab: Lab, readme: Page) -> None:
    page = Page("docs/running-on-real-hosts.md")
    for line in page.commands("docker node promote"):
        lab.run(line.replace("host4", "node3"))
    shown = "docker node inspect -f '{{.Spec.Role}} {{.ManagerStatus}}' node3"
    lab.run(f"until {shown} | grep 'worker <nil>'; do sleep 0.2; done")
    states = iter(
        (
            "test $(docker node ls | grep -cE 'Leader|Reachable') = 3",
            "docker node ls | grep Unreach",
        )
    )
    for line in readme.commands("# docker node promote"):
        if line == "docker node ls":
            line = f"until {next(states)}; do sleep 0.2; done"
        said = lab.run(line)
    assert '"remote_addr":"10.59.72.100"' in said, "node1's daemon is dead"
    lab.run("weft lab halt node1; weft lab halt node3")
    [line] = page.commands("docker swarm init --force-new-cluster")
    lab.run(line)
    lab.run("until docker node ls | grep Leader; do sleep 0.2; done")

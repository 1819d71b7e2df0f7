"""Real firewalls on one of two hosts: closed, then opened with the very lines that `weft check` prints,
which are also those of docs/install.md; the mesh and encrypted overlays then work. And the rules that
Docker Engine leaves behind, and an address that changes while the daemon runs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.package.booted_host import INSTALL, MORE, BootedHost, Lan
from tests.package.conftest import ready
from tests.support.documents import Page

pytestmark = pytest.mark.root
IMAGE = "zaggash/demo-webapp:latest"
FIRST, SECOND = "10.59.76.11", "10.59.76.12"
LEFT_BY_ENGINE = """
ip link add docker0 type bridge; ip address add 172.17.0.1/16 dev docker0
ip link add br-0123456789ab type bridge; ip address add 172.19.0.1/16 dev br-0123456789ab
iptables -P FORWARD DROP
iptables -N DOCKER; iptables -N DOCKER-USER; iptables -N DOCKER-FORWARD
iptables -A FORWARD -j DOCKER-USER; iptables -A FORWARD -j DOCKER-FORWARD
iptables -A DOCKER-FORWARD -o docker0 -j DOCKER
iptables -A DOCKER-FORWARD -i docker0 -j ACCEPT
iptables -A DOCKER ! -i docker0 -o docker0 -j DROP
iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
printf '#!/bin/sh\\n' >/usr/bin/dockerd; chmod 755 /usr/bin/dockerd
"""


@pytest.fixture
def guarded(
    tmp_path: Path, package: Path, demo_image: Path
) -> Iterator[tuple[Lan, BootedHost, BootedHost]]:
    """A swarm of two hosts with a service in the mesh, on an encrypted overlay. The first host has
    firewalls, which do not run yet."""
    places = [tmp_path / name for name in ("first", "second")]
    for place in places:
        place.mkdir()
    with Lan() as lan, BootedHost("trixie", places[0], MORE) as first, BootedHost("trixie", places[1]) as second:  # fmt: skip
        for host, address in ((first, FIRST), (second, SECOND)):
            ready(host)
            host.attach(lan, address)
            host.sh(f"echo host{address[-1]} >/etc/hostname; hostname host{address[-1]}")
        first.sh(LEFT_BY_ENGINE)
        for host in (first, second):
            host.put(package, "/root/weft.deb")
            host.put(demo_image, "/root/demo.tar")
            host.sh(f"{INSTALL} /root/weft.deb && docker load -qi /root/demo.tar", seconds=300)
        yield lan, first, second


def closed(host: BootedHost) -> list[str]:
    """The lines that `weft check` gives to open the host's firewalls."""
    findings = json.loads(host.sh("weft check --json", check=False))
    found = [finding for finding in findings if finding["about"] == "firewall"]
    return [line for finding in found for line in finding["remedy"]]


def mesh(lan: Lan) -> list[str]:
    """A client's answers from both hosts, some of them by way of the other."""
    ask = "curl -s -o /dev/null --max-time 1 -w '%{http_code}\\n' http://"
    return lan.sh(f"for i in 1 2 3 4; do {ask}{FIRST}:8080; {ask}{SECOND}:8080; done").split()


def works(lan: Lan, first: BootedHost, second: BootedHost) -> None:
    assert mesh(lan) == ["200"] * 8
    for host in (first, second):
        inside = "docker exec $(docker ps -q -f label=com.docker.swarm.service.name=web)"
        found = f"{inside} getent ahostsv4 tasks.web | awk '{{print $1}}' | sort -u"
        addresses = host.sh(found).split()
        assert len(addresses) == 2
        for address in addresses:
            assert host.sh(f"{inside} timeout 5 wget -qO- http://{address}").strip()
        # And out of the swarm, by docker_gwbridge.
        assert " 1 received" in host.sh(f"{inside} ping -c 1 -W 5 {Lan.ADDRESS}")


def test_the_lines_of_check_open_real_firewalls(
    guarded: tuple[Lan, BootedHost, BootedHost],
) -> None:
    lan, first, second = guarded
    page = Page("docs/install.md")

    # What Docker Engine has left behind.
    lines = closed(first)
    assert lines
    assert all(line.startswith("nft insert rule ip filter FORWARD ") for line in lines)
    for line in lines:
        first.sh(line)
    assert closed(first) == []
    said = first.sh("docker swarm init")
    second.sh(next(line for line in said.splitlines() if "--token" in line))
    first.sh("docker network create -d overlay --opt encrypted private")
    first.sh(f"docker service create -q --name web --mode global --network private -p 8080:80 {IMAGE}")  # fmt: skip
    works(lan, first, second)
    first.sh("iptables -P FORWARD ACCEPT; iptables -F; iptables -t nat -F; iptables -X")

    begins = "type filter hook {} priority 0; policy drop; ct state established,related accept;"
    own = (
        f"chain input {{ {begins.format('input')} ip protocol icmp accept; }};"
        f" chain forward {{ {begins.format('forward')} }};"
    )
    first.sh(f"nft 'table inet filter {{ {own} }}'")
    opened(lan, first, second, page.commands("nft insert rule"))
    first.sh("nft delete table inet filter")

    first.sh("ufw --force enable")
    assert sorted(closed(first)) == sorted(page.commands("ufw allow"))
    opened(lan, first, second, closed(first))
    first.sh("ufw --force disable")

    first.sh("systemctl start firewalld")
    assert set(closed(first)) == set(page.commands("firewall-cmd"))
    opened(lan, first, second, closed(first))


def opened(lan: Lan, first: BootedHost, second: BootedHost, lines: list[str]) -> None:
    assert mesh(lan) != ["200"] * 8, "it is closed"
    assert closed(first)
    for line in lines:
        first.sh(line)
    assert closed(first) == []
    works(lan, first, second)


def test_an_address_that_changes_while_the_daemon_runs(host: BootedHost, package: Path) -> None:
    host.put(package, "/root/weft.deb")
    host.sh(f"{INSTALL} /root/weft.deb && docker swarm init", seconds=300)
    address = host.sh("docker info -f '{{.Swarm.NodeAddr}}'").strip()
    lost = f"cannot use address {address}: no interface of this system has it"
    host.sh(f"ip address add 10.59.75.99/24 dev eth0; ip address delete {address}/24 dev eth0")
    host.sh("until journalctl -u weft -p warning -o cat | grep swarm.address_lost; do sleep 0.2; done")  # fmt: skip
    assert lost in host.sh("docker info -f '{{.Swarm.Error}}'")
    for look in ("weft check", "weft doctor"):
        said = host.sh(look, check=False)
        assert lost in said
        assert "docker swarm leave --force" in said
    host.sh(f"ip address add {address}/24 dev eth0")
    host.sh("until journalctl -u weft -o cat | grep swarm.address_back; do sleep 0.2; done")
    assert host.sh("docker info -f '{{.Swarm.Error}}'").strip() == ""
    assert "address" not in host.sh("weft check", check=False)

"""A swarm of two hosts under systemd, one of each release: joined with the command that was printed, asked from outside."""

from pathlib import Path

import pytest

from tests.package.booted_host import INSTALL, BootedHost, Lan

pytestmark = pytest.mark.root
IMAGE = "zaggash/demo-webapp:latest"
ADDRESSES = ("10.59.76.11", "10.59.76.12")
RULES = "ip rule | grep 5917; ip -br link | grep -oE '^(ing0|docker_gwbridge)'"

COUNT = (
    "nft add table netdev seen;"
    " nft 'add chain netdev seen wire { type filter hook ingress device eth0 priority 0; }';"
    " nft add rule netdev seen wire ip protocol esp counter"
)


class Asking:
    """A client elsewhere asks both hosts in turn all the while."""

    def __init__(self, lan: Lan, scratch: Path) -> None:
        self._enough, self._asked = scratch / "enough", scratch / "asked"
        turns = "; ".join(f"{_ask(address)} >>{self._asked}" for address in ADDRESSES)
        lan.sh(f"(while [ ! -e {self._enough} ]; do {turns}; sleep 0.1; done) >/dev/null 2>&1 &")

    def end(self) -> list[str]:
        self._enough.touch()
        return self._asked.read_text().split()


def _ask(address: str) -> str:
    return f"curl -s -o /dev/null --max-time 5 -w '%{{http_code}}\\n' http://{address}:8080"


def asked(lan: Lan, address: str) -> list[str]:
    return lan.sh(f"for i in 1 2 3 4; do {_ask(address)}; done").split()


def test_two_hosts_from_the_package_to_a_service_and_back(
    pair: tuple[Lan, BootedHost, BootedHost],
    package: Path,
    next_package: Path,
    demo_image: Path,
    tmp_path: Path,
) -> None:
    lan, first, second = pair
    routing = [host.sh("ip rule; ip -br link | cut -d@ -f1") for host in (first, second)]
    for host in (first, second):
        host.put(package, "/root/weft.deb")
        host.put(next_package, "/root/next.deb")
        host.put(demo_image, "/root/demo.tar")
        host.sh(f"{INSTALL} /root/weft.deb", seconds=300)
        host.sh("docker load -qi /root/demo.tar")
    said = first.sh("docker swarm init")
    assert second.sh(next(line for line in said.splitlines() if "--token" in line)).strip() == (
        "This node joined a swarm as a worker."
    )
    assert first.sh("docker node ls -q | wc -l").strip() == "2"

    first.sh("docker network create -d overlay --opt encrypted private")
    first.sh(
        f"docker service create -q --name web --mode global --network private -p 8080:80 {IMAGE}"
    )
    for address in ADDRESSES:
        assert asked(lan, address) == ["200"] * 4
    # From a task to the one on the other host, encrypted.
    second.sh(COUNT)
    task = first.sh("docker ps -q").strip()
    found = f"docker exec {task} getent ahostsv4 tasks.web | awk '{{print $1}}' | sort -u"
    addresses = first.sh(found).split()
    assert len(addresses) == 2
    for address in addresses:
        assert first.sh(f"docker exec {task} wget -qO- http://{address}").strip()
    assert "counter packets 0 " not in second.sh("nft list chain netdev seen wire")
    second.sh("nft delete table netdev seen")

    # A restart of networkd while no daemon runs leaves rules and links alone.
    before = second.sh(RULES)
    assert "5917" in before
    second.sh("systemctl stop weft.socket weft.service && systemctl restart systemd-networkd")
    assert second.sh(RULES) == before
    assert asked(lan, ADDRESSES[1]) == ["200"] * 4
    second.sh("systemctl stop systemd-networkd; systemctl start weft.socket weft.service")

    asking = Asking(lan, tmp_path)
    for host in (second, first):
        host.sh(f"{INSTALL} /root/next.deb", seconds=300)
    assert first.sh("docker version -f '{{.Server.Version}}'").strip() == "9.9.9"
    answers = asking.end()
    assert len(answers) > 10
    assert set(answers) == {"200"}

    for host, links in zip((second, first), routing, strict=True):
        host.sh("apt-get purge -qq -y weft-swarm", seconds=300)
        assert host.sh("ip rule; ip -br link | cut -d@ -f1") == links
        assert host.sh("nft list tables; ip xfrm state") == ""

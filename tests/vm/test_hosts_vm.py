"""A swarm of two real hosts, bookworm and trixie, each under its own kernel and systemd in emulation, from Weft's package to a
service and back; the kernels encrypt. A client beside them asks all the while, and sees what is on their cables.

The tests are the steps of one story and run in this order. `scripts/test-vm` runs them, before a release.
"""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.package.booted_host import INSTALL
from tests.vm.debian_host import DebianHost
from tests.vm.segment import Asking, Cable, Seen, Segment, ask

pytest_plugins = ["tests.package.conftest"]
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        shutil.which("qemu-system-x86_64") is None, reason="needs qemu: run scripts/test-vm"
    ),
]
IMAGE = "zaggash/demo-webapp:latest"
OVERHEAD = 28
"""Bytes of the headers of IPv4 and of an echo request."""
MTU = {"open": 1450, "safe": 1424, "long": 1416}
"""Of the networks: a plain one, and encrypted ones with either ICV."""
OPTIONS = {"open": "", "safe": "--opt encrypted", "long": "--opt encrypted --opt com.weft.network.esp.icv=128"}  # fmt: skip
LOOK = "ip rule; ip -br link | cut -d@ -f1 | cut -d' ' -f1"
KERNEL = "nft list tables; ip xfrm state; ip xfrm policy; ip route show table 5917 2>/dev/null"
FILES = "ls -d /run/weft /run/docker /run/docker.sock /etc/weft /var/lib/weft/* /sys/fs/cgroup/weft.slice 2>/dev/null"
BAD = "grep -E '^XfrmIn|^XfrmOut' /proc/net/xfrm_stat | awk '$2'"
"""What the kernel's IPsec has refused."""


class Place(NamedTuple):
    """A task's container."""

    host: DebianHost
    pid: str
    addresses: dict[str, str]
    """By network."""

    def sh(self, command: str, check: bool = True) -> str:
        """Runs the host's program in the container's network."""
        return self.host.sh(f"nsenter -t {self.pid} -n {command}", check=check)

    def listens(self) -> None:
        """Returns when the program takes connections. Without a health check a task is asked as
        soon as it runs, whether it does or not."""
        self.sh("sh -c 'until ss -Htln | grep -q :80; do sleep 0.2; done'")

    def pings(self, address: str, size: int = 56, count: int = 4) -> bool:
        words = f"ping -q -n -c {count} -i 0.2 -W 10 -M do -s {size} {address}"
        return " 0% packet loss" in self.sh(words, check=False)


class Swarm:
    def __init__(self, segment: Segment, first: DebianHost, second: DebianHost) -> None:
        self.segment, self.first, self.second = segment, first, second
        self.hosts = (first, second)
        self.before = [host.sh(LOOK) for host in self.hosts]

    def both(self, command: str) -> list[str]:
        """On both hosts at once."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda host: host.sh(command), self.hosts))

    def begin(self) -> None:
        self.both(f"{INSTALL} /root/weft.deb && docker load -qi /root/demo.tar")
        said = self.first.sh("docker swarm init")
        # A slow host is not a dead one: its tasks must not be replaced.
        self.first.sh("docker swarm update --dispatcher-heartbeat 60s")
        joined = self.second.sh(next(line for line in said.splitlines() if "--token" in line))
        assert joined.strip() == "This node joined a swarm as a worker."
        for name, options in OPTIONS.items():
            self.first.sh(f"docker network create -d overlay {options} {name}")

    def create(self, service: str, options: str) -> None:
        """A service with a task on each host; returns when both take connections."""
        self.first.sh(f"docker service create -q --name {service} --mode global {options} {IMAGE}")
        self.both(f"until docker ps -q -f name={service}. | grep -q .; do sleep 0.2; done")
        for place in self.places(service):
            place.listens()

    def remove(self, service: str) -> None:
        self.first.sh(f"docker service rm {service}")
        self.both(f"while docker ps -aq -f name={service}. | grep -q .; do sleep 0.2; done")

    def places(self, service: str) -> tuple[Place, Place]:
        first, second = (self._place(host, service) for host in self.hosts)
        return first, second

    @staticmethod
    def _place(host: DebianHost, service: str) -> Place:
        form = "{{.State.Pid}}{{range $name, $at := .NetworkSettings.Networks}} {{$name}} {{$at.IPAddress}}{{end}}"
        pid, *words = host.sh(
            f"docker inspect -f '{form}' $(docker ps -q -f name={service}.)"
        ).split()
        return Place(host, pid, dict(zip(words[::2], words[1::2], strict=True)))

    def asked(self, host: DebianHost) -> list[str]:
        """What the client is answered by the mesh."""
        return self.segment.sh(f"for i in 1 2 3 4; do {ask(host.address)}; done").split()

    def vni(self, network: str) -> int:
        option = "com.docker.network.driver.overlay.vxlanid_list"
        form = f'{{{{index .Options "{option}"}}}}'
        return int(self.first.sh(f"docker network inspect -f '{form}' {network}"))

    def cables(self) -> tuple[Cable, Cable]:
        first, second = (Cable(self.segment, host.tap, host.address) for host in self.hosts)
        return first, second


@pytest.fixture(scope="module")
def swarm(
    tmp_path_factory: pytest.TempPathFactory, package: Path, next_package: Path, demo_image: Path
) -> Iterator[Swarm]:
    docker = Path(shutil.which("docker") or "docker")
    files = {"weft.deb": package, "next.deb": next_package, "demo.tar": demo_image, "docker": docker}  # fmt: skip
    segment = Segment()
    try:
        with (
            DebianHost("bookworm", 1, segment, tmp_path_factory.mktemp("first"), files) as first,
            DebianHost("trixie", 2, segment, tmp_path_factory.mktemp("second"), files) as second,
        ):
            with ThreadPoolExecutor() as pool:
                list(pool.map(DebianHost.boot, (first, second)))
            made = Swarm(segment, first, second)
            made.begin()
            yield made
    finally:
        segment.remove()


def test_two_hosts_of_two_releases_answer_a_client_elsewhere(swarm: Swarm) -> None:
    assert swarm.first.sh("docker node ls -q | wc -l").strip() == "2"
    assert all("Profile: kernel" in said for said in swarm.both("docker info 2>/dev/null"))
    swarm.create("web", "--network open -p 8080:80")
    for host in swarm.hosts:
        assert swarm.asked(host) == ["200"] * 4
    here, there = swarm.places("web")
    assert here.pings(there.addresses["open"], MTU["open"] - OVERHEAD)


def test_the_first_and_the_last_encrypted_network_do_not_disturb_plain_ones(
    swarm: Swarm, tmp_path: Path
) -> None:
    here, there = swarm.places("web")
    refused = swarm.both(BAD)
    command = f"nsenter -t {here.pid} -n ping -q -i 0.1 -W 10 {there.addresses['open']}"
    swarm.first.sh(f"{command} >/root/pinged 2>&1 & echo $! >/root/pinging")
    asking = Asking(swarm.segment, tmp_path, [host.address for host in swarm.hosts])
    swarm.create("safe", "--network safe --network long")
    assert all(int(count) > 5 for count in swarm.both("ip xfrm policy | grep -c dir"))
    swarm.remove("safe")
    swarm.both('while [ -n "$(ip xfrm policy)" ]; do sleep 0.1; done')
    assert {status for _, status in asking.end()} == {"200"}
    lost = swarm.first.sh("kill -INT $(cat /root/pinging); sleep 0.2; cat /root/pinged")
    assert " 0% packet loss" in lost
    assert swarm.both(BAD) == refused


def test_the_kernels_encrypt_what_crosses_the_wire(swarm: Swarm) -> None:
    swarm.create("safe", "--network safe --network long --network open")
    assert all("esp" in said for said in swarm.both("ip xfrm state; ip xfrm policy"))
    here, there = swarm.places("safe")
    first, second = swarm.cables()
    with first, second:
        crosses(swarm, here, there, "safe", "long", "open")
        for cable in (first, second):
            seen = cable.seen()
            assert seen.esp > 30
            assert seen.largest == 1500
            assert not seen.fragments
            assert not seen.clear.keys() & {swarm.vni("safe"), swarm.vni("long")}
            assert seen.clear[swarm.vni("open")] >= 8
        for near, far in ((here, there), (there, here)):
            carries(near, far, "safe")
            assert_sealed([first.seen(), second.seen()], swarm.vni("safe"))
    assert swarm.both(BAD) == ["", ""]


def crosses(swarm: Swarm, here: Place, there: Place, *networks: str) -> None:
    """Small and full packets, both ways, and none that is larger."""
    for network in networks:
        full = MTU[network] - OVERHEAD
        for near, far in ((here, there), (there, here)):
            assert near.pings(far.addresses[network]), network
            assert near.pings(far.addresses[network], full), network
            assert not near.pings(far.addresses[network], full + 1, count=1), network


def carries(near: Place, far: Place, network: str, size: int = 2_000_000) -> None:
    """So many bytes of a TCP connection."""
    far.host.sh(f"mkdir -p /srv && head -c {size} /dev/urandom >/srv/file")
    server = f"nsenter -t {far.pid} -n python3 -m http.server 7000 -d /srv"
    far.host.sh(f"systemd-run -q --unit=server {server}")
    far.host.sh(f"until nsenter -t {far.pid} -n ss -Htln | grep -q 7000; do sleep 0.2; done")
    address = far.addresses[network]
    got = near.sh(
        f"curl -sS -m 300 -o /dev/null -w '%{{size_download}}' http://{address}:7000/file"
    )
    assert int(got) == size
    far.host.sh("systemctl stop server")


def assert_sealed(seen: list[Seen], vni: int) -> None:
    for one in seen:
        assert one.esp > 50
        assert vni not in one.clear
        assert one.largest <= 1500
        assert not one.fragments


def test_keys_rotate_and_lose_nothing(swarm: Swarm) -> None:
    here, there = swarm.places("safe")
    spis = "ip xfrm state | grep -o 'spi 0x[0-9a-f]*' | sort"
    before = swarm.first.sh(spis)
    command = f"nsenter -t {there.pid} -n ping -q -i 0.1 -W 10 {here.addresses['safe']}"
    swarm.second.sh(f"{command} >/root/pinged 2>&1 & echo $! >/root/pinging")
    for _ in range(2):
        swarm.first.sh("until weft keys rotate; do sleep 1; done")
    # For either length of ICV: one key to send, three to receive.
    swarm.both(f'until [ "$({spis} | wc -l)" = 8 ]; do sleep 0.2; done')
    assert swarm.first.sh(spis) != before
    lost = swarm.second.sh("kill -INT $(cat /root/pinging); sleep 0.2; cat /root/pinged")
    assert " 0% packet loss" in lost
    assert swarm.both(BAD) == ["", ""]


def test_a_restart_of_networkd_without_a_daemon_changes_nothing(swarm: Swarm) -> None:
    here, there = swarm.places("safe")
    look = f"{LOOK}; ip xfrm policy; ip xfrm state | grep spi; nft list tables"
    before = swarm.second.sh(look)
    swarm.second.sh("systemctl stop weft.socket weft.service && systemctl restart systemd-networkd")
    swarm.second.sh("/usr/lib/systemd/systemd-networkd-wait-online --interface=eth0")
    assert swarm.second.sh(look) == before
    for host in swarm.hosts:
        assert swarm.asked(host) == ["200"] * 4
    assert there.pings(here.addresses["safe"], MTU["safe"] - OVERHEAD)
    assert here.pings(there.addresses["open"], MTU["open"] - OVERHEAD)
    swarm.second.sh("systemctl start weft.socket weft.service")
    assert here.pings(there.addresses["safe"], MTU["safe"] - OVERHEAD)


def test_an_upgrade_fails_no_request(swarm: Swarm, tmp_path: Path) -> None:
    inside = swarm.both("cat /var/lib/weft/containers/*/pid")
    asking = Asking(swarm.segment, tmp_path, [host.address for host in swarm.hosts])
    for host in (swarm.second, swarm.first):
        host.sh(f"{INSTALL} /root/next.deb")
    answers = asking.end()
    assert len(answers) > 20
    assert {status for _, status in answers} == {"200"}
    assert [it.strip() for it in swarm.both("docker version -f '{{.Server.Version}}'")] == ["9.9.9"] * 2  # fmt: skip
    assert swarm.both("cat /var/lib/weft/containers/*/pid") == inside
    here, there = swarm.places("safe")
    assert here.pings(there.addresses["safe"], MTU["safe"] - OVERHEAD)
    assert there.pings(here.addresses["long"], MTU["long"] - OVERHEAD)
    assert swarm.both(BAD) == ["", ""]


def test_a_host_reboots_into_a_kernel_without_esp_and_its_peer_does_not_care(
    swarm: Swarm, tmp_path: Path
) -> None:
    """The userspace engine on one side, the kernel's on the other."""
    asking = Asking(swarm.segment, tmp_path, [swarm.first.address])
    swarm.second.sh("echo 'install esp4 /bin/false' >/etc/modprobe.d/no-esp.conf")
    swarm.second.go_down()
    answers = [status for _, status in asking.end()]
    assert len(answers) > 20
    assert set(answers) == {"200"}
    swarm.second.come_up()
    assert "Profile: userspace" in swarm.second.sh("docker info 2>/dev/null")
    for service in ("web", "safe"):
        swarm.second.sh(f"until docker ps -q -f name={service}. | grep -q .; do sleep 0.2; done")
    swarm.places("web")[1].listens()
    for host in swarm.hosts:
        assert swarm.asked(host) == ["200"] * 4
    here, there = swarm.places("safe")
    first, second = swarm.cables()
    with first, second:
        crosses(swarm, here, there, "safe", "long", "open")
        carries(near=here, far=there, network="safe")
        assert_sealed([first.seen(), second.seen()], swarm.vni("safe"))


def test_the_kernel_takes_over_from_the_process_without_a_reboot(swarm: Swarm) -> None:
    swarm.second.sh("rm /etc/modprobe.d/no-esp.conf; systemctl restart weft")
    assert "Profile: kernel" in swarm.second.sh("docker info 2>/dev/null")
    here, there = swarm.places("safe")
    swarm.second.sh(f"until nsenter -t {there.pid} -n ping -qc1 -W2 {here.addresses['safe']}; do :; done")  # fmt: skip
    assert swarm.second.sh("pgrep -f weft.linux.esp.[p]rocess", check=False) == ""
    crosses(swarm, here, there, "safe", "long", "open")


def test_purge_leaves_nothing(swarm: Swarm) -> None:
    for host, before in reversed(list(zip(swarm.hosts, swarm.before, strict=True))):
        host.sh("apt-get purge -qq -y weft-swarm")
        assert host.sh(LOOK) == before
        assert host.sh(KERNEL) == ""
        assert host.sh(FILES, check=False) == ""
        assert host.sh("ps -eo comm= | grep -E 'conmon|nginx|weft|etcd'", check=False) == ""
        assert swarm.asked(host) == ["000"] * 4
        assert host.sh("systemctl --failed --no-legend") == ""

"""The package on a host of each release, under systemd: from nothing to a service, upgraded, removed and purged."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.package.booted_host import ADDRESS, INSTALL, BootedHost

pytestmark = pytest.mark.root
NOT_LOOKED_AT = ("/proc", "/sys", "/run", "/tmp", "/root", "/var/log", "/var/cache/apt", "/var/lib/apt")  # fmt: skip
LIST = (
    r"find / -xdev \( " + " -o ".join(f"-path {path}" for path in NOT_LOOKED_AT) + r" \) -prune"
    r" -o -printf '%y %p\n' | sort"
)
MEGABYTES = 40


def answers(host: BootedHost) -> str:
    return host.sh(f"curl -sS --max-time 5 http://{ADDRESS}:8080", check=False)


class Asking:
    """Asks the service all the while, from the host, and counts answers."""

    def __init__(self, host: BootedHost) -> None:
        self._host = host
        host.sh(
            "(while [ ! -e /root/enough ]; do"
            f" curl -s -o /dev/null --max-time 5 -w '%{{http_code}}\\n' http://{ADDRESS}:8080; sleep 0.1;"
            " done >/root/asked) >/dev/null 2>&1 &"
        )

    def end(self) -> list[str]:
        self._host.sh("touch /root/enough")
        return self._host.sh("cat /root/asked").split()


def test_from_nothing_to_a_service_and_back(
    host: BootedHost, package: Path, next_package: Path, demo_image: Path
) -> None:
    host.put(package, "/root/weft.deb")
    host.put(next_package, "/root/next.deb")
    host.put(demo_image, "/root/demo.tar")
    before = set(host.sh(LIST).splitlines())
    routing = host.sh("ip rule; ip -br link")

    # The line of the documentation: no pause, no second try.
    said = host.sh(f"{INSTALL} /root/weft.deb && docker swarm init", seconds=300)
    assert "is now a manager" in said
    assert host.sh("systemctl is-enabled weft.service weft.socket").split() == ["enabled"] * 2
    used = int(host.sh("du -sk --apparent-size /usr/lib/weft-swarm").split()[0]) // 1024
    assert used < MEGABYTES, f"{used} MB"
    assert host.sh("stat -c %a /run/docker.sock").strip() == "600"
    assert host.sh("man -w weft 2>/dev/null || ls /usr/share/man/man8/weft.8.gz").strip()
    host.sh("docker load -qi /root/demo.tar && docker service create -q --name web -p 8080:80 zaggash/demo-webapp:latest")  # fmt: skip
    assert "<!doctype html>" in answers(host)

    inside = host.sh("cat /var/lib/weft/containers/*/pid")
    # What outlives the daemon is not in its unit, so systemd has nothing to complain about.
    assert "conmon" in host.sh("systemd-cgls -u weft.slice")
    assert (
        host.sh("cat /sys/fs/cgroup/system.slice/weft.service/cgroup.procs | wc -l").strip() == "1"
    )
    asking = Asking(host)
    host.sh("echo 'labels = [\"zone=a\"]' >>/etc/weft/config.toml")
    host.sh(f"{INSTALL} -o Dpkg::Options::=--force-confdef /root/next.deb", seconds=300)
    assert host.sh("docker version -f '{{.Server.Version}}'").strip() == "9.9.9"
    assert host.sh("docker info -f '{{.Labels}}'").strip() == "[zone=a]"
    answered = asking.end()
    assert len(answered) > 10
    assert set(answered) == {"200"}
    complaints = host.sh("journalctl | grep -E 'left-over process|remains running'", check=False)
    assert complaints == ""

    host.sh("systemctl start systemd-networkd")
    assert "networkd" not in host.sh("weft check", check=False)
    host.sh("mv /usr/lib/systemd/networkd.conf.d/50-weft.conf /root")
    assert "ManageForeignRoutingPolicyRules=no" in host.sh("weft check", check=False)
    host.sh(
        "mv /root/50-weft.conf /usr/lib/systemd/networkd.conf.d/; systemctl stop systemd-networkd"
    )
    assert host.sh("cat /var/lib/weft/containers/*/pid") == inside

    assert "go on without a daemon" in host.sh("apt-get remove -qq -y weft-swarm", seconds=300)
    assert "<!doctype html>" in answers(host)
    left = set(host.sh(LIST).splitlines()) - before
    kept = ("/etc/weft", "/var/lib/weft", "/var/lib/dpkg", "/var/lib/systemd", "/etc/systemd/system", "/var/lib/apt")  # fmt: skip
    assert not [line for line in left if not line.partition(" ")[2].startswith(kept)]

    host.sh("apt-get purge -qq -y weft-swarm", seconds=300)
    assert "Failed to connect" in answers(host)
    after = set(host.sh(LIST).splitlines())
    assert after ^ before <= {"d /var/lib/weft"}
    assert host.sh("ip rule; ip -br link") == routing
    files = "ls -d /run/weft /run/docker /run/docker.sock /sys/fs/cgroup/weft /sys/fs/cgroup/weft.slice 2>/dev/null"
    kernel = "nft list tables; ip route show table 5917 2>/dev/null"
    assert host.sh(f"{files}; {kernel}", check=False) == ""
    assert host.sh("ps -eo comm= | grep -E 'conmon|nginx|weft'", check=False) == ""


def test_a_host_that_cannot_run_a_daemon_says_why_and_does_not_try_for_ever(
    host: BootedHost, package: Path
) -> None:
    host.put(package, "/root/weft.deb")
    host.sh("mv /usr/bin/conmon /usr/bin/conmon.away")
    host.sh(f"{INSTALL} /root/weft.deb", seconds=300)
    assert "conmon is not installed" in host.sh("docker version", check=False)
    # One start for the whole command, and none after it.
    host.sh(
        "while systemctl show weft.service -p ActiveState | grep -q activating; do sleep 0.1; done"
    )
    shown = host.sh("systemctl show weft.service -p ActiveState -p NRestarts -p ExecMainStatus")
    assert set(shown.split()) == {"ActiveState=failed", "NRestarts=0", "ExecMainStatus=78"}
    starts = int(host.sh("journalctl -u weft -o cat | grep -c daemon.unfit"))
    assert starts == 2, "one at the installation, one for the command"
    host.sh("mv /usr/bin/conmon.away /usr/bin/conmon")
    # The socket is still there, and the next client starts the daemon.
    host.sh("docker swarm init")

    # A host that has lost the address by which the swarm knows it, as by DHCP, says so and waits.
    host.sh(f"ip address add 10.59.75.99/24 dev eth0; ip address delete {ADDRESS}/24 dev eth0")
    host.sh("systemctl restart weft")
    lost = f"cannot use address {ADDRESS}: no interface of this system has it"
    assert lost in host.sh("docker info -f '{{.Swarm.Error}}'")
    assert lost in host.sh("journalctl -u weft -p warning -o cat")
    host.sh(f"ip address add {ADDRESS}/24 dev eth0")
    host.sh("until docker node ls; do sleep 0.2; done")

    # An older package does not touch what a newer one has written.
    host.sh("systemctl stop weft.socket weft.service")
    newer = "UPDATE meta SET value = 99 WHERE key = 'schema'"
    host.sh(
        '/usr/lib/weft-swarm/bin/python3 -c "import sqlite3;'
        f' d = sqlite3.connect(\'/var/lib/weft/swarm/store.db\'); d.execute(\\"{newer}\\"); d.commit()"'
    )
    host.sh("systemctl start weft.service", check=False)
    shown = host.sh("systemctl show weft.service -p ActiveState -p NRestarts -p ExecMainStatus")
    assert set(shown.split()) == {"ActiveState=failed", "NRestarts=0", "ExecMainStatus=78"}
    assert "Install that version again" in host.sh("docker version", check=False)
    assert "newer version of Weft has written" in host.sh("weft check", check=False)


def test_lintian_has_nothing_to_say(package: Path) -> None:
    done = subprocess.run(
        ["lintian", "--tag-display-limit", "0", "--allow-root", package],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_same_commit_gives_the_same_package(package: Path, tmp_path: Path) -> None:
    """Whatever the shell is like in which it is built."""
    began, odd = time.time(), {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "5"}
    subprocess.run(
        [Path(__file__).parents[2] / "scripts/package", tmp_path],
        env=os.environ | odd,
        umask=0o077,
        check=True,
    )
    (again,) = tmp_path.glob("*.deb")
    assert again.stat().st_mtime >= began
    assert again.read_bytes() == package.read_bytes()

"""What becomes of containers when their host is shut down, and when only the daemon is stopped."""

import json
from pathlib import Path

import pytest

from tests.package.booted_host import INSTALL, BootedHost

pytestmark = pytest.mark.root
IMAGE = "zaggash/demo-webapp:latest"
SLOW = "trap 'sleep 5; echo in good order >/notes/end; exit 0' USR1; echo up >/notes/begin; while :; do sleep 0.1; done"
"""Needs five seconds after its own stop signal."""
DEAF = "trap '' TERM USR1; while :; do sleep 0.1; done"
RUN = "docker run -d --restart always --network none"


def state(host: BootedHost, container: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        host.sh(f"docker inspect -f '{{{{json .State}}}}' {container}")
    )
    return found


def test_a_host_that_is_shut_down_ends_its_containers_in_good_order(
    host: BootedHost, package: Path, demo_image: Path
) -> None:
    host.put(package, "/root/weft.deb")
    host.put(demo_image, "/root/demo.tar")
    host.sh(
        f"{INSTALL} /root/weft.deb && docker swarm init && docker load -qi /root/demo.tar",
        seconds=300,
    )
    host.sh(f"docker service create -q --name web -p 8080:80 {IMAGE}")
    host.sh(
        f'{RUN} --name slow --stop-signal USR1 --stop-timeout 30 -v notes:/notes {IMAGE} sh -c "{SLOW}"'
    )
    host.sh(f'{RUN} --name deaf --stop-timeout 2 {IMAGE} sh -c "{DEAF}"')
    notes = host.sh("docker volume inspect -f '{{.Mountpoint}}' notes").strip()
    host.sh(f"while [ ! -e {notes}/begin ]; do sleep 0.1; done")

    # Containers are in a scope of their own, which systemd has delegated.
    groups = host.sh("systemd-cgls --no-pager -u weft.slice")
    ids = host.sh("docker ps -q --no-trunc").split()
    assert len(ids) == 3
    assert all(id in groups for id in ids)
    assert host.sh("ls /sys/fs/cgroup/weft.slice/weft-containers.scope/monitors/cgroup.procs")
    assert not host.sh("ls -d /sys/fs/cgroup/weft", check=False).startswith("/")
    assert host.sh("docker top deaf -o pid").split()[1:]

    # To stop the daemon is not to stop the containers, and it says so.
    pids = {name: state(host, name)["Pid"] for name in ("slow", "deaf")}
    host.sh("systemctl restart weft")
    assert {name: state(host, name)["Pid"] for name in pids} == pids
    host.sh("systemctl stop weft.socket weft.service")
    assert "3 containers run on without a daemon" in host.sh("journalctl -u weft -o cat")
    host.sh(f"kill -0 {pids['slow']} && kill -0 {pids['deaf']} && systemctl start weft.socket")
    assert state(host, "slow")["Pid"] == pids["slow"]

    host.reboot()
    assert host.sh(f"cat {notes}/end") == "in good order\n"
    shutdown = (
        host.sh("journalctl -o cat").partition("host.stopping")[2].partition("Journal stopped")[0]
    )
    alive, _, afterwards = shutdown.partition("Stopped weft.service")
    assert alive.index("farewell=stopping") < alive.index("ended_with_host")
    assert alive.count("container.ended_with_host") == 2
    assert alive.count("container.killed") == 1
    assert alive.count("merged.mount: Deactivated") == 3
    assert "state=ready" not in alive
    assert "run on without a daemon" not in alive
    assert "Stopped weft-containers.scope" in afterwards
    assert "Failed unmounting" not in shutdown
    # Their ends were the host's: they run again.
    for name in ("slow", "deaf"):
        assert state(host, name)["Running"] is True

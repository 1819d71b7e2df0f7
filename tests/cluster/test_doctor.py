"""`weft doctor` on a real lab: it says nothing while nothing is wrong, also while services change;
and it names what is wrong, where and why, for faults made on purpose."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.conftest import Cluster, Names

DROP = (
    "add table inet strict; add chain inet strict in { type filter hook input priority 0; };"
    " add rule inet strict in udp dport 4789 drop"
)


def doctor(cluster: Cluster, *options: str) -> tuple[int, list[str]]:
    """Exit status, and the lines without those about faults of other tests."""
    done: subprocess.CompletedProcess[str] = cluster.run(
        *cluster.weft, "lab", "exec", "node1", "--", *cluster.weft, "doctor", *options, ok=False
    )
    assert done.returncode in (0, 1), done.stderr
    lines = done.stdout.splitlines()
    return done.returncode, [line for line in lines if "it was mended" not in line]


@contextmanager
def fault(cluster: Cluster, node: str, make: str, undo: str) -> Iterator[None]:
    cluster.on(node, "sh", "-c", make)
    try:
        yield
    finally:
        cluster.on(node, "sh", "-c", undo)


@pytest.fixture
def web(healthy: Cluster, names: Names) -> Cluster:
    names("doctor"), names("doctor-net")
    healthy.docker("node1", "network", "create", "--driver", "overlay", "doctor-net")
    healthy.create("doctor", "--network", "doctor-net")
    return healthy


def test_faults_are_named_and_nothing_else(web: Cluster) -> None:
    """Of a healthy lab, of one that changes, and of one with each of these faults."""
    for replicas in (1, 6, 3):
        web.docker("node1", "service", "scale", "--detach", f"doctor={replicas}")
        assert doctor(web)[1] in ([], ["nothing is wrong"]), "but for what other tests did"
    web.eventually(lambda: len(web.running("doctor")) == 3)

    with fault(web, "node2", f"nft '{DROP}'", "nft delete table inet strict"):
        _, lines = doctor(web)
        assert any("node2 firewall: a rule in chain in of table inet strict drops 4789/udp" in line for line in lines)  # fmt: skip
        ways = [line for line in lines if "drops UDP port 4789" in line]
        assert {tuple(line.split()[1:5]) for line in ways} >= {
            ("node1", "way", "to", "10.59.72.12:"),
            ("node2", "way", "to", "10.59.72.11:"),
        }
        assert not any("node1 way to 10.59.72.13" in line for line in lines)

    with fault(web, "node3", "ip link set ens160 mtu 1400", "ip link set ens160 mtu 1500"):
        assert any(
            "node1 way to 10.59.72.13: packets of 1500 bytes do not arrive" in line
            for line in doctor(web)[1]
        )

    web.lab("cut", "node2", "--from", "node3")
    try:
        _, lines = doctor(web)
        assert [line.split(":")[0] for line in lines if "no packet is answered" in line] == [
            "error node2 way to 10.59.72.13",
            "error node3 way to 10.59.72.12",
        ]
    finally:
        web.lab("heal", "node2")

    def repaired() -> bool:
        """Whether it was the doctor: the daemon compares by itself too and may come first."""
        web.on("node3", "sysctl", "-w", "net.ipv4.conf.ing0.src_valid_mark=0")
        lines = doctor(web, "--repair")[1]
        return lines[0].startswith("mended node3 sysctl net.ipv4.conf.ing0.src_valid_mark")

    web.eventually(repaired)
    assert doctor(web)[0] == 1, "it tells of it for some minutes"
    assert web.on("node3", "sysctl", "-n", "net.ipv4.conf.ing0.src_valid_mark").strip() == "1"


def test_what_was_mended_is_told(web: Cluster) -> None:
    """Entries and tables come back before anybody looks; somebody takes them away all the same."""
    enter = " ".join(web.overlay("doctor-net"))
    web.on("node2", "sh", "-c", f"{enter} ip neigh flush dev vxlan0 nud permanent; nft delete table ip weft")  # fmt: skip

    def told() -> bool:
        done = web.run(
            *web.weft, "lab", "exec", "node1", "--", *web.weft, "doctor", "--json", ok=False
        )
        said = done.stdout
        return (
            "neighbour entry" in said
            and "nftables table ip weft of the host" in said
            and "another program changed it" in said
        )

    web.eventually(told, 15)

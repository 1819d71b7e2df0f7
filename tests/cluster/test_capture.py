"""`weft capture`: one ping between two hosts is seen at each hop, in order; in clear before it is
sealed, and sealed on the wire."""

import re
import subprocess
from pathlib import Path

from tests.cluster.conftest import WEFT, Cluster, Names

SOCKET = "unix:///run/weft/lab/node1/docker.sock"


class Capture:
    """A capture of a network and the wire below it, which has begun on all three hosts."""

    def __init__(self, network: str, *argv: str) -> None:
        self._process = subprocess.Popen(
            [*WEFT, "capture", network, "--underlay", *argv],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={"DOCKER_HOST": SOCKET, "PATH": "/usr/bin:/usr/sbin"},
        )  # fmt: skip
        assert self._process.stderr is not None
        watched = set[str]()
        while len(watched) < 3:
            line = self._process.stderr.readline()
            assert line, "the capture has ended"
            watched.update(re.findall(r"watching (\w+)/underlay", line))

    def end(self) -> list[str]:
        """The lines that it has shown."""
        self._process.terminate()
        shown, errors = self._process.communicate(timeout=20)
        assert self._process.returncode == 0, errors
        assert "dropped" not in errors
        return shown.splitlines()


def places(lines: list[str], *words: str) -> list[str]:
    """Where packets were seen whose line has all the words; a container's interfaces have no
    number."""
    found = (line.split()[1] for line in lines if all(word in line for word in words))
    return [re.sub(r"/eth\d$", "/eth", place) for place in found]


def test_a_packet_is_seen_at_each_hop(cluster: Cluster, names: Names, tmp_path: Path) -> None:
    plain, sealed, web = names("plain"), names("sealed"), names("web")
    cluster.docker("node1", "network", "create", "-d", "overlay", plain)
    cluster.docker("node1", "network", "create", "-d", "overlay", "--opt", "encrypted", sealed)
    cluster.docker("node1", "service", "create", "--name", web, "--mode", "global", "--network", plain,
                   "--network", sealed, cluster.image)  # fmt: skip
    (here,), (there,) = (cluster.containers(node, web) for node in ("node1", "node2"))
    addresses = cluster.inspect("node2", "inspect", there)["NetworkSettings"]["Networks"]
    sender, receiver = (
        cluster.inspect(node, "inspect", id)["Name"].strip("/").rpartition(".")[0]
        for node, id in (("node1", here), ("node2", there))
    )
    for network, wire in ((plain, ":4789"), (sealed, "esp")):
        address = addresses[network]["IPAddress"]
        filter = f"icmp and host {address}"
        capture, file = Capture(network, "--filter", filter), tmp_path / network
        other = Capture(network, "--filter", filter, "-w", str(file))
        cluster.inside("node1", here, "ping", "-c", "1", "-w", "20", address)
        lines = capture.end()
        other.end()
        way = [
            f"node1/{sender}/eth", f"node1/{network}/vxlan0",
            f"node2/{network}/vxlan0", f"node2/{receiver}/eth",
        ]  # fmt: skip
        assert places(lines, "echo request") == way
        assert places(lines, "echo reply") == way[::-1]
        assert {"node1/underlay", "node2/underlay"} <= set(places(lines, wire))
        read = subprocess.run(
            ["tcpdump", "-n", "-r", file], capture_output=True, text=True, check=True
        )
        assert read.stdout.count("ICMP echo re") == 8 + read.stdout.count("VXLAN")
    for node in cluster.nodes:
        cluster.eventually(lambda node=node: not watching(cluster, node), what=f"the end on {node}")


def watching(cluster: Cluster, node: str) -> list[str]:
    """The packet sockets in the host's own namespace."""
    return cluster.on(node, "cat", "/proc/net/packet").splitlines()[1:]

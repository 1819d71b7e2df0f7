"""Out of a container: every way in `escape_table.py`, tried from inside with default settings.
`scripts/escapes` runs this alone, and shows the list.

The attempts are a static program (`escapes/`), compiled here and brought in by an image of its own,
in which there is nothing else.
"""

import hashlib
import io
import json
import platform
import re
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL

import pytest

from tests.cluster.conftest import Cluster, Names
from tests.cluster.escape_table import ATTEMPTS, ON_THE_HOSTS_NETWORK, OTHERS, Row
from weft.runtime.confinement import masked_paths
from weft.runtime.spec import DEFAULT_CAPABILITIES

SOURCES = sorted(Path(__file__).with_name("escapes").glob("*.c"))
FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-static")
IMAGE = "weft-test/attempts:latest"
NODE = "node1"
FILES = {
    "etc/passwd": b"root:x:0:0:root:/:/attempts\nuser:x:1000:1000:user:/:/attempts\n",
    "etc/group": b"root:x:0:\nuser:x:1000:\n",
}
USERS = {"root": "0", "user": "1000"}
DESCRIPTORS = range(3, 17)
"""Where runtimes have left a directory of the host's open."""


def image(program: bytes) -> bytes:
    """What `docker save` would write of an image with the program as its only one."""
    layer = archive({"attempts": program, **FILES}, ("etc", "tmp"))
    config = json.dumps({
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "other"),
        "os": "linux",
        "config": {"Entrypoint": ["/attempts"], "Cmd": ["wait"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    })  # fmt: skip
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}])
    files = {"manifest.json": manifest.encode(), "config.json": config.encode(), "layer.tar": layer}
    return archive(files)


def archive(files: dict[str, bytes], directories: tuple[str, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in directories:
            info = tarfile.TarInfo(path)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if path == "tmp" else 0o755
            tar.addfile(info)
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(content), 0o755
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Prison:
    """A container of a service on one host, and what a process in it hears."""

    def __init__(self, cluster: Cluster, name: str, *options: str) -> None:
        self.cluster, self.name = cluster, name
        place = ("--constraint", f"node.hostname=={NODE}", "--no-resolve-image", "--detach")
        cluster.docker("node1", "service", "create", "--name", name, *place, *options, IMAGE)
        (self.id,) = cluster.eventually(lambda: cluster.containers(NODE, name), 30, f"{name} runs")

    def remove(self) -> None:
        self.cluster.docker("node1", "service", "rm", self.name)

    def run(self, *arguments: str, user: str = "root") -> dict[str, str]:
        """What the attempts answered, by name."""
        words = ("exec", "-u", USERS[user], self.id, "/attempts", *arguments)
        lines = self.cluster.docker(NODE, *words).splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def one(self, name: str, *arguments: str, user: str = "root") -> str:
        return self.run(name, *arguments, user=user)[name]


@pytest.fixture(scope="module")
def loaded(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    program = tmp_path_factory.mktemp("escapes") / "attempts"
    subprocess.run(["gcc", *FLAGS, "-o", program, *SOURCES], check=True)
    file = program.with_suffix(".tar")
    file.write_bytes(image(program.read_bytes()))
    cluster.docker(NODE, "load", "-q", "-i", str(file))
    return cluster


@pytest.fixture(scope="module")
def prison(loaded: Cluster) -> Iterator[Prison]:
    made = Prison(loaded, "escape")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def on_the_hosts_network(loaded: Cluster) -> Iterator[Prison]:
    made = Prison(loaded, "escape-host", "--network", "host")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def answers(prison: Prison) -> dict[str, dict[str, str]]:
    """All attempts, once for each user."""
    return {user: prison.run(user=user) for user in USERS}


def right(row: Row, user: str) -> list[str]:
    return (row.root if user == "root" else row.user).split("|")


def each(rows: list[Row]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", rows, ids=[row.name for row in rows])


@pytest.mark.parametrize("user", USERS)
@each(ATTEMPTS)
def test_a_way_out_is_closed(answers: dict[str, dict[str, str]], row: Row, user: str) -> None:
    assert answers[user].get(row.name) in right(row, user), f"{row.name} as {user}: {row.why}"


def test_every_attempt_has_its_row(answers: dict[str, dict[str, str]]) -> None:
    assert set(answers["root"]) == set(answers["user"]) == {row.name for row in ATTEMPTS}


@pytest.mark.parametrize("user", USERS)
@each(ON_THE_HOSTS_NETWORK)
def test_a_way_out_is_closed_on_the_hosts_network(
    on_the_hosts_network: Prison, row: Row, user: str
) -> None:
    assert on_the_hosts_network.one(row.name, user=user) in right(row, user), row.why


@pytest.mark.parametrize("user", USERS)
@each(OTHERS)
def test_the_processes_of_others_are_out_of_reach(
    prison: Prison, on_the_hosts_network: Prison, row: Row, user: str
) -> None:
    other = prison.cluster.pid(NODE, on_the_hosts_network.id)
    daemon = prison.cluster.on(NODE, "pgrep", "-o", "-f", "weft daemon").strip()
    for pid in (other, daemon):
        assert prison.one(row.name, pid, user=user) in right(row, user), row.why


@pytest.mark.parametrize("user", USERS)
def test_what_is_masked_is_empty(prison: Prison, user: str) -> None:
    shown = prison.cluster.inspect(NODE, "inspect", prison.id)["HostConfig"]["MaskedPaths"]
    assert shown == list(masked_paths())
    assert {"/proc/keys", "/proc/interrupts"} <= set(shown)
    assert prison.one("hidden", *shown, user=user) == "hidden"
    assert prison.one("hidden", "/proc/uptime", user=user) == "/proc/uptime"


def test_it_holds_the_default_capabilities_and_a_filter(prison: Prison) -> None:
    """CapBnd is a set of bits by number; the names of capsh(1) are not in the image."""
    bounding = int(prison.one("status", "CapBnd"), 16)
    assert bounding.bit_count() == len(DEFAULT_CAPABILITIES)
    assert prison.one("status", "CapEff") == prison.one("status", "CapBnd")
    assert int(prison.one("status", "CapEff", user="user"), 16) == 0
    assert (prison.one("status", "Seccomp"), prison.one("status", "NoNewPrivs")) == ("2", "0")


def test_its_namespaces_are_its_own(prison: Prison) -> None:
    version_2 = "cgroupns" in prison.cluster.docker(NODE, "info", "-f", "{{.SecurityOptions}}")
    for kind in ("mnt", "pid", "ipc", "uts", "net", *(["cgroup"] if version_2 else [])):
        host = prison.cluster.on(NODE, "readlink", f"/proc/1/ns/{kind}").strip()
        assert re.fullmatch(rf"{kind}:\[\d+\]", host)
        assert prison.one("namespace", kind) != host


@pytest.mark.parametrize("descriptor", DESCRIPTORS)
def test_a_working_directory_of_the_runtimes_is_refused(prison: Prison, descriptor: int) -> None:
    """`docker exec -w /proc/self/fd/N` (CVE-2024-21626): it fails, or is inside."""
    words = ("exec", "-w", f"/proc/self/fd/{descriptor}", prison.id, "/attempts", "directory")
    host = f"unix:///run/weft/lab/{NODE}/docker.sock"
    done = prison.cluster.run("docker", "-H", host, *words, ok=False)
    assert done.returncode != 0 or done.stdout == "directory contained\n", done.stdout


def test_a_service_with_such_a_working_directory_does_not_start(
    loaded: Cluster, names: Names
) -> None:
    place = ("--constraint", f"node.hostname=={NODE}", "--no-resolve-image", "--detach", "-q")
    for descriptor in DESCRIPTORS:
        name = names(f"escape-{descriptor}")
        options = ("--workdir", f"/proc/self/fd/{descriptor}", "--restart-condition", "none")
        loaded.docker(
            "node1", "service", "create", "--name", name, *place, *options, IMAGE, "directory"
        )
    for descriptor in DESCRIPTORS:
        ended = loaded.eventually(lambda d=descriptor: ends(loaded, f"escape-{d}"), 30, "an end")
        assert ended in ("Rejected", "directory contained"), descriptor


def ends(cluster: Cluster, service: str) -> str:
    """`Rejected`, or what the container said before it ended."""
    (task,) = cluster.tasks(service)
    state = task["CurrentState"].split()[0]
    if state in ("Complete", "Failed"):
        (id,) = cluster.docker(
            NODE, "ps", "-aq", "-f", f"label=com.docker.swarm.service.name={service}"
        ).split()
        return cluster.docker(NODE, "logs", id).strip()
    return state if state == "Rejected" else ""


def test_a_user_table_that_becomes_a_fifo_holds_up_no_host(prison: Prison) -> None:
    """The daemon looks users up in it for each exec, and so does the runtime, inside: there it may
    wait, for which it has its time. Others get their answers meanwhile."""
    words = ("docker", "-H", f"unix:///run/weft/lab/{NODE}/docker.sock")
    attempt = (*words, "exec", "-u", "user", prison.id, "/attempts", "directory")
    with subprocess.Popen((*words, "exec", prison.id, "/attempts", "swap-users", "4")) as swapping:
        clients: list[subprocess.Popen[bytes]] = []
        try:
            while swapping.poll() is None:
                if len(clients) < 8:
                    clients.append(subprocess.Popen(attempt, stdout=DEVNULL, stderr=DEVNULL))
                prison.cluster.run(*words, "ps", timeout=20)
        finally:
            for process in (swapping, *clients):
                process.kill()
                process.wait()
    assert len(clients) > 1
    assert prison.one("directory", user="user") == "contained"


# --- by frames made by hand

LISTENER = """
import json, socket, sys
sockets = []
for address in json.loads(sys.argv[1]):
    sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sockets[-1].bind(tuple(address))
print("ready", flush=True)
*targets, last = sockets
last.settimeout(20)
last.recv(100)
heard = []
for target in targets:
    target.setblocking(False)
    try:
        heard.append(target.recvfrom(100)[1][0])
    except BlockingIOError:
        heard.append("")
print(json.dumps(heard), flush=True)
"""
"""On a host: listens at all addresses until something comes to the last; from whom each other
heard."""


@contextmanager
def listener(
    cluster: Cluster, node: str, *addresses: tuple[str, int]
) -> Iterator[subprocess.Popen[str]]:
    program = ("python3", "-c", LISTENER, json.dumps(addresses))
    words = (*cluster.weft, "lab", "exec", node, "--", *program)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.terminate()


def outlet(prison: Prison) -> tuple[str, str, str, str]:
    """The container's interface on docker_gwbridge, its address, the bridge's MAC and address."""
    cluster = prison.cluster
    (route,) = json.loads(cluster.inside(NODE, prison.id, "ip", "-j", "route", "show", "default"))
    (link,) = json.loads(
        cluster.inside(NODE, prison.id, "ip", "-j", "-4", "address", "show", route["dev"])
    )
    mac = cluster.on(NODE, "cat", "/sys/class/net/docker_gwbridge/address").strip()
    return route["dev"], link["addr_info"][0]["local"], mac, route["gateway"]


def test_the_hosts_loopback_is_out_of_reach(prison: Prison) -> None:
    """As from another machine: CVE-2020-8558. The last frame shows that frames like these
    arrive."""
    device, own, mac, gateway = outlet(prison)
    doors = (("127.0.0.1", 7001), ("127.0.0.2", 7002), (gateway, 7003))
    with listener(prison.cluster, NODE, *doors) as process:
        for source in (own, "127.0.0.1", "8.8.8.8", gateway):
            for address, port in doors[:2]:
                assert (
                    prison.one("frame", device, mac, source, address, str(port), "00") == "allowed"
                )
        prison.one("frame", device, mac, own, gateway, "7003", "00")
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == ["", ""]


def test_a_container_leaves_by_its_own_address_only(prison: Prison) -> None:
    device, own, mac, gateway = outlet(prison)
    with listener(prison.cluster, NODE, (gateway, 7011), (gateway, 7012)) as process:
        for source in ("8.8.8.8", prison.cluster.nodes["node2"], gateway, "127.0.0.1"):
            prison.one("frame", device, mac, source, gateway, "7011", "00")
        prison.one("frame", device, mac, own, gateway, "7012", "00")
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == [""]


def test_no_vxlan_of_a_containers_enters_an_overlay(prison: Prison, names: Names) -> None:
    """A datagram to the VXLAN port of this host and of another, with the VNI of a network that the
    container is not on, and a frame for a container that is."""
    cluster = prison.cluster
    cluster.docker("node1", "network", "create", "-d", "overlay", names("escape-net"))
    options = ("--network", "escape-net", "--mode", "global", "--no-resolve-image", "-q")
    cluster.docker(
        "node1", "service", "create", "--name", names("escape-victim"), *options, cluster.image
    )
    (network,) = json.loads(cluster.docker("node1", "network", "inspect", "escape-net"))
    vni = int(network["Options"]["com.docker.network.driver.overlay.vxlanid_list"])
    device, own, mac, _ = outlet(prison)
    for node, address in (("node1", cluster.nodes["node1"]), ("node2", cluster.nodes["node2"])):
        (victim,) = cluster.containers(node, "escape-victim")
        (eth,) = json.loads(cluster.inside(node, victim, "ip", "-j", "link", "show", "eth0"))
        inner = eth["address"].replace(":", "") + "020000000001" + "0800" + "45" + "00" * 40
        payload = f"08000000{vni:06x}00{inner}"
        before = received(cluster, node)
        with listener(cluster, node, (address, 7021)) as process:
            for _ in range(5):
                prison.one("frame", device, mac, own, address, "4789", payload)
            prison.one("frame", device, mac, own, address, "7021", "00")
            assert process.stdout is not None
            assert json.loads(process.stdout.readline()) == []
        assert received(cluster, node) == before


def received(cluster: Cluster, node: str) -> int:
    """Frames that the overlay's tunnel has taken from the wire."""
    words = (*cluster.overlay("escape-net"), "ip", "-j", "-s", "link", "show", "vxlan0")
    (link,) = json.loads(cluster.on(node, *words))
    return int(link["stats64"]["rx"]["packets"])

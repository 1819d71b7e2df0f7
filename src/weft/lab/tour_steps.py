"""The steps of the tour: what is typed where, in which part of the picture that is, and which parts
of the output tell.

They follow the page on overlay networks that Weft was written from: a swarm, an overlay, a service
on it, its interfaces, VXLAN on the wire, encryption, the namespaces behind it. `tour_texts.py`
explains each in English and in French. Nothing relies on more than the names of the cluster. A second
run first removes what the first made.
"""

import re
from typing import Literal, NamedTuple

SERVICE = "webapp"
NETWORK = "mon-overlay-demo"
SEALED = "mon-overlay-ipsec"
PIDOF = "$(pidof -s nginx)"
CONTAINER = f"$(docker ps -q --filter name={SERVICE} | head -1)"
TASKS = f"$(docker exec {CONTAINER} getent ahostsv4 tasks.{SERVICE} | cut -d ' ' -f 1 | sort -u)"
REMOVE = (
    f"docker service rm {SERVICE}; while docker ps -q --filter name={SERVICE} | grep -q .; do sleep"
    " 0.5; done; docker network rm"
)
PING = f"for task in {TASKS}; do nsenter -n -t {PIDOF} ping -c 1 $task >/dev/null; done"
VNI = f"""$(docker network inspect -f '{{{{index .Options "com.docker.network.driver.overlay.vxlanid_list"}}}}' {SEALED})"""
INSIDE = (
    f"nsenter --net=/run/docker/netns/1-$(docker network ls -q --no-trunc --filter name={SEALED} |"
    " cut -c 1-10)"
)
"""Runs the command after it in the encrypted network's namespace on this host."""
PEER = f"$(nsenter -n -t {PIDOF} ethtool -S eth1 | sed -n 's/.*peer_ifindex: //p')"
PORT = f'$({INSIDE} ip -o link | sed -n "s/^{PEER}: \\([^@:]*\\).*/\\1/p")'
"""The other end of the container's veth, in that namespace."""

Place = Literal["client", "container", "overlay", "engine", "host", "wire", "manager"]
"""A part of the picture (`tour_picture.py`)."""


class Step(NamedTuple):
    name: str
    """In `tour_texts.py`; empty: nothing is shown."""
    host: str
    command: str
    place: Place = "manager"
    marks: re.Pattern[str] | None = None
    """The parts of the output that tell."""
    quiet: bool = False
    """A failure of this step is not counted."""


PLAIN = (
    Step("", "node1", f"{REMOVE} {NETWORK} {SEALED}", quiet=True),
    Step("nodes", "node1", "docker node ls", "manager", re.compile(r"Leader|Ready")),
    Step("networks", "node1", "docker network ls", "manager", re.compile(r"ingress|docker_gwbridge")),
    Step(
        "create", "node1",
        f"docker network create --driver overlay --subnet 10.10.10.0/24 {NETWORK}", "manager"),
    Step(
        "service", "node1",
        f"docker service create --name {SERVICE} --replicas=3 --network {NETWORK} -p 8080:80"
        " zaggash/demo-webapp", "manager", re.compile(r"converged")),
    Step("ps", "node1", f"docker service ps {SERVICE}", "manager", re.compile(r"\bnode\d\b")),
    Step(
        "interfaces", "node1", f"nsenter -n -t {PIDOF} ip -br address",
        "container", re.compile(r"\beth\d|\b10\.\d+\.\d+\.\d+\b")),
    Step(
        "subnets", "node1",
        "docker network inspect -f '{{.Name}} {{range .IPAM.Config}}{{.Subnet}}{{end}}'"
        f" ingress docker_gwbridge {NETWORK}", "overlay", re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}/\d{1,2}")),
    Step(
        "mesh", "client",
        "for i in 1 2 3 4 5 6; do curl -sS http://10.59.72.11:8080/whoami; echo; done",
        "client", re.compile(r"webapp|10\.59\.72\.100")),
    Step(
        "everywhere", "client",
        "for node in 11 12 13; do curl -sS http://10.59.72.$node:8080/whoami; echo; done",
        "client", re.compile(r"webapp")),
    Step(
        "names", "node2", f"docker exec {CONTAINER} getent ahostsv4 tasks.{SERVICE}",
        "container", re.compile(r"\b10\.\d+\.\d+\.\d+\b")),
    Step(
        "ping", "node2",
        f"for task in {TASKS}; do nsenter -n -t {PIDOF} ping -c 1 $task; done",
        "overlay", re.compile(r"ttl=64")),
    Step(
        "vxlan", "node1",
        f"timeout 8 tcpdump -n -l -c 4 -i ens160 udp port 4789 2>/dev/null & sleep 1; {PING}; wait",
        "wire", re.compile(r"VXLAN|vni \d+|ICMP echo re\w+")),
    Step(
        "namespaces", "node1",
        "ls /run/docker/netns/; nsenter --net=$(ls -d /run/docker/netns/1-* | tail -1)"
        " ip -br link", "overlay", re.compile(r"\b1-\w{1,20}|\b(?:br0|vxlan0|veth\d+)")),
    Step(
        "rules", "node1", "nft list table ip weft | head -60",
        "host", re.compile(r"dnat ip to|map @\S{1,40}")),
    Step(
        "way", "node1", f"weft trace {SERVICE} node2:8080", "wire",
        re.compile(r"passed after \d|dnat|the probe arrives after")),
    Step(
        "scale", "node1", f"docker service scale {SERVICE}=6 && docker service ps {SERVICE}",
        "manager", re.compile(r"\bnode\d\b")),
)  # fmt: skip

ENCRYPTED = (
    Step("readable", "node1", f"{REMOVE} {NETWORK}", "wire"),
    Step(
        "sealed", "node1",
        f"docker network create --driver overlay --opt encrypted --subnet 10.20.20.0/24 {SEALED}",
        "manager"),
    Step(
        "again", "node1",
        f"docker service create --name {SERVICE} --replicas=3 --network {SEALED} -p 8080:80"
        " zaggash/demo-webapp", "manager", re.compile(r"converged")),
    Step(
        "engine", "node1", "docker info 2>/dev/null | grep -A 1 overlay-encryption",
        "engine", re.compile(r"kernel|userspace")),
    Step(
        "addresses", "node1", f"docker inspect {CONTAINER} | grep IPv4Address",
        "container", re.compile(r"\b10\.\d+\.\d+\.\d+\b")),
    Step(
        "mtu", "node1", f"nsenter -n -t {PIDOF} ip address show eth1",
        "container", re.compile(r"mtu \d+")),
    Step(
        "ping-sealed", "node1",
        f"for task in {TASKS}; do nsenter -n -t {PIDOF} ping -c 2 $task; done",
        "overlay", re.compile(r"ttl=64")),
    Step(
        "esp", "node1",
        f"timeout 8 tcpdump -n -l -c 4 -i ens160 esp 2>/dev/null & sleep 1; {PING}; wait",
        "wire", re.compile(r"ESP\(spi=0x\w+,seq=0x\w+\)")),
    Step(
        "nothing-clear", "node1",
        f'vni={VNI}; timeout 5 tcpdump -n -l -i ens160'
        ' "udp port 4789 and udp[12:4] & 0xffffff00 = $((vni << 8))" & '
        f"sleep 1; {PING}; wait", "wire", re.compile(r"\b0 packets captured")),
    Step("keys", "node1", "weft keys", "engine"),
)  # fmt: skip

NAMESPACES = (
    Step(
        "behind", "node1", "ls -l /run/docker/netns/", "overlay",
        re.compile(r"\b1-|\blb_|esp_sbox")),
    Step(
        "inside", "node1", f"{INSIDE} ip address", "overlay",
        re.compile(r"\b(?:br0|vxlan0|veth\d+)\b")),
    Step(
        "tunnel", "node1", f"{INSIDE} ip -d link show vxlan0", "overlay",
        re.compile(r"vxlan id \d+|dstport \d+|\bproxy\b|nolearning")),
    Step(
        "cable", "node1", f"nsenter -n -t {PIDOF} ethtool -S eth1", "container",
        re.compile(r"peer_ifindex: \d+")),
    Step(
        "before", "node1",
        f"port={PORT}; timeout 8 {INSIDE} tcpdump -n -l -c 4 -i $port icmp 2>/dev/null & sleep 1;"
        f" {PING}; wait", "overlay", re.compile(r"ICMP echo re\w+")),
    Step(
        "guard", "node1",
        "nsenter --net=/run/docker/netns/esp_sbox ip -s link show esp0 2>/dev/null"
        " || nft list table ip weft-guard", "engine", re.compile(r"\besp0\b|drop")),
)  # fmt: skip

STEPS = (*PLAIN, *ENCRYPTED, *NAMESPACES)

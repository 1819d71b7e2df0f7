"""The walkthrough, live: each command as somebody at that host would type it, its real output, and
what it shows.

The steps are a table. The tour relies only on the names of the cluster. A second run first removes
what the first made.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, TextIO

SERVICE = "webapp"
NETWORK = "mon-overlay-demo"
SEALED = "mon-overlay-ipsec"
SECONDS = 90
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
_PROGRESS = re.compile(r"overall progress: |verify: Waiting|\d+/\d+: |$")
"""Lines that docker repaints on a terminal, but repeats here."""


class Step(NamedTuple):
    host: str
    command: str
    shows: str
    quiet: bool = False
    """A failure of this step is not counted."""


PLAIN = (
    Step("node1", f"{REMOVE} {NETWORK} {SEALED}", "", quiet=True),
    Step("node1", "docker node ls", "Three hosts, one swarm. node1 is its manager."),
    Step("node1", "docker network ls", "The networks every swarm has; ingress is the overlay behind published ports."),
    Step(
        "node1", f"docker network create --driver overlay --subnet 10.10.10.0/24 {NETWORK}",
        "An overlay: one subnet over all hosts. No host has anything of it yet; it comes with the first task.",
    ),
    Step(
        "node1", f"docker service create --name {SERVICE} --replicas=3 --network {NETWORK} -p 8080:80 zaggash/demo-webapp",
        "Three tasks of a web server, port 8080 of every host published for their port 80.",
    ),
    Step("node1", f"docker service ps {SERVICE}", "The scheduler has spread them: one on each host."),
    Step("node1", f"nsenter -n -t {PIDOF} ip -br address",
         "Inside the container on node1: eth0 on ingress, eth1 on the overlay, eth2 towards the world outside."),
    Step("client", "for i in 1 2 3 4 5 6; do curl -sS http://10.59.72.11:8080/whoami; echo; done",
         "From outside, through node1 alone: all three tasks answer in turn, and each sees the client's own address, 10.59.72.100."),
    Step("client", "for node in 11 12 13; do curl -sS http://10.59.72.$node:8080/whoami; echo; done",
         "The port answers on every host."),
    Step("node2", f"docker exec {CONTAINER} getent ahostsv4 tasks.{SERVICE}",
         "Names: 127.0.0.11 inside each container knows the tasks, and the service's virtual address by its own name."),
    Step("node2", f"for task in {TASKS}; do nsenter -n -t {PIDOF} ping -c 1 $task; done",
         "From a container on node2 to every task over the overlay: one hop, ttl 64, as on one wire."),
    Step(
        "node1", f"timeout 8 tcpdump -n -l -c 4 -i ens160 udp port 4789 2>/dev/null & sleep 1; {PING}; wait",
        "What the underlay carries meanwhile: VXLAN, marked with the network's VNI, with the containers' packets inside.",
    ),
    Step("node1", "ls /run/docker/netns/; nsenter --net=$(ls -d /run/docker/netns/1-* | tail -1) ip -br link",
         "Each overlay has a namespace on each host that needs it, with a bridge, a VXLAN device and a port for each container."),
    Step("node1", "nft list table ip weft | head -60",
         "The routing mesh: the rules that choose a task for a new connection. No IPVS, no masquerading."),
    Step("node1", f"docker service scale {SERVICE}=6 && docker service ps {SERVICE}",
         "Twice as many tasks; new connections go to all six."),
)  # fmt: skip

ENCRYPTED = (
    Step("node1", f"{REMOVE} {NETWORK}",
         "Whoever sees the packets between the hosts can read them. The same again, encrypted: first the old service and network go."),
    Step(
        "node1", f"docker network create --driver overlay --opt encrypted --subnet 10.20.20.0/24 {SEALED}",
        "One option more. A host gets the keys of encrypted networks when a task of its own is on one.",
    ),
    Step(
        "node1", f"docker service create --name {SERVICE} --replicas=3 --network {SEALED} -p 8080:80 zaggash/demo-webapp",
        "The same service, now on that network.",
    ),
    Step("node1", "docker info 2>/dev/null | grep -A 1 overlay-encryption",
         "What seals on this host: the kernel's IPsec where it has that, else a process of Weft's. On the wire they are the same."),
    Step("node1", f"docker inspect {CONTAINER} | grep IPv4Address",
         "The container's addresses: one on ingress, one on the encrypted network."),
    Step("node1", f"nsenter -n -t {PIDOF} ip address show eth1",
         "Its MTU is 1424, not 1450: with what encryption adds a full packet is 1500 octets on the underlay again."),
    Step("node1", f"for task in {TASKS}; do nsenter -n -t {PIDOF} ping -c 2 $task; done",
         "The containers notice nothing else."),
    Step("node1", f"timeout 8 tcpdump -n -l -c 4 -i ens160 esp 2>/dev/null & sleep 1; {PING}; wait",
         "What the underlay carries meanwhile: ESP. Its numbers count up, and what is inside cannot be seen."),
    Step(
        "node1",
        f'vni={VNI}; timeout 5 tcpdump -n -l -i ens160 "udp port 4789 and udp[12:4] & 0xffffff00 = $((vni << 8))" & '
        f"sleep 1; {PING}; wait",
        "And in clear, as VXLAN with this network's VNI: 0 packets.",
    ),
    Step("node1", "weft keys", "The keys' numbers and ages. A new one every twelve hours is first known everywhere, and then used."),
)  # fmt: skip

NAMESPACES = (
    Step("node1", "ls -l /run/docker/netns/",
         "The namespaces behind it: 1-… are overlays, lb_… their load balancers, esp_sbox the userspace engine's."),
    Step("node1", f"{INSIDE} ip address",
         "Inside the encrypted network's: bridge br0, the tunnel vxlan0, veth0 to the load balancer, from veth1 on the containers."),
    Step("node1", f"{INSIDE} ip -d link show vxlan0",
         "The tunnel: its VNI, port 4789, and a proxy for ARP. Nothing is learned: who is where the manager has told."),
    Step("node1", f"nsenter -n -t {PIDOF} ethtool -S eth1",
         "The container's eth1 is one end of a cable; the other end has this number in the list above, and is on br0."),
    Step("node1", f"port={PORT}; timeout 8 {INSIDE} tcpdump -n -l -c 4 -i $port icmp 2>/dev/null & sleep 1; {PING}; wait",
         "There, before it is sealed, the container's traffic can be read."),
    Step(
        "node1", "nsenter --net=/run/docker/netns/esp_sbox ip -s link show esp0 2>/dev/null || nft list table ip weft-guard",
        "Why nothing gets out in clear. The userspace engine's namespace holds the tunnel's socket, and this one interface leads out "
        "of it: TX went to be sealed, RX was opened. The kernel's policies seal all VXLAN but what these rules mark as plain.",
    ),
)  # fmt: skip

STEPS = (*PLAIN, *ENCRYPTED, *NAMESPACES)

TRY_NEXT = """
Try next:
  weft lab shell node2                          be at a host
  weft lab kill node1; weft lab exec client -- curl -s 10.59.72.12:8080/whoami; weft lab restart node1
                                                the manager's daemon dies, the service goes on
  docker -H unix:///run/weft/lab/node1/docker.sock service update --replicas 2 webapp
  weft lab down                                 take it all away
"""


def run(stream: TextIO, pause: bool = False) -> int:
    """Runs all steps. Gives 0 if every step succeeded."""
    failed = 0
    for step in STEPS:
        if step.shows:
            stream.write(f"\n\N{EM DASH} {step.shows}\n({step.host}) $ {step.command}\n")
            stream.flush()
        status = _run(step, stream)
        if status and not step.quiet:
            failed += 1
            stream.write(f"(exit status {status})\n")
        if pause and step.shows:
            input("Enter for the next step ")
    stream.write(TRY_NEXT)
    return int(failed > 0)


def _run(step: Step, stream: TextIO) -> int:
    command = [
        sys.executable,
        "-m",
        "weft",
        "lab",
        "exec",
        step.host,
        "--",
        "sh",
        "-c",
        step.command,
    ]
    # for steps that call weft
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=SECONDS, env={**os.environ, "PATH": path, "COLUMNS": "120"}, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        return 124
    if step.shows:
        stream.writelines(
            line for line in done.stdout.splitlines(keepends=True) if not _PROGRESS.match(line)
        )
    return done.returncode

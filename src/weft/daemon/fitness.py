"""What stands in a daemon's way on a host, and what to type about it: facts in, findings out.

`host_facts.py` gathers the facts, `weft check` shows the findings. Nothing here looks at the host.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from weft.daemon.firewall import Blocking, Need, Policy, closed

Severity = Literal["error", "warning", "note"]
"""An error keeps the daemon from starting. With a warning it starts, and something does not work or
will not last. A note is nothing to worry about."""

PACKAGES = {
    "conmon": "conmon",
    "runc": "runc",
    "skopeo": "skopeo golang-github-containers-common",
}
"""Debian's packages of the programs."""
CLIENT_FROM_ENGINE = (
    '(cd "$(mktemp -d)" && apt-get download docker.io && dpkg-deb --fsys-tarfile docker.io_*.deb'
    " | tar -xO ./usr/bin/docker | install -m 755 /dev/stdin /usr/local/bin/docker)"
)
"""For releases without the package docker-cli."""
ROOM = 2 << 30
"""Bytes that images and containers should find free."""
ORDINARY_MTU = 1500
UNUSABLE = ("overlay", "nfs", "nfs4", "cifs", "9p", "fuse.sshfs", "vfat", "ecryptfs")
"""File systems on which the kernel refuses the upper layer of an overlay, or forgets owners."""
OURS = "unmanaged-devices=" + ";".join(
    f"interface-name:{name}" for name in ("ing0", "docker_gwbridge", "wgw-*", "docker0", "wbr-*")
)
"""Not `br-*`: administrators give bridges of their own such names."""
NETWORKD = "/etc/systemd/networkd.conf.d/weft.conf"
NETWORK_MANAGER = "/etc/NetworkManager/conf.d/weft.conf"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    severity: Severity
    about: str
    """One word for the part of the host."""
    text: str
    remedy: tuple[str, ...] = ()
    """Lines to type, or to put where the text says."""


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was found on the host; the defaults are a host with nothing to find."""

    configuration: str = ""
    """What is wrong with it, if anything."""
    missing_programs: tuple[str, ...] = ()
    missing_features: tuple[str, ...] = ()
    newer_files: tuple[str, ...] = ()
    """A sentence for each file of a newer version of Weft."""
    encryption: str = "kernel"
    """`kernel`, `userspace` or empty."""
    no_encryption: str = ""
    """The cause, if `encryption` is empty."""
    taken_ports: Mapping[str, str] = msgspec.field(default_factory=dict)
    """`2377/tcp` -> the program that has it. Ports of this daemon are not taken."""
    engine: Literal["", "installed", "running"] = ""
    """Docker Engine."""
    client: bool = True
    client_package: bool = True
    """Whether this release has a package with the docker command alone."""
    etcd: bool = True
    etcd_service: bool = False
    """Whether Debian's own etcd runs."""
    firewall: Literal["", "ufw", "firewalld"] = ""
    """The program that writes the rules, if one of these runs."""
    policies: tuple[Policy, ...] = ()
    """Base chains that drop what no rule accepts."""
    blocking: tuple[Blocking, ...] = ()
    """Rules that drop something of ours."""
    networkd_forgets: bool = False
    """Whether systemd-networkd runs and is not told to leave foreign rules alone."""
    networkd_takes_all: str = ""
    """A file that tells networkd to configure every link."""
    network_manager: bool = False
    """Whether NetworkManager runs and is not told to leave our links alone."""
    clock_synchronised: bool | None = True
    """None if nothing on this host can tell."""
    apparmor: str = ""
    """The warning about it."""
    address: str = ""
    """Why no address can be chosen by itself, if so."""
    lost_address: str = ""
    """Why the address by which the swarm knows this host cannot be used, if so."""
    mtu: int = ORDINARY_MTU
    """The smallest MTU of a link with an address that hosts may use."""
    free: int = 1 << 40
    """Bytes, where images and containers lie."""
    file_system: str = "ext4"
    data_root: str = "/var/lib/weft"
    data_path_port: int = 4789


def examine(facts: HostFacts) -> list[Finding]:
    """Everything to be said about the host, the worst first."""
    found = [
        finding
        for rule in (
            _configuration, _programs, _kernel, _state, _encryption, _ports, _engine, _storage, _firewall, _network_software, _clock,
            _confinement, _clients_and_managers, _addresses,
        )
        for finding in rule(facts)
    ]  # fmt: skip
    order: tuple[Severity, ...] = ("error", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _error(about: str, text: str, *remedy: str) -> Finding:
    return Finding(severity="error", about=about, text=text, remedy=remedy)


def _warning(about: str, text: str, *remedy: str) -> Finding:
    return Finding(severity="warning", about=about, text=text, remedy=remedy)


def _note(about: str, text: str, *remedy: str) -> Finding:
    return Finding(severity="note", about=about, text=text, remedy=remedy)


def _configuration(facts: HostFacts) -> Iterator[Finding]:
    if facts.configuration:
        yield _error("configuration", facts.configuration)


def _programs(facts: HostFacts) -> Iterator[Finding]:
    for program in facts.missing_programs:
        yield _error(
            "programs",
            f"{program} is not installed (not found in PATH)",
            f"apt install {PACKAGES.get(program, program)}",
        )


def _kernel(facts: HostFacts) -> Iterator[Finding]:
    for sentence in facts.missing_features:
        yield _error("kernel", sentence)


def _state(facts: HostFacts) -> Iterator[Finding]:
    for sentence in facts.newer_files:
        yield _error("state", sentence)


def _encryption(facts: HostFacts) -> Iterator[Finding]:
    if not facts.encryption:
        yield _warning(
            "encryption",
            f"encrypted overlays cannot be used here: {facts.no_encryption}",
            "modprobe esp4 || modprobe tun",
        )
    elif facts.encryption == "userspace":
        yield _note(
            "encryption",
            "the kernel has no ESP with AES-GCM: encrypted overlays are encrypted by a program,"
            " which is slower",
        )


def _ports(facts: HostFacts) -> Iterator[Finding]:
    needed = {
        "2377/tcp": "sessions, on managers",
        "2380/tcp": "etcd, on managers",
        f"{facts.data_path_port}/udp": "VXLAN",
    }
    for port, program in facts.taken_ports.items():
        yield _warning(
            "ports",
            f"{program} has port {port}, which Weft needs for {needed.get(port, 'itself')}",
            f"ss -{'t' if port.endswith('tcp') else 'u'}lnp sport = :{port.partition('/')[0]}",
        )


def _engine(facts: HostFacts) -> Iterator[Finding]:
    if facts.engine == "running":
        yield _warning(
            "engine",
            "Docker Engine runs here; it needs the same socket, bridge and ports. To change over,"
            " which ends its containers:",
            "systemctl disable --now docker.service docker.socket",
            "systemctl enable --now weft.socket weft.service",
        )
    elif facts.engine:
        yield _note("engine", "Docker Engine is installed here and does not run")


def _storage(facts: HostFacts) -> Iterator[Finding]:
    if facts.file_system in UNUSABLE:
        yield _error(
            "disk",
            f"{facts.data_root} is on {facts.file_system}, where containers' files cannot be: mount"
            " an ext4 or xfs file system there, or set data-root",
        )
    if facts.free < ROOM:
        yield _warning(
            "disk",
            f"{facts.data_root} has {facts.free >> 20} MiB left for images, containers and volumes",
            "docker image prune --all",
        )


def _firewall(facts: HostFacts) -> Iterator[Finding]:
    for rule in facts.blocking:
        place = f"{rule.family} {rule.table} {rule.chain}"
        yield _warning(
            "firewall",
            f"a rule in chain {rule.chain} of table {rule.family} {rule.table} drops"
            f" {rule.need.name}. To remove it, now, and in the place where it comes from:",
            f"nft delete rule {place} handle {rule.handle}",
        )
    for policy, needs in closed(facts.policies, facts.data_path_port):
        names = ", ".join(need.name for need in needs)
        yield _warning(
            "firewall",
            f"chain {policy.chain} of table {policy.family} {policy.table} drops what no rule"
            f" accepts, and no rule names {names}. To let them through{_where(facts, policy)}:",
            *_opening(facts, policy, needs),
        )


def _where(facts: HostFacts, policy: Policy) -> str:
    if facts.firewall:
        return ""
    return ", now, and after the next boot by the same rules in /etc/nftables.conf"


def _opening(facts: HostFacts, policy: Policy, needs: tuple[Need, ...]) -> Iterator[str]:
    """The lines in the language of whatever writes the rules here."""
    if facts.firewall == "firewalld":
        yield from (line for need in needs for line in need.firewalld)
        yield "firewall-cmd --reload"
    elif facts.firewall == "ufw":
        yield from (line for need in needs for line in need.ufw)
    else:
        place = f"nft insert rule {policy.family} {policy.table} {policy.chain}"
        yield from (f"{place} {words} accept" for need in needs for words in need.nft)


def _network_software(facts: HostFacts) -> Iterator[Finding]:
    if facts.networkd_forgets:
        yield _warning(
            "networkd",
            "systemd-networkd deletes the mesh's policy rules whenever it starts. To keep it from"
            " that:",
            f"printf '[Network]\\nManageForeignRoutes=no\\nManageForeignRoutingPolicyRules=no\\n'"
            f" | install -D -m 644 /dev/stdin {NETWORKD}",
            "systemctl restart systemd-networkd",
        )
    if facts.networkd_takes_all:
        yield _warning(
            "networkd",
            f"{facts.networkd_takes_all} configures every link, Weft's too: match the names of"
            " hardware instead, such as Name=en* eth*",
        )
    if facts.network_manager:
        yield _warning(
            "NetworkManager",
            "NetworkManager may configure Weft's links. To keep it from that:",
            f"printf '[keyfile]\\n{OURS}\\n' | install -D -m 644 /dev/stdin {NETWORK_MANAGER}",
            "systemctl reload NetworkManager",
        )


def _clock(facts: HostFacts) -> Iterator[Finding]:
    if facts.clock_synchronised is False:
        yield _warning(
            "clock",
            "nothing keeps this clock right; certificates are refused by hosts whose clocks differ",
            "apt install systemd-timesyncd",
            "timedatectl set-ntp true",
        )


def _confinement(facts: HostFacts) -> Iterator[Finding]:
    if facts.apparmor:
        yield _warning("apparmor", facts.apparmor.removeprefix("WARNING: "), "apt install apparmor")


def _clients_and_managers(facts: HostFacts) -> Iterator[Finding]:
    if not facts.client:
        command = "apt install docker-cli" if facts.client_package else CLIENT_FROM_ENGINE
        yield _warning("client", "there is no docker command here", command)
    if not facts.etcd:
        yield _note(
            "etcd",
            "a swarm with several managers needs etcd on each of them; it is not installed here",
            "apt install etcd-server",
        )
    if facts.etcd_service:
        yield _note(
            "etcd",
            "Debian's own etcd runs here. Weft does not use it: it starts its own",
            "systemctl disable --now etcd",
        )


def _addresses(facts: HostFacts) -> Iterator[Finding]:
    if facts.lost_address:
        yield _warning(
            "address",
            f"{facts.lost_address}; the swarm knows this host by it. Give the host this address"
            " again (a fixed one, or a reservation of the DHCP server). If it has changed for good,"
            " leave the swarm, and join again:",
            "docker swarm leave --force",
        )
    if facts.address and not facts.lost_address:
        yield _note(
            "address",
            f"{facts.address}: say which to use",
            "docker swarm init --advertise-addr ADDRESS",
        )
    if facts.mtu < ORDINARY_MTU:
        yield _note(
            "mtu",
            f"packets between hosts have at most {facts.mtu} bytes; every overlay of the swarm"
            " takes that over",
        )

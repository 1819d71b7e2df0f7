"""Gathers what `fitness.py` judges, from the host as it is now. Changes nothing, and starts no
daemon: connecting to the API's socket would."""

import ctypes
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from weft.daemon import host_info
from weft.daemon.downgrade import newer_files
from weft.daemon.firewall import blocking, policies
from weft.daemon.fitness import ORDINARY_MTU, HostFacts
from weft.daemon.options import SWARM, DaemonOptions
from weft.errors import InvalidArgument, WeftError
from weft.linux import host, xfrm
from weft.linux.esp import datapath
from weft.runtime.apparmor import AppArmor
from weft.session.identity import IdentityStore

_PORTS = ("2377/tcp", "2380/tcp", "4789/udp")
_USER = re.compile(r'users:\(\("([^"]*)",pid=(\d+)')
_NETWORKD = ("/usr/lib", "/usr/local/lib", "/run", "/etc")
"""Where systemd looks for configuration; a later one wins (systemd.syntax(7))."""
_STA_UNSYNC = 0x40


def gather(options: DaemonOptions | None, configuration: str = "") -> HostFacts:
    """`options`: None if the configuration is wrong, as `configuration` says. Needs root."""
    used = options or DaemonOptions()
    no_kernel = xfrm.why_not()
    missing = [no_kernel, *datapath.what_is_missing()] if no_kernel is not None else []
    encryption = "kernel" if no_kernel is None else "userspace" if len(missing) == 1 else ""
    room, file_system = _storage(used.data_root)
    ruleset = _ruleset()
    return HostFacts(
        configuration=configuration,
        missing_programs=tuple(p for p in host_info.PROGRAMS if shutil.which(p) is None),
        missing_features=tuple(host.check_features()),
        newer_files=tuple(newer_files(used.data_root / SWARM)),
        encryption=encryption,
        no_encryption="; ".join(missing),
        taken_ports={} if _is_active("weft.service") else _taken_ports(),
        engine=_engine(),
        client=shutil.which("docker") is not None,
        client_package=host_info.said("apt-cache", "show", "docker-cli") != "",
        etcd=shutil.which("etcd") is not None,
        etcd_service=_is_active("etcd.service"),
        firewall=_firewall(),
        policies=tuple(policies(ruleset)),
        blocking=tuple(blocking(ruleset, HostFacts().data_path_port)),
        networkd_forgets=_is_active("systemd-networkd.service") and _networkd_forgets(),
        networkd_takes_all=_networkd_takes_all() if _is_active("systemd-networkd.service") else "",
        network_manager=_is_active("NetworkManager.service") and _network_manager_takes(),
        clock_synchronised=_clock_is_synchronised(),
        apparmor=AppArmor(used.run_dir).warning,
        address=_no_address(),
        lost_address=_lost_address(used.data_root),
        mtu=min((link.mtu for link in _underlay()), default=ORDINARY_MTU),
        free=room,
        file_system=file_system,
        data_root=str(used.data_root),
    )


def gather_running(data_root: Path, daemon: int) -> HostFacts:
    """What matters to a running daemon, whose process id `daemon` is: little enough to be asked
    again and again. Blocks some tenths of a second. Needs root."""
    ruleset = _ruleset()
    room, _ = _storage(data_root)
    return HostFacts(
        missing_programs=tuple(p for p in host_info.PROGRAMS if shutil.which(p) is None),
        missing_features=tuple(host.check_features()),
        taken_ports=_taken_beside(daemon),
        firewall=_firewall(),
        policies=tuple(policies(ruleset)),
        blocking=tuple(blocking(ruleset, HostFacts().data_path_port)),
        networkd_forgets=_is_active("systemd-networkd.service") and _networkd_forgets(),
        network_manager=_is_active("NetworkManager.service") and _network_manager_takes(),
        free=room,
        data_root=str(data_root),
    )


# --- the service manager and its units


def _is_active(unit: str) -> bool:
    return host_info.said("systemctl", "is-active", unit).strip() == "active"


def _engine() -> Literal["", "installed", "running"]:
    if _is_active("docker.service") or _is_active("docker.socket"):
        return "running"
    return "installed" if shutil.which("dockerd") else ""


def _firewall() -> Literal["", "ufw", "firewalld"]:
    if _is_active("firewalld.service"):
        return "firewalld"
    return "ufw" if host_info.said("ufw", "status").startswith("Status: active") else ""


def _ruleset() -> list[Any]:
    text = host_info.said("nft", "--json", "list", "ruleset")
    try:
        ruleset: list[Any] = json.loads(text)["nftables"]
    except (ValueError, KeyError):
        return []
    return ruleset


# --- network software


def _files(pattern: str) -> Iterable[Path]:
    """Configuration files of networkd, those that count last at the end."""
    found: dict[str, Path] = {}
    for place in _NETWORKD:
        for path in sorted(Path(place, "systemd").glob(pattern)):
            found[path.name] = path
    return [found[name] for name in sorted(found)]


def _networkd_forgets(root: Path = Path("/etc/systemd/networkd.conf")) -> bool:
    """Whether the last word about foreign rules is not `no`."""
    word = "yes"
    for path in (root, *_files("networkd.conf.d/*.conf")):
        for line in _lines(path):
            key, _, value = line.partition("=")
            if key.strip() == "ManageForeignRoutingPolicyRules":
                word = value.strip().lower()
    return word not in ("no", "false", "0", "off", "n", "f")


def _networkd_takes_all() -> str:
    for path in _files("network/*.network"):
        lines = [line.replace(" ", "") for line in _lines(path)]
        if "Name=*" in lines and not any(
            line.startswith(("Type=", "Kind=", "Driver=")) for line in lines
        ):
            return str(path)
    return ""


def _network_manager_takes() -> bool:
    places = (Path("/etc/NetworkManager"), Path("/usr/lib/NetworkManager"))
    files = [
        *places[0].glob("*.conf"),
        *(file for place in places for file in place.glob("conf.d/*.conf")),
    ]
    return not any("docker_gwbridge" in line for file in files for line in _lines(file))


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(errors="replace").splitlines()]
    except OSError:
        return []


# --- the host itself


def _taken_ports() -> dict[str, str]:
    """Ports of ours that others have: processes that Weft left running are told by its slice, and
    its VXLAN devices are in namespaces."""
    devices = [link.name for link in host.interfaces() if link.kind == "vxlan"]
    text = host_info.said("ss", "--no-header", "--tcp", "--udp", "--listening", "--numeric", "--processes")  # fmt: skip
    return {
        port: program or f"the VXLAN device {devices[0]}"
        for port, (program, process) in port_holders(text).items()
        if (program and not _is_ours(process)) or (not program and devices)
    }


def _taken_beside(daemon: int) -> dict[str, str]:
    """Ports of ours that programs have which are neither the daemon nor an etcd member."""
    text = host_info.said("ss", "--no-header", "--tcp", "--udp", "--listening", "--numeric", "--processes")  # fmt: skip
    # A process that the daemon is about to start has its descriptors for a moment.
    others = "\n".join(line for line in text.splitlines() if f"pid={daemon}," not in line)
    return {
        port: program
        for port, (program, process) in port_holders(others).items()
        if program and program != "etcd" and not _is_ours(process)
    }


def port_holders(text: str) -> dict[str, tuple[str, int]]:
    """The holders of our ports: `2377/tcp` -> (program, process id), from the lines of ss(8); no
    program if the kernel has the port itself. A socket on loopback alone is in nobody's way."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        protocol, address, users = words[0], words[4], " ".join(words[6:])
        host_part, _, port = address.rpartition(":")
        name = f"{port}/{protocol}"
        if name in _PORTS and not host_part.startswith(("127.", "[::1]")):
            user = _USER.search(users)
            found[name] = (user[1], int(user[2])) if user else ("", 0)
    return found


def _is_ours(process: int) -> bool:
    return any("/weft.s" in line for line in _lines(Path(f"/proc/{process}/cgroup")))


def _underlay() -> list[host.Interface]:
    return [link for link in host.interfaces() if link.up and link.addresses]


def _no_address() -> str:
    try:
        host.default_advertise_address()
    except InvalidArgument as error:
        return str(error)
    return ""


def _lost_address(data_root: Path) -> str:
    try:
        found = IdentityStore(data_root / SWARM).load()
        if found is not None:
            host.interface_with(found[0].data_path_address)
    except host.NoSuchAddress as error:
        return str(error)
    except WeftError:
        return ""  # the daemon says what is damaged
    return ""


def _clock_is_synchronised() -> bool | None:
    """As the kernel has it: STA_UNSYNC of adjtimex(2), whichever program sets the clock."""

    class Timex(ctypes.Structure):
        _fields_ = (
            ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
            ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("rest", ctypes.c_byte * 256),
        )  # fmt: skip

    answer = Timex()
    if ctypes.CDLL(None).adjtimex(ctypes.byref(answer)) < 0:
        return None
    return not answer.status & _STA_UNSYNC


def _storage(data_root: Path) -> tuple[int, str]:
    """Free bytes and the type of the file system on which the data is or will be."""
    path = data_root
    while not path.exists():
        path = path.parent
    status = os.statvfs(path)
    found = host_info.said("findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(path))
    return status.f_bavail * status.f_frsize, found.strip()

"""The underlay of the lab: a bridge in the machine's own network namespace and a cable (a veth) to
each host.

Only these links are made in that namespace, all with the alias `weft lab`. The machine's sysctls,
routes and rules stay as they are.
"""

import json
import subprocess
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from weft.errors import Conflict, OperationFailed
from weft.lab.layout import UPLINK, Host, Layout
from weft.model.addresses import mac_for

ALIAS = "weft lab"
CARD_PREFIX = "02:57"


def up(layout: Layout) -> None:
    """Makes the bridge if it does not exist. Raises `Conflict` if its name or its subnet is used by
    somebody else."""
    link = _link(layout.bridge)
    if link is not None:
        if link.get("ifalias") != ALIAS:
            raise Conflict(
                f"cannot create bridge {layout.bridge}: there is a link of that name that is not"
                " the lab's"
            )
        return
    for route in _json("route", "show", "table", "all"):
        destination = route["dst"]
        if (
            destination != "default"
            and ":" not in destination
            and IPv4Network(destination, strict=False).overlaps(layout.subnet)
        ):
            where = route.get("dev", "this machine")
            raise Conflict(
                f"cannot create bridge {layout.bridge}: {layout.subnet} overlaps {destination} on"
                f" {where}"
            )
    _batch(
        f"link add {layout.bridge} type bridge",
        f'link set {layout.bridge} alias "{ALIAS}"',
        f"address add {layout.bridge_address}/{layout.subnet.prefixlen} brd + dev {layout.bridge}",
        f"link set {layout.bridge} up",
    )


def plug_in(layout: Layout, host: Host, pid: int) -> None:
    """Makes a cable from the bridge to the network namespace of process `pid`. The cable's end
    there is called `ens160`, and is still down.

    A host keeps its MAC for ever, as with a network card. If a rebooted host had another MAC, a
    neighbour that confirmed the old one within the last second would ignore announcements, and send
    to the old MAC for up to a minute."""
    unplug(host.link)
    card = mac_for(host.address, CARD_PREFIX)
    _batch(
        f"link add {host.link} type veth peer name {UPLINK} address {card} netns {pid}",
        f'link set {host.link} alias "{ALIAS}" master {layout.bridge} up',
    )


def unplug(link: str) -> None:
    """Removes a link if it exists and is ours."""
    found = _link(link)
    if found is not None and found.get("ifalias") == ALIAS:
        subprocess.run(["ip", "link", "delete", link], capture_output=True, check=False)


def links(layout: Layout) -> list[str]:
    """Our cables, then the bridge."""
    ours = [link["ifname"] for link in _json("link", "show") if link.get("ifalias") == ALIAS]
    cables = [name for name in ours if name.startswith(f"{layout.name}-")]
    return cables + [name for name in ours if name == layout.bridge]


def warnings() -> list[str]:
    """Sentences about what on this machine may keep the hosts from reaching each other."""
    switch = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if not switch.exists() or switch.read_text().strip() != "1":
        return []
    listing = subprocess.run(
        ["nft", "-j", "list", "chains"], capture_output=True, text=True, check=False
    )
    chains = [
        item["chain"]
        for item in json.loads(listing.stdout or "{}").get("nftables", [])
        if "chain" in item
    ]
    dropping = [
        chain
        for chain in chains
        if chain.get("hook") == "forward" and chain.get("policy") == "drop"
    ]
    return [
        f"table {chain['family']} {chain['table']} drops forwarded packets and"
        " net.bridge.bridge-nf-call-iptables is 1: the machine's firewall sees, and may drop, what"
        " the hosts of the lab send each other"
        for chain in dropping
        if chain["family"] in ("ip", "inet")
    ]


def _link(name: str) -> dict[str, Any] | None:
    done = subprocess.run(
        ["ip", "-j", "link", "show", "dev", name], capture_output=True, text=True, check=False
    )
    found: list[dict[str, Any]] = json.loads(done.stdout) if done.returncode == 0 else []
    return found[0] if found else None


def _json(*arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run(["ip", "-4", "-j", *arguments] if arguments[0] == "route" else ["ip", "-j", *arguments],
                          capture_output=True, text=True, check=True)  # fmt: skip
    result: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return result


def _batch(*lines: str) -> None:
    done = subprocess.run(
        ["ip", "-batch", "-"], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OperationFailed(
            f"cannot set up the lab's network: {done.stderr.strip()} (ip {'; ip '.join(lines)})"
        )

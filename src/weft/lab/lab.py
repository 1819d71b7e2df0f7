"""The lab as a whole: up, down, status. Each works in whatever state the last call left the lab.

    up     check the machine → bridge → hosts → daemons → swarm and image → ready      adds what is missing, leaves the rest alone
    down   processes → cables, bridge → control groups → files                         ignores what is missing

If `up` fails or is interrupted on a machine without a lab, it removes what it began.
"""

import fcntl
import os
import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from weft.errors import Conflict, FailedPrecondition, Forbidden, WeftError
from weft.lab import cgroups, daemons, demo_image, hosts, swarm, underlay
from weft.lab.layout import MAX_NODES, Host, Layout
from weft.lab.processes import Process, load
from weft.lab.progress import Progress
from weft.system.files import make_missing
from weft.system.trees import remove_tree

IMAGE_ARCHIVE = Path("/var/cache/weft/demo-webapp.tar")
_PROGRAMS = {
    "ip": "iproute2",
    "tini": "tini",
    "mount": "mount",
    "hostname": "hostname",
    "nft": "nftables",
    "conmon": "conmon",
    "runc": "runc",
    "skopeo": "skopeo",
}
"""Programs that a lab needs, and Debian's packages of them."""
_SEARCH_PATH = f"{os.environ.get('PATH', '')}:{demo_image.PATH}"


@dataclass(frozen=True)
class HostStatus:
    host: Host
    init: Process | None
    daemon: Process | None
    swarm: str
    """The node's state in the swarm, as its daemon reports it; empty if the daemon does not
    answer."""
    role: str
    """`manager` or `worker`, while the host is part of a swarm."""


def up(
    layout: Layout,
    count: int | None,
    progress: Progress,
    *,
    managers: int = 1,
    image: bool = True,
    command: Sequence[str] = daemons.COMMAND,
) -> None:
    """Brings up a swarm of `count` hosts, by default as many as there are, or three; the first
    `managers` of them are managers. Raises `WeftError`; passes `KeyboardInterrupt` on."""
    with _alone(layout):
        _check_machine(image)
        existing = node_numbers(layout)
        count = _count(existing, count)
        if managers > count:
            raise FailedPrecondition(f"cannot make {managers} managers of {count} nodes")
        try:
            _up(layout, layout.nodes(count), managers, progress, image, command)
        except BaseException:
            if not existing:
                progress.say("taking back what was begun")
                with _uninterrupted():
                    _down(layout)
            raise


def boot(layout: Layout, nodes: list[Host]) -> None:
    """Boots the bridge, the hosts and the client, without daemons."""
    underlay.up(layout)
    everyone = [*nodes, layout.client]
    for host in everyone:
        if load(host.record) is None:
            hosts.halt(layout, host)
            hosts.boot(layout, host, everyone)


def reboot(layout: Layout, host: Host, command: Sequence[str] = daemons.COMMAND) -> None:
    """Kills every process on the host, empties its /run and keeps its disk; then boots it and
    starts its daemon."""
    halt(layout, host)
    everyone = [*(layout.node(number) for number in node_numbers(layout)), layout.client]
    hosts.boot(layout, host, everyone)
    daemons.start(layout, host, command)


def halt(layout: Layout, host: Host) -> None:
    """Does the first half of `reboot`; `up` does the other."""
    hosts.halt(layout, host)
    shutil.rmtree(host.run, ignore_errors=True)
    make_missing(host.run, 0o755)  # marks that this host exists


def down(layout: Layout, progress: Progress) -> None:
    with _alone(layout), _uninterrupted(), progress.step("taking the lab down"):
        _down(layout)


def status(layout: Layout) -> list[HostStatus]:
    """The status of all hosts, the client last; empty if there is no lab."""
    names = [layout.node(number) for number in node_numbers(layout)]
    return [_status(host) for host in [*names, layout.client]] if names else []


def find(layout: Layout, name: str) -> Host:
    """The node with that name. Raises `FailedPrecondition` if the lab has none."""
    for number in node_numbers(layout):
        if layout.node(number).name == name:
            return layout.node(number)
    raise FailedPrecondition(f"cannot find {name}: the lab has no such node (weft lab status)")


def node_numbers(layout: Layout) -> list[int]:
    """The number K of every nodeK that was begun, from its files."""
    found = {
        match[1]
        for path in layout.run.glob("node*")
        if (match := re.match(r"node(\d+)(\.init)?$", path.name))
    }
    return sorted(map(int, found))


def _up(
    layout: Layout,
    nodes: list[Host],
    managers: int,
    progress: Progress,
    image: bool,
    command: Sequence[str],
) -> None:
    if image:
        _build_image(progress)
    with progress.step(f"{len(nodes)} hosts: namespaces, mounts, cables"):
        boot(layout, nodes)
    with progress.step("daemons"):
        for host in nodes:
            daemons.start(layout, host, command)
        swarm.wait_for_daemons(nodes)
    with progress.step("swarm: node1 begins it, the others join"):
        swarm.form(nodes, managers)
    if image:
        with progress.step(f"image {swarm.IMAGE}"):
            swarm.load_image(nodes, IMAGE_ARCHIVE)
    for warning in underlay.warnings():
        progress.say(f"warning: {warning}")


def _down(layout: Layout) -> None:
    for host in [*map(layout.node, _all_numbers(layout)), layout.client]:
        hosts.halt(layout, host)
        hosts.erase(host)
    for link in underlay.links(layout):
        underlay.unplug(link)
    cgroups.remove(layout.cgroup)
    for directory in (layout.run, layout.data):
        with suppress(OSError):
            remove_tree(directory)
        with suppress(
            OSError
        ):  # /run/weft and /var/lib/weft go too, unless a daemon of the machine itself uses them
            directory.parent.rmdir()


def _all_numbers(layout: Layout) -> list[int]:
    """The number of every node that has left a trace: a file, a control group, a cable."""
    traces = set(node_numbers(layout))
    for hierarchy in cgroups.hierarchies():
        for path in (hierarchy.path / layout.cgroup).glob("node*"):
            traces.add(int(path.name.removeprefix("node")))
    for link in underlay.links(layout):
        if match := re.search(r"-n(\d+)$", link):
            traces.add(int(match[1]))
    return sorted(traces)


def _status(host: Host) -> HostStatus:
    daemon = load(host.daemon_record)
    state = role = ""
    if daemon is not None:
        with suppress(WeftError):
            state, role = swarm.membership(host)
    return HostStatus(host, load(host.record), daemon, state, role if state == "active" else "")


def _count(existing: list[int], wanted: int | None) -> int:
    count = wanted or max(existing, default=3)
    if not 1 <= count <= MAX_NODES:
        raise FailedPrecondition(
            f"cannot make a lab of {count} nodes: it may have 1 to {MAX_NODES}"
        )
    if count < max(existing, default=0):
        raise Conflict(
            f"cannot make a lab of {count} nodes: there is one with {max(existing)}; `weft lab"
            " down` first"
        )
    return count


def _check_machine(image: bool) -> None:
    """`image`: whether the demo image is wanted; nothing is begun if it cannot be built."""
    if os.geteuid():
        raise Forbidden("cannot make a lab: that needs root")
    needed = _PROGRAMS | (demo_image.PACKAGES if image else {})
    missing = [program for program in needed if shutil.which(program, path=_SEARCH_PATH) is None]
    if missing:
        raise FailedPrecondition(
            f"cannot make a lab: {', '.join(missing)} not installed: apt-get install"
            f" --no-install-recommends {' '.join(needed[program] for program in missing)}"
        )
    if not cgroups.hierarchies():
        raise FailedPrecondition("cannot make a lab: this machine has no control groups mounted")


def _build_image(progress: Progress) -> None:
    if not demo_image.is_current(IMAGE_ARCHIVE):
        with progress.step("building the demo image (once)"):
            demo_image.build(IMAGE_ARCHIVE)


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    """Allows one `up` or `down` at a time. The lock is on a directory that exists anyway, so
    nothing is left behind."""
    descriptor = os.open(layout.run.parents[1], os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                "cannot change the lab: another `weft lab up` or `down` is running"
            ) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignores signals, so that a second Ctrl-C does not stop the clean-up half-way."""
    old = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)

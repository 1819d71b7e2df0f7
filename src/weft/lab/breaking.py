"""Makes one of the faults of `breaks.py` in the running lab, for somebody to find, and takes it
back.

The caller is on node3, the server on node2, the manager is node1. Both services are made when they
are missing. What was broken is written down, so that another command can take it back.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import msgspec

from weft.api.client import wait_until
from weft.errors import FailedPrecondition, InvalidArgument, OperationFailed
from weft.lab.breaks import APP, FAULTS, NETWORK, PORT, WEB, Fault, Role, Space, filled
from weft.lab.layout import Layout
from weft.lab.swarm import IMAGE
from weft.lab.typed import typed
from weft.model.addresses import mac_for
from weft.system.files import replace_file

HOSTS: Mapping[Role, str] = {
    "manager": "node1", "web": "node2", "app": "node3", "client": "client"
}  # fmt: skip
SERVICES: Mapping[Role, str] = {"web": WEB, "app": APP}
SECONDS = 30


class Record(msgspec.Struct, frozen=True):
    """What is broken, and what takes it back, on which host."""

    name: str
    host: str
    undo: tuple[tuple[str, ...], ...]


def make(layout: Layout, name: str) -> Fault:
    """Raises `InvalidArgument` for an unknown name, `FailedPrecondition` if something is broken
    already."""
    if name not in FAULTS:
        raise InvalidArgument(
            f"cannot break {name}: there is no such fault; weft lab break lists them"
        )
    if broken(layout) is not None:
        raise FailedPrecondition(
            "cannot break anything more: something is broken; weft lab break --undo takes it back"
        )
    prepare()
    fault, words = FAULTS[name], _words()
    commands, undoing = (
        [filled(command, words) for command in some] for some in (fault.commands, fault.undo)
    )
    host, where = HOSTS[fault.host], _inside(fault.host, fault.space)
    record = Record(name, host, tuple(_typed(where, line) for line in undoing))
    replace_file(_file(layout), msgspec.json.encode(record), mode=0o600, durable=False)
    # In one go: what is Weft's is mended while we would type the next line.
    all_at_once = " && ".join(map(_quoted, commands)) if fault.undo else "; ".join(commands)
    try:
        _run(host, [*where, "sh", "-c", all_at_once])
    except OperationFailed:
        if fault.undo:
            undo(layout)
            raise
    return fault


def broken(layout: Layout) -> Fault | None:
    """What is broken at the moment."""
    record = _read(layout)
    return FAULTS[record.name] if record is not None else None


def undo(layout: Layout) -> Fault:
    """Raises `FailedPrecondition` if nothing is broken."""
    record = _read(layout)
    if record is None:
        raise FailedPrecondition("cannot undo: nothing is broken by weft lab break")
    _file(layout).unlink()
    for argv in record.undo:
        _run(record.host, list(argv))
    return FAULTS[record.name]


def prepare() -> None:
    """The network and both services, running."""
    made = {
        NETWORK: ["docker", "network", "create", "-d", "overlay", "--subnet", "10.90.0.0/24", NETWORK],
        WEB: _service(WEB, "web", "-p", f"{PORT}:80"),
        APP: _service(APP, "app"),
    }  # fmt: skip
    for name, argv in made.items():
        kind = "network" if name == NETWORK else "service"
        if typed("node1", ["docker", kind, "inspect", name]).returncode:
            _run("node1", argv)
    for role, name in SERVICES.items():
        wait_until(_runs(role), f"a running task of {name} on {HOSTS[role]}", SECONDS)


def _service(name: str, role: Role, *more: str) -> list[str]:
    where = f"node.hostname=={HOSTS[role]}"
    words = ["docker", "service", "create", "-q", "--no-resolve-image", "--name", name]
    return [*words, "--network", NETWORK, "--constraint", where, *more, IMAGE]


def _runs(role: Role) -> Callable[[], bool]:
    return lambda: bool(_address(role))


def _address(role: Role) -> str:
    """The container's on the network; empty if it has none yet."""
    form = f'{{{{with index .NetworkSettings.Networks "{NETWORK}"}}}}{{{{.IPAddress}}}}{{{{end}}}}'
    container = _container(role)
    done = typed(HOSTS[role], ["docker", "inspect", "-f", form, container])
    return done.stdout.strip() if container and not done.returncode else ""


def _container(role: Role) -> str:
    label = f"label=com.docker.swarm.service.name={SERVICES[role]}"
    return typed(HOSTS[role], ["docker", "ps", "-q", "--filter", label]).stdout.strip()


def _words() -> dict[str, str]:
    """The addresses that commands name."""
    web, app = (IPv4Address(_address(role)) for role in SERVICES)
    return {"address": str(web), "mac": mac_for(web), "sender": mac_for(app)}


def _typed(where: Sequence[str], line: str) -> tuple[str, ...]:
    return (*where, *shlex.split(line))


def _quoted(line: str) -> str:
    return shlex.join(shlex.split(line))


def _inside(role: Role, space: Space) -> list[str]:
    host = HOSTS[role]
    if space == "host":
        return []
    if space == "network":
        id = _said(host, ["docker", "network", "ls", "-q", "--no-trunc", "-f", f"name={NETWORK}"])
        return ["nsenter", f"--net=/run/docker/netns/1-{id[:10]}"]
    form = "{{.State.Pid}}"
    return ["nsenter", "-n", "-t", _said(host, ["docker", "inspect", "-f", form, _container(role)])]


def _said(host: str, argv: list[str]) -> str:
    return _run(host, argv).strip()


def _run(host: str, argv: list[str]) -> str:
    done = typed(host, argv)
    if done.returncode:
        raise OperationFailed(
            f"cannot run {shlex.join(argv)} on {host}: {done.stdout.strip()[-300:]}"
        )
    return done.stdout


def _file(layout: Layout) -> Path:
    return layout.run / "broken.json"


def _read(layout: Layout) -> Record | None:
    try:
        return msgspec.json.decode(_file(layout).read_bytes(), type=Record)
    except FileNotFoundError:
        return None

"""Devices that a container asks a driver for, and what they change in the document for the OCI
runtime. The only driver is `cdi`, whose devices files describe (`cdi_files.py`); none has
capabilities, so `--gpus` finds none, as in Docker on a host without NVIDIA's runtime.

A file may name programs that the OCI runtime runs as root of the host (hooks). Only root may write
such files, so a hook is as good as its file; but it runs near the container's own files and
environment. docs/decisions/0040 has what follows from that."""

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from weft.errors import InvalidArgument, OperationFailed, Unsupported, cause_of, clip
from weft.model.device_request import DeviceRequest
from weft.runtime.cdi_files import (
    DIRECTORIES,
    CdiFile,
    CdiMount,
    ContainerEdits,
    DeviceNode,
    Found,
    Hook,
    find,
    mode_of,
)

Document = dict[str, Any]
_DRIVER = "cdi"
_HOOK = "createContainer"
"""The only hook that is run: it makes links and caches of libraries in the container's file system
before its program starts."""
_HOOK_PATIENCE = 20
"""Seconds; less than those of the OCI runtime."""
_HOOK_PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
_MOST_CAUSES = 3


class Injected(msgspec.Struct, frozen=True):
    """What all requests of a container come to, in order."""

    edits: tuple[ContainerEdits, ...] = ()


NOTHING = Injected()


def injected(
    requests: Sequence[DeviceRequest], directories: Sequence[Path] = DIRECTORIES
) -> Injected:
    """Looks at the host's files. Raises `OperationFailed` or `InvalidArgument` with Docker's texts
    for a device that there is no driver or no description for, `Unsupported` for a description that
    wants what Weft does not do."""
    for request in requests:
        _check(request)
    names = list(dict.fromkeys(name for request in requests for name in request.ids))
    if not names:
        return NOTHING
    found = find(directories)
    missing = [name for name in names if name not in found.devices]
    if missing:
        raise OperationFailed(_unresolvable(missing, found))
    edits, files = list[ContainerEdits](), list[CdiFile]()
    for name in names:
        file, device = found.devices[name]
        general = [] if file in files else [file.container_edits]
        files.append(file)
        for each in (*general, device.container_edits):
            _check_edits(name, each)
            edits.append(each)
    return Injected(tuple(edits))


def _check(request: DeviceRequest) -> None:
    if request.driver != _DRIVER:
        sets = " ".join(f"[{' '.join(each)}]" for each in request.capabilities)
        raise OperationFailed(
            f'could not select device driver "{clip(request.driver)}" with capabilities:'
            f" [{clip(sets)}]"
        )
    if request.count:
        raise InvalidArgument("unexpected count in CDI device request")
    if request.options:
        raise InvalidArgument("unexpected options in CDI device request")


def _unresolvable(missing: Sequence[str], found: Found) -> str:
    """Docker's text, and why a device may be missing."""
    text = f"CDI device injection failed: unresolvable CDI devices {clip(', '.join(missing))}"
    causes = found.causes[:_MOST_CAUSES]
    return "; ".join((text, *causes))


def _check_edits(name: str, edits: ContainerEdits) -> None:
    for field, value in (("intelRdt", edits.intel_rdt), ("netDevices", edits.net_devices)):
        if value:
            raise Unsupported(f"CDI device {name}: {field} is not supported by Weft")
    for hook in edits.hooks:
        if hook.hook_name != _HOOK:
            raise Unsupported(
                f"CDI device {name}: the hook {hook.hook_name} ({hook.path}) is not supported by"
                f" Weft, which runs hooks of the kind {_HOOK} only"
            )
        _check_program(name, hook)


def _check_program(name: str, hook: Hook) -> None:
    """Raises `OperationFailed` for a program that others than root could change."""
    try:
        status = os.stat(hook.path)
    except OSError as error:
        raise OperationFailed(
            f"CDI device {name}: cannot run the hook {hook.path}: {cause_of(error)}"
        ) from error
    if not stat.S_ISREG(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
        raise OperationFailed(
            f"CDI device {name}: cannot run the hook {hook.path}: it is no program that only root"
            " can write"
        )


# --- the document


def edited(document: Document, given: Injected) -> Document:
    """The container's document with what its devices change. Raises `OperationFailed` for a device
    node that this host does not have."""
    for edits in given.edits:
        process, linux = document["process"], document["linux"]
        process["env"] = _with_variables(process["env"], edits.env)
        groups = process["user"]["additionalGids"]
        process["user"]["additionalGids"] = [
            *groups, *(gid for gid in edits.additional_gids if gid and gid not in groups)
        ]  # fmt: skip
        nodes = [_node(node) for node in edits.device_nodes]
        linux["devices"] = _replaced(linux["devices"], nodes, "path")
        rules = [_rule(node, given) for node, given in zip(nodes, edits.device_nodes, strict=True)]
        linux["resources"]["devices"] = [*linux["resources"]["devices"], *filter(None, rules)]
        mounts = _replaced(document["mounts"], map(_mount, edits.mounts), "destination")
        document["mounts"] = sorted(mounts, key=_depth) if edits.mounts else mounts
        if edits.hooks:
            hooks = document.setdefault("hooks", {}).setdefault(_HOOK, [])
            hooks += [_hook(hook) for hook in edits.hooks]
    return document


def _with_variables(env: Sequence[str], added: Sequence[str]) -> list[str]:
    lines = {line.partition("=")[0]: line for line in env}
    return list((lines | {line.partition("=")[0]: line for line in added}).values())


def _replaced(old: Iterable[Document], new: Iterable[Document], key: str) -> list[Document]:
    """Of two with the same key the later one, in its place."""
    added = {each[key]: each for each in new}
    return [*(each for each in old if each[key] not in added), *added.values()]


def _depth(mount: Document) -> int:
    """So that none hides another one below it."""
    destination: str = mount["destination"]
    return os.path.normpath(destination).count("/")


def _node(node: DeviceNode) -> Document:
    """Fills in from the host's node what the file does not say, but for the owner, who is root then,
    as in Docker. A link is not followed. Raises `OperationFailed`."""
    source = node.host_path or node.path
    is_whole = node.type == "p" or (node.type and node.major)
    status = None
    try:
        status = os.lstat(source)
    except OSError as error:
        if not is_whole:
            raise OperationFailed(
                f'CDI device injection failed: failed to stat CDI host device "{source}":'
                f" {cause_of(error)}"
            ) from error
    kind = node.type or _kind(status, source)
    if not is_whole and kind != _kind(status, source):
        raise OperationFailed(
            f'CDI device injection failed: host device "{source}" is not of type {kind}'
        )
    mode = mode_of(node)
    if mode is None and status is not None:
        mode = stat.S_IMODE(status.st_mode)
    found: Document = {"path": node.path, "type": kind}
    if kind != "p":
        takes = status is not None and not node.major
        found["major"] = os.major(status.st_rdev) if takes and status else node.major
        found["minor"] = os.minor(status.st_rdev) if takes and status else node.minor
    others = {"fileMode": mode, "uid": node.uid, "gid": node.gid}
    return found | {name: value for name, value in others.items() if value is not None}


def _kind(status: os.stat_result | None, source: str) -> str:
    mode = 0 if status is None else status.st_mode
    for kind, test in (("b", stat.S_ISBLK), ("c", stat.S_ISCHR), ("p", stat.S_ISFIFO)):
        if test(mode):
            return kind
    raise OperationFailed(
        f'CDI device injection failed: failed to stat CDI host device "{source}": not a device node'
    )


def _rule(node: Document, given: DeviceNode) -> Document | None:
    if node["type"] not in ("b", "c"):
        return None
    access = given.permissions or "rwm"
    numbers = {"major": node["major"], "minor": node["minor"]}
    return {"allow": True, "type": node["type"], "access": access} | numbers


def _mount(mount: CdiMount) -> Document:
    return {
        "destination": mount.container_path,
        "source": mount.host_path,
        "options": list(mount.options),
    } | ({"type": mount.type} if mount.type else {})


def _hook(hook: Hook) -> Document:
    """With an environment of its own in any case: without one the OCI runtime would give it the
    container's, which the image chooses, and with it the program's loader (CVE-2025-23266)."""
    return {
        "path": hook.path,
        "args": list(hook.args) or [hook.path],
        "env": list(hook.env) or [_HOOK_PATH],
        "timeout": min(hook.timeout or _HOOK_PATIENCE, _HOOK_PATIENCE),
    }

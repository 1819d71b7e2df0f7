"""The program that mounts and unmounts the file system of a volume. It is a process of its own, so
that a file server that does not answer blocks nobody else: the daemon kills the program.

Run by `volume_mounts.py`, by this file's path and without the rest of Weft, which makes it start in
a few milliseconds. It reads the request from the variable `WEFT_MOUNT`, as JSON, since options may
have a password in them and every user may read a command line. It writes one line of JSON.

    {"verb": "mount", "target", "type", "device", "options"} -> {"empty": true} or {"error": …}
    {"verb": "look", "target"}                               -> {"empty": true} or {"error": …}
    {"verb": "unmount", "target"}                            -> {} or {"error": …}

`empty` says that the mounted directory is empty. The words of options are those of mount(8); the
rules are Docker's (moby/sys `mount`, and `volume/local/local_unix.go` for addresses).
"""

import ctypes
import json
import os
import socket
import sys
from urllib.parse import unquote, urlsplit

_MS_BIND, _MS_RDONLY, _MS_REMOUNT, _MS_REC = 0x1000, 1, 32, 16384
_MNT_DETACH = 2
_FLAGS = {
    "defaults": (False, 0), "ro": (False, 1), "rw": (True, 1), "suid": (True, 2), "nosuid": (False, 2),
    "dev": (True, 4), "nodev": (False, 4), "exec": (True, 8), "noexec": (False, 8), "sync": (False, 16),
    "async": (True, 16), "remount": (False, _MS_REMOUNT), "mand": (False, 64), "nomand": (True, 64), "dirsync": (False, 128),
    "noatime": (False, 1024), "atime": (True, 1024), "nodiratime": (False, 2048), "diratime": (True, 2048),
    "bind": (False, _MS_BIND), "rbind": (False, _MS_BIND | _MS_REC), "relatime": (False, 1 << 21),
    "norelatime": (True, 1 << 21), "strictatime": (False, 1 << 24), "nostrictatime": (True, 1 << 24),
    "unbindable": (False, 1 << 17), "runbindable": (False, 1 << 17 | _MS_REC), "private": (False, 1 << 18),
    "rprivate": (False, 1 << 18 | _MS_REC), "slave": (False, 1 << 19), "rslave": (False, 1 << 19 | _MS_REC),
    "shared": (False, 1 << 20), "rshared": (False, 1 << 20 | _MS_REC),
}  # fmt: skip
"""For each word: whether it clears the flag, and the flag of mount(2)."""
_PROPAGATION = 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)


def parsed(options: str) -> tuple[int, str]:
    """(flags, data for the file system)."""
    flags, data = 0, []
    for word in filter(None, options.split(",")):
        if word in _FLAGS:
            clears, flag = _FLAGS[word]
            flags = flags & ~flag if clears else flags | flag
        else:
            data.append(word)
    return flags, ",".join(data)


def resolved(kind: str, device: str, options: str) -> tuple[str, str]:
    """Device and options with an address in place of a server's name, which the kernel does not
    look up. Raises `OSError`."""
    if kind not in ("nfs", "nfs4", "cifs"):
        return device, options
    for word in options.split(","):
        name, _, value = word.partition("=")
        if name == "addr" and value:
            return device, options.replace(word, f"addr={_address(value)}", 1)
    host = urlsplit(device).netloc if kind == "cifs" else ""
    if host:
        device = unquote(device.replace(host, _address(host), 1))
    return device, options


def _address(name: str) -> str:
    found = socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)
    return str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])


def mount(device: str, target: str, kind: str, options: str) -> None:
    """Raises `OSError`."""
    device, options = resolved(kind, device, options)
    flags, data = parsed(options)
    _mount(device, target, kind, flags & ~_PROPAGATION, data)
    if flags & _PROPAGATION:
        _mount("", target, "", flags & (_PROPAGATION | _MS_REC), "")
    # The kernel ignores all other flags of a bind mount, until it is mounted anew.
    if flags & _MS_BIND and flags & _MS_RDONLY:
        _mount("", target, "", (flags & ~_PROPAGATION) | _MS_REMOUNT, data)


def _mount(device: str, target: str, kind: str, flags: int, data: str) -> None:
    words = [text.encode(errors="surrogateescape") for text in (device, target, kind, data)]
    if _libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unmount(target: str) -> None:
    """No mount is no error. Raises `OSError`."""
    while _libc.umount2(os.fsencode(target), _MNT_DETACH) == 0:
        pass


def main() -> dict[str, object]:
    request = json.loads(os.environ.pop("WEFT_MOUNT"))
    target = request["target"]
    try:
        if request["verb"] == "unmount":
            unmount(target)
            return {}
        if request["verb"] == "mount":
            mount(request["device"], target, request["type"], request["options"])
        with os.scandir(target) as entries:
            return {"empty": next(entries, None) is None}
    except OSError as error:
        return {"error": str(error.args[1] if len(error.args) > 1 else error).lower()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()) + "\n")

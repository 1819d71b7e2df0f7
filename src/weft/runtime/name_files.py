"""/etc/hosts and /etc/resolv.conf of a container that runs, when it has come to a network or left
one.

The container sees the files through mounts, so they are written in place. Its programs may have
changed them: what they have written stays."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

LARGEST = 1 << 20
"""Bytes: a file that a container has made larger is left as it is."""


def renewed_hosts(text: bytes, old: str, new: str) -> bytes:
    """The text without the lines that only `old` has, followed by those that only `new` has."""
    before = Counter(old.encode().splitlines(keepends=True))
    now = Counter(new.encode().splitlines(keepends=True))
    gone, come = before - now, now - before
    kept = []
    for line in text.splitlines(keepends=True):
        if gone[line]:
            gone[line] -= 1
        else:
            kept.append(line)
    if kept and not kept[-1].endswith(b"\n"):
        kept[-1] += b"\n"
    return b"".join((*kept, *come.elements()))


def renewed_resolv_conf(text: bytes, old: str, new: str) -> bytes:
    return new.encode() if text == old.encode() else text


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Raises `OSError`."""
    with open(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "r+b") as file:
        text = file.read(LARGEST + 1)
        changed = change(text)
        if len(text) <= LARGEST and changed != text:
            file.seek(0)
            file.write(changed)
            file.truncate()

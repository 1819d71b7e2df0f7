"""Image references: `name`, `name:tag`, `name@digest`, in the short form that users type and the
full form of registries."""

import re

from weft.errors import InvalidArgument, clip

MAX_NAME = 255
"""Docker Swarm's limit (distribution/reference)."""
MAX_REFERENCE = MAX_NAME + 1 + 128 + 1 + 71
"""Includes the longest tag and a digest."""

_PATTERN = re.compile(
    r"(?P<name>(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


def parse(reference: str) -> tuple[str, str, str]:
    """(familiar name, tag, digest) of a reference. The tag is `latest` if neither is given; else
    either may be empty. Raises `InvalidArgument`."""
    match = _PATTERN.fullmatch(reference) if len(reference) <= MAX_REFERENCE else None
    if not match:
        raise InvalidArgument(f"invalid reference format: {clip(reference)!r}")
    if len(match["name"]) > MAX_NAME:
        raise InvalidArgument(f"repository name must not be more than {MAX_NAME} characters")
    name, tag, digest = match["name"], match["tag"] or "", match["digest"] or ""
    return familiar(name), tag or ("" if digest else "latest"), digest


def familiar(name: str) -> str:
    """The name without `docker.io/` and `library/`."""
    return name.removeprefix("index.docker.io/").removeprefix("docker.io/").removeprefix("library/")


def qualified(name: str) -> str:
    """The name with the registry's host: `busybox` is `docker.io/library/busybox`."""
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"

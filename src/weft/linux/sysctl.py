"""Kernel parameters below /proc/sys of the calling thread's network namespace, by dotted name. For
another namespace, use them through `netns`."""

import re
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/proc/sys")
_SWAP = str.maketrans("./", "/.")
_FORWARDING = "net.ipv6.conf.all.forwarding"
_KINDS = {"net.bridge": "0", "net.ipv6": "1"}
"""Groups of parameters that a kernel may lack, and the value to which their absence amounts."""
_IPV6_DEVICE = re.compile(r"net\.ipv6\.conf\.([^.]+)\.disable_ipv6")


def read(key: str) -> str | None:
    """Value of a parameter such as `net.ipv4.ip_forward`, runs of white space as one space; None if
    there is no such parameter (or interface)."""
    try:
        return " ".join(_path(key).read_text().split())
    except OSError:
        return None


def write(key: str, value: str) -> None:
    """Raises OSError."""
    if key == _FORWARDING and value != "0":
        _keep_announcements()
    with _path(key).open("w") as file:
        file.write(value)


def _keep_announcements() -> None:
    """Interfaces that take routers' announcements (`accept_ra` 1) do so only while they do not
    forward. With 2 they do so all the same (`ip-sysctl.rst`): a host that has its address and its
    default route from a router keeps them. To be called before the host begins to forward."""
    for directory in _path("net.ipv6.conf").glob("*"):
        accepts, forwards = directory / "accept_ra", directory / "forwarding"
        with suppress(OSError):  # the interface is gone
            is_host = accepts.read_text().strip() == "1" and forwards.read_text().strip() == "0"
            if is_host and directory.name not in ("all", "lo"):
                accepts.write_text("2")


def _path(key: str) -> Path:
    """Dots separate, and a slash stands for a dot in a name, as in sysctl(8)
    (`net.ipv4.conf.eth0/100.rp_filter`)."""
    return _ROOT / key.translate(_SWAP)


def when_absent(key: str) -> str | None:
    """The value to which the absence of a parameter amounts: without br_netfilter no bridge calls
    netfilter, without IPv6 it is disabled. IPv6 is disabled too on a device whose MTU is below
    1280, from which the kernel removes it (RFC 8200 section 5, `addrconf_notify`). None if the
    absence has no meaning, or the whole device is missing."""
    for kind, meaning in _KINDS.items():
        if key.startswith(f"{kind}.") and not _path(kind).exists():
            return meaning
    device = _IPV6_DEVICE.match(key)
    if device is None or _path(f"net.ipv6.conf.{device[1]}").exists():
        return None
    return _KINDS["net.ipv6"] if _path(f"net.ipv4.conf.{device[1]}").exists() else None

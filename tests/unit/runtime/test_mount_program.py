"""The options of a volume's mount: flags for the kernel, data for the file system, and addresses in
place of names."""

import pytest

from weft.runtime.mount_program import parsed, resolved


@pytest.mark.parametrize(
    ("options", "flags", "data"),
    [
        ("", 0, ""),
        ("ro,nosuid,nodev,noexec", 1 | 2 | 4 | 8, ""),
        ("ro,rw", 0, ""),
        ("rw,bind", 0x1000, ""),
        ("rbind,rslave", 0x1000 | 0x4000 | 1 << 19, ""),
        ("addr=10.0.0.1,nfsvers=4,soft,ro", 1, "addr=10.0.0.1,nfsvers=4,soft"),
        ("size=1m,,uid=5,defaults", 0, "size=1m,uid=5"),
        ("noatime,relatime", 1024 | 1 << 21, ""),
    ],
)
def test_options(options: str, flags: int, data: str) -> None:
    assert parsed(options) == (flags, data)


@pytest.mark.parametrize(
    ("kind", "device", "options", "expected"),
    [
        ("nfs", ":/x", "rw,addr=localhost,soft", (":/x", "rw,addr=127.0.0.1,soft")),
        ("nfs", ":/x", "addr=10.0.0.1", (":/x", "addr=10.0.0.1")),
        ("nfs", "server:/x", "nfsvers=4", ("server:/x", "nfsvers=4")),
        ("cifs", "//LOCALHOST/my%20files", "user=a", ("//127.0.0.1/my files", "user=a")),
        ("cifs", "//far/x", "addr=localhost", ("//far/x", "addr=127.0.0.1")),
        ("tmpfs", "tmpfs", "addr=localhost", ("tmpfs", "addr=localhost")),
    ],
)
def test_names_of_servers(kind: str, device: str, options: str, expected: tuple[str, str]) -> None:
    assert resolved(kind, device, options) == expected

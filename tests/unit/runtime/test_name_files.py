"""/etc/hosts and /etc/resolv.conf of a running container whose networks change."""

from pathlib import Path

import pytest

from weft.runtime.name_files import LARGEST, renewed_hosts, renewed_resolv_conf, rewrite

HEAD = "127.0.0.1\tlocalhost\n"
ONE, TWO = "10.0.0.1\tbox\n", "10.0.0.2\tbox\n"


@pytest.mark.parametrize(
    ("text", "old", "new", "renewed"),
    [
        (HEAD + ONE, HEAD + ONE, HEAD + ONE + TWO, HEAD + ONE + TWO),
        (HEAD + ONE + TWO, HEAD + ONE + TWO, HEAD + TWO, HEAD + TWO),
        (HEAD + ONE + "1.2.3.4 mine\n", HEAD + ONE, HEAD + TWO, HEAD + "1.2.3.4 mine\n" + TWO),
        ("1.2.3.4 mine", HEAD + ONE, HEAD + TWO, "1.2.3.4 mine\n" + TWO),
        (HEAD + ONE + ONE, HEAD + ONE + ONE, HEAD + ONE, HEAD + ONE),
        ("", HEAD + ONE, HEAD, ""),
    ],
)
def test_only_the_lines_of_the_networks_change(text: str, old: str, new: str, renewed: str) -> None:
    assert renewed_hosts(text.encode(), old, new) == renewed.encode()


def test_name_servers_that_the_container_has_chosen_stay() -> None:
    assert renewed_resolv_conf(b"nameserver 1\n", "nameserver 1\n", "x\n") == b"x\n"
    assert renewed_resolv_conf(b"nameserver 7\n", "nameserver 1\n", "x\n") == b"nameserver 7\n"


def test_the_file_itself_is_written_but_no_large_one_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"much longer than it will be")
    inode = path.stat().st_ino
    rewrite(path, lambda text: b"short")
    assert (path.read_bytes(), path.stat().st_ino) == (b"short", inode)
    path.write_bytes(bytes(LARGEST + 1))
    rewrite(path, lambda text: b"short")
    assert path.stat().st_size == LARGEST + 1
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic"):
        rewrite(link, lambda text: b"short")

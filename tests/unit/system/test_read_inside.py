"""Files in a tree that somebody else writes, who may do anything there at any time."""

import ctypes
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.system.trees import NotRegularError, read_file_inside

LIMIT = 1000
INSIDE, OUTSIDE = b"what is inside", b"what is outside"
RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(autouse=True)
def _never_waits() -> Iterator[None]:
    """A test that waits for a writer fails instead."""

    def too_late(_number: int, _frame: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(OUTSIDE)
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "passwd").write_bytes(INSIDE)
    return tmp_path / "root"


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def make_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


OTHERS: dict[str, Callable[[Path], None]] = {
    "a FIFO": os.mkfifo,
    "a directory": Path.mkdir,
    "a socket": make_socket,
    "a file without end": make_huge,
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link out of the root": lambda path: path.symlink_to("../../secret"),
    "a link to a path of the host": lambda path: path.symlink_to(path.parents[2] / "secret"),
    "a link out and back": lambda path: path.symlink_to("../../../../../root/etc/nothing"),
    "a magic link": lambda path: path.symlink_to("/proc/self/exe"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_nothing_but_a_regular_file_of_the_tree_is_read(root: Path, kind: str) -> None:
    OTHERS[kind](root / "etc" / "other")
    with pytest.raises(OSError):  # which one depends on the kind
        read_file_inside(root, "/etc/other", LIMIT)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a device")
def test_a_device_is_not_opened(root: Path) -> None:
    """This one would be told from its content: nothing."""
    os.mknod(root / "etc" / "null", 0o020666, os.makedev(1, 3))
    with pytest.raises(NotRegularError, match="it is a device, not a regular file"):
        read_file_inside(root, "/etc/null", LIMIT)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_magic_link_of_a_mounted_proc_is_not_followed(root: Path) -> None:
    (root / "proc").mkdir()
    (root / "etc" / "other").symlink_to(f"/proc/{os.getpid()}/root{root.parent}/secret")
    script = 'mount -t proc proc $1/proc; shift; exec "$@"'
    program = (
        "import sys; from weft.system.trees import read_file_inside;"
        " print(read_file_inside(*sys.argv[1:3], 9))"
    )
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            script,
            "sh",
            root,
            sys.executable,
            "-c",
            program,
            root,
            "/etc/other",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "OSError: [Errno 40] Too many levels of symbolic links" in done.stderr
    assert done.stdout == ""


def test_links_are_followed_as_the_trees_own_programs_would(root: Path) -> None:
    (root / "usr").symlink_to("/etc")
    (root / "etc" / "link").symlink_to("../../../usr/passwd")
    assert read_file_inside(root, "/etc/link", LIMIT) == INSIDE


WORDS = st.lists(st.sampled_from(["a", "b", "c", "..", ".", "d"]), min_size=1).map("/".join)


@given(
    links=st.dictionaries(st.sampled_from("abc"), WORDS, max_size=3),
    absolute=st.booleans(),
    path=WORDS,
)
def test_no_path_leads_out_of_the_root(
    tmp_path_factory: pytest.TempPathFactory, links: dict[str, str], absolute: bool, path: str
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    root = outside / "a"
    root.mkdir()
    for name in "bcd":
        (outside / name).write_bytes(OUTSIDE)
    (root / "d").write_bytes(INSIDE)
    for name, target in links.items():
        (root / name).symlink_to(f"/{target}" if absolute else target)
    try:
        assert read_file_inside(root, path, LIMIT) == INSIDE
    except OSError:
        return


def test_a_file_is_read_to_its_limit_and_not_beyond(root: Path) -> None:
    assert read_file_inside(root, "/etc/passwd", len(INSIDE)) == INSIDE
    with pytest.raises(OSError, match="it is larger than 13 bytes") as caught:
        read_file_inside(root, "/etc/passwd", len(INSIDE) - 1)
    assert caught.value.errno == errno.EFBIG


def test_a_lease_is_not_waited_for(root: Path) -> None:
    """The kernel would give its holder up to /proc/sys/fs/lease-break-time seconds."""
    with (root / "etc" / "passwd").open("rb+") as file:
        before = signal.signal(signal.SIGIO, signal.SIG_IGN)
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            with pytest.raises(BlockingIOError):
                read_file_inside(root, "/etc/passwd", LIMIT)
        finally:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            signal.signal(signal.SIGIO, before)


@contextmanager
def exchanged(one: Path, other: Path) -> Iterator[None]:
    """One takes the place of the other, without a pause."""
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            assert (
                _libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), RENAME_EXCHANGE)
                == 0
            )

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("kind", OTHERS)
def test_what_changes_while_it_is_read_is_read_or_refused(root: Path, kind: str) -> None:
    """Until both have been seen, so the test has met the moment between."""
    OTHERS[kind](root / "etc" / "other")
    found = 0
    refused = 0
    with exchanged(root / "etc" / "passwd", root / "etc" / "other"):
        while found + refused < 500 or not (found and refused):
            try:
                assert read_file_inside(root, "/etc/passwd", LIMIT) == INSIDE
                found += 1
            except OSError:
                refused += 1


def test_a_directory_that_changes_into_a_link_out_is_never_followed(root: Path) -> None:
    outside = root.parent / "etc"
    outside.mkdir()
    (outside / "passwd").write_bytes(OUTSIDE)
    (root / "other").symlink_to("../etc")
    with exchanged(root / "etc", root / "other"):
        for _ in range(500):
            try:
                assert read_file_inside(root, "/etc/passwd", LIMIT) == INSIDE
            except OSError:
                continue

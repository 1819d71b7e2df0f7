"""Network namespaces as files: make, list, enter and remove them.

A namespace is named by a file on which it is mounted, as `ip netns` and Docker do it. The namespace
lives as long as the file, even if this process ends. `setns` and `unshare` move one thread. So a
visit to a namespace is one short function on a thread of the event loop's pool, which is brought
back before it does anything else; or on a thread of its own where there is no loop. (A new thread
waits for its first turn much longer than one that has slept: tenths of a second on a busy host.)
Sockets opened there stay in the namespace and may be used from everywhere.
"""

import asyncio
import ctypes
import os
import re
import signal
import socket
import threading
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Generic, TypeVar

from weft.errors import OperationFailed, cause_of
from weft.system.files import make_missing

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)

OWN_NAMES = re.compile(r"1-[0-9a-z]{10}|lb_[0-9a-z]{9}|ingress_sbox|esp_sbox|[0-9a-f]{12}")
"""Names of the namespaces that we make: for an overlay network, its load balancer, the routing
mesh, the ESP engine, a sandbox."""


def is_own_name(name: str) -> bool:
    return OWN_NAMES.fullmatch(name) is not None


class _Visit(threading.Thread, Generic[T]):
    """A thread that runs one function."""

    def __init__(self, function: Callable[[], T]) -> None:
        super().__init__(name="netns", daemon=True)
        self._function = function
        self._result: T
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result


def run_on_thread(function: Callable[[], T]) -> T:
    """Runs the function on a thread of its own and gives its result. Blocks."""
    visit = _Visit(function)
    visit.start()
    visit.join()
    return visit.result()


async def on_thread(function: Callable[[], T]) -> T:
    """Runs the function, which may move its thread to other namespaces, on a thread of the loop's
    pool. When cancelled, it waits for the function to end, so that no effect is left half done."""
    ended = threading.Event()

    def visit() -> T:
        try:
            return there_and_back(function)
        finally:
            ended.set()

    running = asyncio.get_running_loop().run_in_executor(None, visit)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        ended.wait()
        raise


def there_and_back(function: Callable[[], T]) -> T:
    """Runs the function, then brings the calling thread back to the namespace where it was."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return function()
    finally:
        if _libc.setns(home, _CLONE_NEWNET) != 0:
            # The kernel knows no reason for that. Whatever this thread did next it would do in a
            # foreign namespace; another daemon goes on where this one stops.
            os.kill(os.getpid(), signal.SIGKILL)
        os.close(home)


def enter(namespace: int) -> None:
    """Moves the calling thread, which must be one of `on_thread`'s or `run_on_thread`'s, into the
    namespace of the descriptor."""
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise _os_error("setns")


def inside(namespace: int, function: Callable[[], T]) -> Callable[[], T]:
    """Wraps the function to run in the namespace of the descriptor."""

    def entered() -> T:
        enter(namespace)
        return function()

    return entered


def inside_file(path: Path, function: Callable[[], T]) -> Callable[[], T]:
    """Wraps the function to run in the namespace of the file. Raises OperationFailed."""

    def entered() -> T:
        try:
            namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise OperationFailed(
                f"cannot enter network namespace {path}: {cause_of(error)}"
            ) from error
        try:
            enter(namespace)
        finally:
            os.close(namespace)
        return function()

    return entered


def run_in(path: Path, function: Callable[[], T]) -> T:
    """Runs one short function in the namespace of the file. Blocks."""
    return run_on_thread(inside_file(path, function))


def run_in_throwaway(function: Callable[[], T]) -> T:
    """Runs one short function in a new namespace, which nobody else sees and which ends with the
    function. Blocks. Raises OSError."""

    def unshared() -> T:
        _unshare()
        return function()

    return run_on_thread(unshared)


def create(path: Path, function: Callable[[], T], prepare: Callable[[], None] = lambda: None) -> T:
    """`create_here` on a thread of its own. Blocks."""
    return run_on_thread(lambda: create_here(path, function, prepare))


def create_here(
    path: Path, function: Callable[[], T], prepare: Callable[[], None] = lambda: None
) -> T:
    """Makes a namespace and the file that names it, then runs the function inside; the calling
    thread, which must be one of `on_thread`'s, is there afterwards. On failure nothing stays.

    `prepare` runs inside before the namespace has its file, so that nobody ever finds an unprepared
    one. A file that names no live namespace (an empty one that outlived a reboot) is replaced.
    """
    make_missing(path.parent, 0o755)
    if not is_live(path):
        remove(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    os.close(descriptor)

    try:
        _unshare()
        prepare()
        if (
            _libc.mount(b"/proc/thread-self/ns/net", os.fsencode(path), b"none", _MS_BIND, None)
            != 0
        ):
            raise _os_error("mount")
        return function()
    except BaseException:
        remove(path)
        raise


def remove(path: Path) -> None:
    """Removes the file, and the namespace unless a process or socket is still in it. Does nothing
    if both are gone."""
    # Repeat, since a crash between two attempts leaves a mount over a mount.
    while _libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
        pass
    path.unlink(missing_ok=True)


def is_live(path: Path) -> bool:
    """Whether the file names a namespace."""
    return identity(path) is not None


def identity(path: Path) -> int | None:
    """The number of the namespace that the file names, unique among living ones; None if it names
    none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino if found.st_dev == os.stat("/proc/self/ns/net").st_dev else None


def names(directory: Path) -> list[str]:
    """Names of all our live namespaces in the directory, sorted."""
    try:
        found = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(name for name in found if is_own_name(name) and is_live(directory / name))


async def open_udp_tcp(
    path: Path, address: IPv4Address, port: int
) -> tuple[socket.socket, socket.socket]:
    """Opens a bound UDP socket and a listening TCP socket for a DNS resolver in the namespace of
    the file, both non-blocking, without blocking the loop."""
    target = (str(address), port)

    def opened() -> tuple[socket.socket, socket.socket]:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            datagrams.bind(target)
            stream.bind(target)
            stream.listen(128)
            datagrams.setblocking(False)
            stream.setblocking(False)
        except OSError:
            datagrams.close()
            stream.close()
            raise
        return datagrams, stream

    try:
        return await on_thread(inside_file(path, opened))
    except OSError as error:
        raise OperationFailed(
            f"cannot listen on {address}:{port} in network namespace {path}: {cause_of(error)}"
        ) from error


async def open_socket(
    path: Path | None, family: socket.AddressFamily, kind: socket.SocketKind
) -> socket.socket:
    """Opens a non-blocking socket in the namespace of the file, without blocking the loop; with
    None, in the current namespace. Raises OperationFailed."""

    def opened() -> socket.socket:
        made = socket.socket(family, kind)
        made.setblocking(False)
        return made

    if path is None:
        return opened()
    try:
        return await on_thread(inside_file(path, opened))
    except OSError as error:
        raise OperationFailed(
            f"cannot open a socket in network namespace {path}: {cause_of(error)}"
        ) from error


def _unshare() -> None:
    if _libc.unshare(_CLONE_NEWNET) != 0:
        raise _os_error("unshare")


def _os_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")

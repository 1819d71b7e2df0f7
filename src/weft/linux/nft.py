"""nftables as text: through libnftables by ctypes, or through the `nft` command where the library
cannot be loaded.

An `Nft` opens its socket in the namespace of the thread that makes it, and looks interfaces up in
the namespace of the thread that uses it: make and use one through `netns`. Closing one right after
a table was deleted waits until the kernel has forgotten the table. That takes ten to twenty
milliseconds, where a transaction takes less than one: close it later. But close it: it holds a
megabyte. The library keeps parser state in globals, so transactions run one at a time. It waits
for its socket with select(2), whose sets end at descriptor 1023, and glibc ends a process that goes
beyond: a process that has so many descriptors open uses the command. Errors carry nft's own
message.
"""

import ctypes
import os
import subprocess
import threading
from collections.abc import Collection
from contextlib import suppress

from weft.errors import OperationFailed, cause_of
from weft.network.kernel_state import Table
from weft.network.nft import Object, objects
from weft.network.render.table import text

_OUTPUT_STATELESS, _OUTPUT_TERSE = 1 << 2, 1 << 11
_ONE_AT_A_TIME = threading.Lock()
_SELECTABLE = 1024 - 64
"""The library may be used for a socket below this descriptor: FD_SETSIZE, less what other threads
may open in between."""


def load_library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError:
        return None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_ctx_free.restype = None
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_ctx_output_set_flags.restype = None
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("output", "error"):
        getattr(library, f"nft_ctx_buffer_{name}").argtypes = [ctypes.c_void_p]
        getattr(library, f"nft_ctx_get_{name}_buffer").argtypes = [ctypes.c_void_p]
        getattr(library, f"nft_ctx_get_{name}_buffer").restype = ctypes.c_char_p
    return library


LIBRARY = load_library()


class Nft:
    """nftables of one namespace. Every method raises OperationFailed with nft's message."""

    def __init__(self, library: ctypes.CDLL | None = LIBRARY) -> None:
        """Without a library, every transaction runs the command."""
        if library is not None and _next_descriptor() >= _SELECTABLE:
            library = None
        self._library = library
        self._context = None
        if library is not None:
            self._context = library.nft_ctx_new(0)
            library.nft_ctx_buffer_output(self._context)
            library.nft_ctx_buffer_error(self._context)

    def replace(self, table: Table, there: Collection[Object] | None = None) -> str:
        """Writes the whole table in one transaction, whether or not it exists. Gives its frame
        afterwards. `there`: the objects that it has in the kernel, if known.

        Objects that stay are emptied and filled again, never removed. A transaction is atomic for
        each chain that a packet enters, but not for the packet. If a chain is removed and another
        takes its place, a packet between two hooks can miss both, and go where no rule sent it (one
        new connection of some thousands, for each transaction)."""
        if there is None:
            with suppress(OperationFailed):
                there = objects(self.frame(table.family, table.name))
        body = text(table)
        if there and (script := _rewriting(table, body, there)):
            with suppress(OperationFailed):
                self.run(script)
                return self.frame(table.family, table.name)
        self.run(f"{_removing(table.family, table.name)}{_adding(table, body)}")
        return self.frame(table.family, table.name)

    def remove(self, family: str, name: str) -> None:
        """Removes a table. Adding it first avoids the error for a missing table."""
        self.run(_removing(family, name))

    def listing(self, family: str, name: str) -> str:
        """The table without counters and other state, as nft prints it."""
        return self.run(f"list table {family} {name}\n")

    def frame(self, family: str, name: str) -> str:
        """The listing without the elements of sets."""
        return self.run(f"list table {family} {name}\n", _OUTPUT_STATELESS | _OUTPUT_TERSE)

    def run(self, script: str, output: int = _OUTPUT_STATELESS) -> str:
        """Carries out a script as one transaction. Gives its output."""
        with _ONE_AT_A_TIME:
            return (
                _run_command(script, output)
                if self._library is None
                else self._run(self._library, script, output)
            )

    def _run(self, library: ctypes.CDLL, script: str, output_flags: int) -> str:
        library.nft_ctx_output_set_flags(self._context, output_flags)
        failed = library.nft_run_cmd_from_buffer(self._context, script.encode())
        # Reading a buffer empties it, so both are read whatever happened.
        output: bytes = library.nft_ctx_get_output_buffer(self._context) or b""
        error: bytes = library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            raise OperationFailed(_cause(error))
        return output.decode(errors="replace")

    def close(self) -> None:
        """May wait for the kernel (see the top of this file): not on the event loop."""
        if self._library is not None and self._context is not None:
            self._library.nft_ctx_free(self._context)
        self._context = None


def _next_descriptor() -> int:
    descriptor = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.close(descriptor)
    return descriptor


def _removing(family: str, name: str) -> str:
    return f"add table {family} {name}\ndelete table {family} {name}\n"


def _adding(table: Table, body: str) -> str:
    return f"table {table.family} {table.name} {{\n{body}\n}}\n"


def _rewriting(table: Table, body: str, there: Collection[Object]) -> str:
    """A script that keeps the table; empty if an object changes its kind or type under the same
    name."""
    head, wanted, known = f"{table.family} {table.name}", objects(body), frozenset(there)
    new, gone = wanted - known, known - wanted
    if {thing.name for thing in new} & {thing.name for thing in gone}:
        return ""
    sets = [f"{thing.kind} {head} {thing.name}" for thing in known if thing.kind != "chain"]
    # Chains last, when no map refers to them any more.
    last = sorted(gone, key=lambda thing: thing.kind == "chain")
    return "".join(
        (
            f"flush table {head}\n",
            *(f"flush {each}\n" for each in sets),
            _adding(table, body),
            *(f"delete {thing.kind} {head} {thing.name}\n" for thing in last),
        )
    )


def _run_command(script: str, output: int) -> str:
    terse = ["--terse"] if output & _OUTPUT_TERSE else []
    try:
        done = subprocess.run(
            ["nft", "--stateless", *terse, "-f", "-"],
            input=script.encode(),
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise OperationFailed(f"cannot run nft: {cause_of(error)}") from error
    if done.returncode != 0:
        raise OperationFailed(_cause(done.stderr))
    return done.stdout.decode(errors="replace")


def _cause(message: bytes) -> str:
    """nft's message, which has several lines: the first names the error, the second quotes the
    place."""
    lines = message.decode(errors="replace").strip().splitlines()
    return "; ".join(line.strip() for line in lines[:2]) or "nftables failed without a message"

"""What the rest of the program needs of a kernel. `linux/kernel.py` is the real one, `testing/fake_kernel.py` one that behaves."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from weft.network.kernel_state import KernelState
from weft.network.operations import Operation


class Kernel(Protocol):
    async def read(self, desired: KernelState, only: Iterable[str] | None = None) -> KernelState:
        """The actual state of all our namespaces: HOST, and every file below the namespace directory that we made and whose
        namespace lives; with `only`, of those of them that it names. `desired` tells which sysctls to read (those it
        mentions, per namespace) and which tables to look for."""
        ...

    async def apply(self, operations: Sequence[Operation]) -> None:
        """In order. What is already so counts as done. Raises `OperationFailed` that names the first operation that failed
        and why; those before it stay done, independent ones after it are still tried."""
        ...

    async def changed(self) -> set[str]:
        """Waits until something changed in one of our namespaces (by us or by others), then gives the names of all that
        did since the last call. A change within 50 ms of the first is in the same set."""
        ...

    async def close(self) -> None:
        """Let go of sockets; the kernel's state stays."""
        ...

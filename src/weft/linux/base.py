"""What the rest of the program needs of a kernel. `linux/kernel.py` is the real one,
`linux/fake.py` one that behaves."""

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

from weft.model.encryption import Protection
from weft.network.kernel_state import KernelState
from weft.network.operations import Operation


class Kernel(Protocol):
    async def read(self, desired: KernelState, only: Iterable[str] | None = None) -> KernelState:
        """The actual state of all our namespaces: HOST, and every file below the namespace
        directory that we made and whose namespace lives; with `only`, of those of them that it
        names. `desired` tells which sysctls to read (those it mentions, per namespace) and which
        tables to look for."""
        ...

    async def apply(self, operations: Sequence[Operation]) -> None:
        """In order. What is already so counts as done. Raises `OperationFailed` that names the
        first operation that failed and why; those before it stay done, independent ones after it
        are still tried."""
        ...

    async def changed(self) -> set[str]:
        """Waits until something changed in one of our namespaces (by us or by others), then gives
        the names of all that did since the last call. A change within 50 ms of the first is in the
        same set."""
        ...

    async def close(self) -> None:
        """Let go of sockets; the kernel's state stays."""
        ...


class EspEngine(Protocol):
    """What seals the traffic of encrypted networks: the kernel's own IPsec, or a process of ours
    beside it. Same packets.

    The engine holds keys and packets; which traffic is steered to it, and that none passes it by,
    are rules of the plan."""

    @property
    def name(self) -> Literal["kernel", "userspace"]: ...

    async def apply(self, protection: Protection | None) -> None:
        """Makes it so, from whatever was before; None: seals and opens nothing, and nothing of it
        is left. Returns when the associations are in force. An association that goes on keeps its
        sequence number. Raises `OperationFailed`."""
        ...

    async def counters(self) -> dict[str, int]:
        """Packets by what became of them: `sealed`, `opened`, `replayed`, `malformed`, `forged`,
        `unknown_spi`, `wrong_vni`, `no_association`, …"""
        ...

    async def close(self) -> None:
        """Let go; sealing and opening go on without the daemon."""
        ...

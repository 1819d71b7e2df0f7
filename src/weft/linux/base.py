"""The Protocols by which the rest of the program uses a kernel. `linux/kernel.py` is the real
kernel, `linux/fake.py` one in memory that behaves like it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from weft.model.encryption import Protection
from weft.model.flows import TrackedChange
from weft.network.kernel_state import KernelState
from weft.network.operations import Operation
from weft.network.trace.host import Host


class LinkTraffic(NamedTuple):
    """What a network device has counted since it was made (`struct rtnl_link_stats64`)."""

    received_packets: int
    sent_packets: int
    received_bytes: int
    sent_bytes: int
    receive_errors: int
    send_errors: int
    receive_dropped: int
    send_dropped: int


class Kernel(Protocol):
    async def read(self, desired: KernelState, only: Iterable[str] | None = None) -> KernelState:
        """The actual state of our namespaces: HOST, and every file below the namespace directory
        that we made and whose namespace lives. `only`: read only the namespaces with these names.
        `desired` tells which sysctls to read (those that it mentions, per namespace) and which
        tables to look for."""
        ...

    async def apply(self, operations: Sequence[Operation]) -> None:
        """Applies the operations in order. An operation whose goal is reached already counts as
        done. Raises `OperationFailed`, which names the first operation that failed and why.
        Operations before it stay done; independent ones after it are still tried."""
        ...

    async def changed(self) -> set[str]:
        """Waits until something changed in one of our namespaces (by us or by others). Gives the
        names of all namespaces that changed since the last call, including those that change within
        50 ms of the first."""
        ...

    async def traffic(self) -> Mapping[str, Mapping[str, LinkTraffic]]:
        """What the VXLAN devices have carried, by namespace and device; without namespaces that
        have none. Raises `OperationFailed`."""
        ...

    async def carried(self, spaces: Iterable[str]) -> Mapping[str, Mapping[str, LinkTraffic]]:
        """What all devices of these namespaces have carried, by namespace and device; without
        namespaces that do not exist. Raises `OperationFailed`."""
        ...

    async def survey(self, whole: Iterable[str], known: Host | None = None) -> Host:
        """What packets meet in our namespaces now, for `network.trace.walk`: of the namespaces
        `whole` everything, of the others the interfaces. `known`: an earlier survey, to which the
        namespaces are added. Names that are not ours, or no longer exist, are left out. Changes
        nothing."""
        ...

    async def close(self) -> None:
        """Closes the sockets; the kernel's state stays."""
        ...


class EspEngine(Protocol):
    """Encrypts and decrypts the traffic of encrypted networks: the kernel's own IPsec, or a process
    of Weft's beside it. Both send the same packets.

    The engine holds keys and packets. Rules of the plan steer traffic to it and see to it that none
    passes it by."""

    @property
    def name(self) -> Literal["kernel", "userspace"]: ...

    async def apply(self, protection: Protection | None) -> None:
        """Brings `protection` into force, whatever was in force before. With None, nothing is
        encrypted or decrypted, and nothing of the engine is left. Returns when the associations are
        in force. An association that stays keeps its sequence number. Raises `OperationFailed`."""
        ...

    async def counters(self) -> dict[str, int]:
        """Number of packets by their fate: `sealed`, `opened`, `replayed`, `malformed`, `forged`,
        `unknown_spi`, `wrong_vni`, `no_association`, …"""
        ...

    async def close(self) -> None:
        """Disconnects; the engine works on without the daemon."""
        ...


class PacketTap(Protocol):
    """Copies of the packets of one interface, from its opening on."""

    async def read(self) -> bytes:
        """At least one packet, as records (`model/capture.py`). Raises `OperationFailed` if the
        interface is gone or down."""
        ...

    @property
    def is_waiting(self) -> bool:
        """Whether there is nothing to read now."""
        ...

    def dropped(self) -> int:
        """The packets that were lost since the last call, because `read` came too late."""
        ...

    def close(self) -> None: ...


class ConnectionWatch(Protocol):
    """Changes of the connections that one namespace tracks, from its opening on."""

    async def read(self) -> Sequence[TrackedChange] | None:
        """At least one change; None if some were lost, because `read` came too late. Raises
        `OperationFailed`."""
        ...

    def close(self) -> None: ...

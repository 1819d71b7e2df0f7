"""The packet path of the engine: the device, the raw socket, and a sealer (encrypts) and an opener
(decrypts) on threads of their own.

With the C helper each direction has a thread; without it both share one. A data path is made for
one local address and one VXLAN port; for others, the engine makes a new one. This file has threads
and descriptors, `weft/esp/` has the decisions, and keys are wherever the packets are.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address
from typing import NamedTuple

from weft.errors import OperationFailed, cause_of
from weft.esp.gateway import Opener, Sealer
from weft.esp.packet import PROTOCOL
from weft.esp.sequence import Block
from weft.linux.esp.helper import HelperOpener, HelperSealer
from weft.linux.esp.pump import Pump, PythonTurn
from weft.linux.esp.tap import MAC, Tap
from weft.model.addresses import Port, Vni
from weft.model.encryption import Association, IcvBits

_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER = 16 << 20
"""Octets. Packets to dead peers wait here for their neighbour entry; packets to other peers must
still have room."""
_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT = 10, 0
_STACK = 1 << 20
"""Octets. The stacks are locked in memory, so this is less than the usual eight MiB."""


class Change(NamedTuple):
    """The step from one set of associations to the next. Associations that are not named here keep
    their numbers and windows."""

    vnis: Mapping[Vni, IcvBits]
    outbound_gone: Iterable[Association]
    outbound_new: Iterable[tuple[Association, Block]]
    inbound_gone: Iterable[Association]
    inbound_new: Iterable[Association]


class Datapath:
    def __init__(
        self,
        local: IPv4Address,
        port: Port,
        tap: Tap,
        with_helper: bool,
        low: int,
        broken: Callable[[], None],
    ) -> None:
        """`tap` is closed with the data path, or if that cannot be made. `low`: an eventfd, written
        when an association is short of numbers. `broken`: called from a thread when packets no
        longer pass. Raises `OperationFailed`."""
        threading.stack_size(_STACK)
        self._tap = tap
        try:
            self._raw = _raw_socket(local)
        except OperationFailed:
            self._tap.close()
            raise
        self._sealer: Sealer | HelperSealer
        self._opener: Opener | HelperOpener
        if with_helper:
            self._start_helper(local, port, low, broken)
        else:
            self._start_python(local, port, low, broken)

    def _start_helper(
        self, local: IPv4Address, port: Port, low: int, broken: Callable[[], None]
    ) -> None:
        tap, raw = self._tap.fd, self._raw.fileno()
        sealer = self._sealer = HelperSealer(local, port, self._tap.header, low)
        opener = self._opener = HelperOpener(local, port, self._tap.header, MAC)
        self._seals = Pump("seal", lambda wake: sealer.run(tap, raw, wake), broken)
        self._opens = Pump("open", lambda wake: opener.run(tap, raw, wake), broken)
        self._seals.start()
        self._opens.start()

    def _start_python(
        self, local: IPv4Address, port: Port, low: int, broken: Callable[[], None]
    ) -> None:
        sealer, opener = self._sealer, self._opener = Sealer(local, port), Opener(local, port)
        self._seals = self._opens = Pump(
            "esp", PythonTurn(sealer, opener, self._tap.fd, self._raw, low), broken
        )
        self._seals.start()

    def set_mtu(self, mtu: int) -> None:
        """Sets the device's MTU. Raises `OperationFailed`."""
        self._tap.set_mtu(mtu)

    def change(self, change: Change) -> None:
        """Changes inbound associations first: a peer that sees a key in use may use it at once."""
        self._opens.do(lambda: self._change_inbound(change))
        self._seals.do(lambda: self._change_outbound(change))

    def _change_inbound(self, change: Change) -> None:
        for association in change.inbound_gone:
            self._opener.remove(association)
        for association in change.inbound_new:
            self._opener.add(association)
        self._opener.set_vnis(change.vnis)

    def _change_outbound(self, change: Change) -> None:
        for association in change.outbound_gone:
            self._sealer.remove(association)
        for association, block in change.outbound_new:
            self._sealer.add(association, block)
        self._sealer.set_vnis(change.vnis)

    def low(self) -> list[Association]:
        """The associations that soon need a further block."""
        return self._seals.do(self._sealer.low)

    def extend(self, blocks: Mapping[Association, Block]) -> None:
        self._seals.do(
            lambda: [
                self._sealer.extend(association, block) for association, block in blocks.items()
            ]
        )

    def counters(self) -> dict[str, int]:
        sealed, opened = self._sealer.counters(), self._opener.counters()
        return {name: count + opened[name] for name, count in sealed.items()}

    def close(self) -> None:
        """Stops the threads and closes all descriptors; the device stays."""
        for pump in {self._seals, self._opens}:
            pump.stop()
        for half in (self._sealer, self._opener):
            if isinstance(half, HelperSealer | HelperOpener):
                half.close()
        self._raw.close()
        self._tap.close()


def _raw_socket(local: IPv4Address) -> socket.socket:
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, PROTOCOL)
    except OSError as error:
        raise OperationFailed(f"cannot open a raw socket for ESP: {cause_of(error)}") from error
    try:
        raw.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
        raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        # As for VXLAN itself: on a path with a smaller MTU, packets are fragmented and not dropped.
        raw.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
        raw.bind((str(local), 0))
    except OSError as error:
        raw.close()
        raise OperationFailed(
            f"cannot bind a raw socket for ESP to {local}: {cause_of(error)}"
        ) from error
    return raw


def what_is_missing() -> list[str]:
    """A sentence for everything that keeps this host from running the engine, found by trying
    it."""
    missing = []
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        missing.append(
            f"cannot use TAP devices (CONFIG_TUN): cannot open /dev/net/tun: {cause_of(error)}"
        )
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL).close()
    except OSError as error:
        missing.append(f"cannot open a raw socket for ESP: {cause_of(error)}")
    return missing

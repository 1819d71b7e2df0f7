"""Sends IP packets that were made by hand, from a network namespace (raw(7), IP_HDRINCL): they pass
the rules and routes of the namespace as those of a program do."""

import socket
from ipaddress import IPv4Address
from pathlib import Path

from weft.errors import OperationFailed, cause_of
from weft.linux import netns


class RawSender:
    """Implements `engine.adapters.Sender`. Must be closed."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened

    def send(self, packet: bytes, destination: IPv4Address) -> None:
        """Raises `OperationFailed` if the kernel does not send it."""
        try:
            self._socket.sendto(packet, (str(destination), 0))
        except OSError as error:
            raise OperationFailed(
                f"cannot send a packet to {destination}: {cause_of(error)}"
            ) from error

    def close(self) -> None:
        self._socket.close()


async def open_sender(namespace: Path | None) -> RawSender:
    """`namespace`: its file; None for the host's. Raises `OperationFailed`."""

    def opened() -> socket.socket:
        return socket.socket(
            socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW
        )

    try:
        if namespace is None:
            return RawSender(opened())
        return RawSender(await netns.on_thread(netns.inside_file(namespace, opened)))
    except OSError as error:
        raise OperationFailed(f"cannot send packets: {cause_of(error)}") from error

"""Asks the neighbours whether another host has an address of this one: an ARP probe (RFC 5227,
section 2.1.1), which changes nobody's table."""

import asyncio
import socket
import struct
from collections.abc import Collection
from contextlib import suppress
from ipaddress import IPv4Address

from weft.errors import OperationFailed, cause_of
from weft.linux.netlink import link
from weft.linux.netlink.socket import NetlinkSocket
from weft.model.addresses import MacAddress

ETH_P_ARP = 0x0806
_ARP = struct.Struct("!HHBBH6s4s6s4s")
"""hardware, protocol, their lengths, operation, sender's MAC and address, target's (RFC 826)"""
_ETHERNET, _IPV4, _REQUEST, _REPLY = 1, 0x0800, 1, 2
_BROADCAST, _NOBODY = b"\xff" * 6, bytes(6)
_LONGEST = 1514
ATTEMPTS = 2


async def rivals(device: str, address: IPv4Address, seconds: float) -> Collection[MacAddress]:
    """The MACs of others that answer for the address behind the host's interface. Raises
    `OperationFailed`."""
    found: set[MacAddress] = set()
    try:
        with socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ARP)
        ) as asking:
            asking.bind((device, ETH_P_ARP))
            await _ask(asking, address, seconds, found)
    except OSError as error:
        raise OperationFailed(f"cannot ask for {address}: {cause_of(error)}") from error
    return found


async def _ask(
    asking: socket.socket, address: IPv4Address, seconds: float, found: set[MacAddress]
) -> None:
    mac, own = asking.getsockname()[4], _own_macs()
    question = _ARP.pack(_ETHERNET, _IPV4, 6, 4, _REQUEST, mac, bytes(4), _NOBODY, address.packed)
    frame = _BROADCAST + mac + ETH_P_ARP.to_bytes(2, "big") + question
    for _ in range(ATTEMPTS):
        asking.send(frame)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds / ATTEMPTS):
                await _listen(asking, address, own, found)


async def _listen(
    asking: socket.socket, address: IPv4Address, own: set[bytes], found: set[MacAddress]
) -> None:
    """Until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        frame = await loop.sock_recv(asking, _LONGEST)
        if len(frame) < 14 + _ARP.size:
            continue
        _, _, _, _, operation, sender, source, _, _ = _ARP.unpack_from(frame, 14)
        if operation == _REPLY and source == address.packed and sender not in own:
            found.add(sender.hex(":"))


def _own_macs() -> set[bytes]:
    channel = NetlinkSocket()
    try:
        links = map(link.decode_link, channel.dump(*link.dump_links()))
        return {bytes.fromhex(info.mac.replace(":", "")) for info in links if info.mac}
    finally:
        channel.close()

"""The real engine on fakes: a kernel in memory, and a runtime and images that the caller chooses."""

import os
import socket
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

from weft.engine.adapters import EngineAdapters, NameAdapters, NetworkAdapters, Origin
from weft.engine.engine import Engine
from weft.linux.fake import FakeKernel
from weft.model.addresses import Port
from weft.model.encryption import Protection
from weft.runtime.base import Images, Runtime
from weft.runtime.fake_volumes import FakeVolumes


def engine_on_fakes(
    id: str, runtime: Runtime, images: Images, records: Path | None = None
) -> Engine:
    """`records`: where the node's own networks are kept."""
    return Engine(
        id,
        EngineAdapters(
            runtime=runtime,
            images=images,
            volumes=FakeVolumes(),
            network=NetworkAdapters(
                kernel=FakeKernel(),
                names=NameAdapters(open_resolver=nobody),
                esp=FakeEsp(),
                records=records,
            ),
            origin=Origin(clock=time.time_ns, entropy=os.urandom),
        ),
    )


class FakeEsp:
    """`linux.base.EspEngine` without packets."""

    name: Literal["kernel", "userspace"] = "userspace"

    def __init__(self) -> None:
        self.protection: Protection | None = None

    async def apply(self, protection: Protection | None) -> None:
        self.protection = protection

    async def counters(self) -> dict[str, int]:
        return {}

    async def close(self) -> None:
        """Has nothing open."""


async def nobody(
    path: Path, address: IPv4Address, port: Port
) -> tuple[socket.socket, socket.socket]:
    """Where a container would ask for names; nobody does."""
    udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
    for each in (udp, tcp):
        each.setblocking(False)
        each.bind(("127.0.0.1", 0))
    tcp.listen()
    return udp, tcp

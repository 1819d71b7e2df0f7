"""A manager's seat: what a node has for as long as it is a manager. A store, its place among the managers, the control loops, and
the listener for sessions.

Wiring only. The store and what belongs to it are opened by whoever takes the seat, and closed with it.
"""

import logging
import secrets
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from ipaddress import IPv4Network

from weft.cluster.identity import Member, Wallet
from weft.cluster.server import SessionServer
from weft.manager.authority import PkiAuthority
from weft.manager.manager import Manager
from weft.store.base import Leadership, Store
from weft.store.etcd.base import Kv

log = logging.getLogger(__name__)


class Seat:
    def __init__(self, manager: Manager, store: Store, closing: AsyncExitStack) -> None:
        self.manager = manager
        self.store = store
        self._closing = closing

    @classmethod
    async def take(
        cls, member: Member, wallet: Wallet, routes: Sequence[IPv4Network], store: Store, leadership: Leadership,
        kv: Kv | None = None, obstacle: str = "",
    ) -> "Seat":  # fmt: skip
        """`store` and `leadership` are the seat's from here on. All or nothing."""
        async with AsyncExitStack() as closing:
            closing.push_async_callback(store.close)
            closing.push_async_callback(leadership.close)
            manager = Manager(
                member.node, store, leadership, time.time_ns, secrets.token_bytes, PkiAuthority(), routes, kv, obstacle
            )  # fmt: skip
            await manager.start()
            closing.push_async_callback(manager.close)
            server = SessionServer(manager, member.cluster, wallet)
            await server.start(member.listen_address)
            closing.push_async_callback(server.close)
            return cls(manager, store, closing.pop_all())
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """The state stays as it is, and can still be read through `manager`."""
        await self._closing.aclose()

"""A node's part in a swarm while it lasts: its agent, and on a manager the store, the control loops and the session listener.

Wiring only. `found`, `enter` and `resume` are the three ways in, `leave` the way out; `close` stops everything and leaves containers,
networks and files as they are, so that the next daemon resumes where this one stopped.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import msgspec

from weft.agent.adapters import Adapters
from weft.agent.agent import Agent
from weft.agent.events import EventLog
from weft.api.backend import InitRequest, JoinRequest, Membership
from weft.cluster.base import AdmissionRequest, Connect
from weft.cluster.client import Connector, join
from weft.cluster.identity import Credentials, IdentityStore, Member, Wallet, new_key
from weft.manager.authority import PkiAuthority
from weft.manager.bootstrap import Founder, create_swarm
from weft.manager.manager import Manager
from weft.model.ids import NodeId
from weft.model.node import NodeDescription
from weft.model.sandbox import NodeFacts
from weft.pki import authority
from weft.seat import Seat
from weft.store.sole import SoleLeader
from weft.store.sqlite import SqliteStore

log = logging.getLogger(__name__)


Managers = tuple[tuple[NodeId, str], ...]
"""(id, host:port)"""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a member needs of the node around it."""

    data: Path
    """`<data root>/swarm`."""
    description: Callable[[], NodeDescription]
    facts: Callable[[NodeId, IPv4Address], NodeFacts]
    adapters: Callable[[Connect, Callable[[Managers], None]], Adapters]
    """The agent's, given how to reach a manager and whom to tell of new managers."""
    events: EventLog
    routes: Callable[[], Sequence[IPv4Network]]
    """Subnets that this host has routes to."""


class SwarmMember:
    def __init__(self, around: Surroundings, identity: IdentityStore, member: Member, credentials: Credentials) -> None:
        self._around = around
        self._identity = identity
        self._wallet = Wallet(credentials, identity.save_credentials)
        self._seat: Seat | None = None
        self._running: list[asyncio.Task[None]] = []
        self.member = member
        connect = Connector(self._wallet, self._manager_addresses)
        adapters = replace(
            around.adapters(connect, self._remember_managers),
            wallet=self._wallet,
            advertise_address=str(member.advertise_address),
        )
        facts = around.facts(member.node, member.data_path_address)
        self.agent = Agent(member.node, around.data / "agent", facts, adapters)
        self.agent.events = around.events

    # --- ways in

    @classmethod
    async def found(
        cls, around: Surroundings, request: InitRequest, advertise: IPv4Address, data_path: IPv4Address
    ) -> "SwarmMember":
        """A new swarm with this node as its manager. All or nothing."""
        port = request.listen_address.rpartition(":")[2]
        founder = Founder(
            description=around.description(), data_path_address=data_path, manager_address=f"{advertise}:{port}"
        )  # fmt: skip
        root = authority.root(new_key(), time.time_ns(), _serial())
        around.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = SqliteStore.open(around.data / "store.db", time.time_ns)
        try:
            cluster, node = await create_swarm(store, request, founder, root, PkiAuthority(), secrets.token_bytes)
            key = new_key()
            certificate = authority.issue(
                root, authority.request(key), node.id, "manager", cluster.id, time.time_ns(),
                cluster.spec.certificate_expiry, _serial(), (advertise,),
            )  # fmt: skip
            credentials = Credentials(certificate, authority.private_pem(key), root.certificate)
            member = Member(
                node=node.id, cluster=cluster.id, role="manager", advertise_address=advertise, data_path_address=data_path,
                listen_address=request.listen_address, managers=((node.id, founder.manager_address),),
            )  # fmt: skip
            identity = IdentityStore(around.data)
            identity.save(member, credentials)
        except BaseException:
            await store.close()
            IdentityStore(around.data).erase()
            raise
        swarm = cls(around, identity, member, credentials)
        try:
            await swarm._take_seat(store)
        except BaseException:
            await swarm.close()
            identity.erase()
            raise
        swarm._start_agent()
        return swarm

    @classmethod
    async def enter(
        cls, around: Surroundings, request: JoinRequest, advertise: IPv4Address, data_path: IPv4Address
    ) -> "SwarmMember":
        """Joins an existing swarm."""

        def ask(csr: str) -> AdmissionRequest:
            hostname = around.description().hostname
            return AdmissionRequest(
                token=request.token, csr=csr, hostname=hostname, data_path_address=data_path,
                availability=request.availability, advertise_address=str(advertise),
            )  # fmt: skip

        admitted, credentials = await join(request.remote_addresses, ask, request.token)
        member = Member(
            node=admitted.node, cluster=admitted.cluster, role=admitted.role, advertise_address=advertise,
            data_path_address=data_path, listen_address=request.listen_address, managers=admitted.managers,
        )  # fmt: skip
        identity = IdentityStore(around.data)
        identity.save(member, credentials)
        swarm = cls(around, identity, member, credentials)
        swarm._start_agent()
        return swarm

    @classmethod
    async def resume(cls, around: Surroundings) -> "SwarmMember | None":
        """The swarm that the last daemon on this data root was part of."""
        identity = IdentityStore(around.data)
        found = identity.load()
        if found is None:
            return None
        swarm = cls(around, identity, *found)
        if swarm.member.role == "manager":
            await swarm._take_seat(SqliteStore.open(around.data / "store.db", time.time_ns))
        swarm._start_agent()
        return swarm

    # --- life

    @property
    def manager(self) -> Manager | None:
        return self._seat.manager if self._seat is not None else None

    @property
    def membership(self) -> Membership:
        return Membership(
            state="active", node=self.member.node, address=str(self.member.advertise_address),
            is_manager=self.manager is not None, managers=self.member.managers,
        )  # fmt: skip

    async def failed(self) -> None:
        """Waits for as long as all is well; raises what ended a part that should not end."""
        done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task

    async def leave(self) -> None:
        """Out of the swarm: containers, networks and files of this membership are removed."""
        await self._stop_running()
        try:
            await self.agent.leave()
        finally:
            await self.close()
            self._identity.erase()

    async def close(self) -> None:
        await self._stop_running()
        if self._seat is not None:
            await self._seat.close()
            self._seat = None

    async def _take_seat(self, store: SqliteStore) -> None:
        self._seat = await Seat.take(
            self.member, self._wallet, self._around.routes(), store, SoleLeader(self.member.node)
        )  # fmt: skip
        self._start("events", self._pump_events(self._seat.manager))

    def _start_agent(self) -> None:
        self._start("agent", self.agent.run())

    def _start(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        self._running.append(asyncio.create_task(coroutine, name=name))

    async def _stop_running(self) -> None:
        running, self._running = self._running, []
        for task in running:
            task.cancel()
        for result in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("member.stopped cause=%r", result)

    async def _pump_events(self, manager: Manager) -> None:
        async for event in manager.events():
            self._around.events.add(event)

    def _manager_addresses(self) -> list[str]:
        return [address for _, address in self.member.managers]

    def _remember_managers(self, managers: Managers) -> None:
        if managers and managers != self.member.managers:
            self.member = msgspec.structs.replace(self.member, managers=managers)
            self._identity.save_member(self.member)


def _serial() -> int:
    """A certificate's serial number: positive, at most 20 octets (RFC 5280 section 4.1.2.2)."""
    return int.from_bytes(secrets.token_bytes(16), "big") | 1

"""The session with a manager: kept up for as long as the agent lives, with any of the managers.

Assignments come down, statuses go up. Only the newest status of each task matters: one update is
under way at a time, and later statuses go with the next. An update is repeated until the manager
says that it is committed. A new session begins with the statuses of all tasks, because another
manager may have accepted the last ones.

A manager whose host is gone says no goodbye. The agent asks the kernel of that host all the time
(`host_monitor.py`), and so soon learns from another manager where to send no connections."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from ipaddress import AddressValueError, IPv4Address
from typing import Protocol

from weft.agent.adapters import Adapters
from weft.agent.farewell import Farewells
from weft.agent.revocations import ManagerRevoked, RevocationWatch
from weft.errors import Forbidden, WeftError, described
from weft.model.assignment import AssignmentChange
from weft.model.ids import TaskId
from weft.model.meta import SECOND, Nanoseconds
from weft.model.sandbox import NodeFacts
from weft.model.task import TaskStatus
from weft.session.base import AgentSession, Echo, SessionClosed
from weft.session.credentials import EXPIRED, Renewal
from weft.session.host_monitor import HostMonitor
from weft.session.messages import (
    MAX_REPORT,
    MAX_ROUTES,
    MAX_STATUSES,
    AssignmentUpdate,
    FarewellTaken,
    FromManager,
    Goodbye,
    Heartbeat,
    Hello,
    IssuedCertificate,
    Managers,
    Publish,
    Renew,
    Revoked,
    StatusAccepted,
    StatusUpdate,
    Trust,
    Welcome,
)
from weft.system.supervision import lasting
from weft.system.waiting import first

log = logging.getLogger(__name__)

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 8.0
"""Seconds before the next attempt, as in Docker Swarm."""
BATCH = 0.005
"""Seconds that a first status waits for others."""
WELCOME_TIMEOUT = 10.0
"""Seconds from the agent's hello to the manager's answer."""
SILENT_PERIODS = 2
"""Heartbeats. Less than the manager's patience with the node: the agent needs time to find another
manager."""
ROUTES_PERIOD = 30.0
"""Seconds between two checks of the host's routes."""
MOST_BUSY = 0.005
"""Largest share of time that these checks may take."""
ACCEPT_TIMEOUT = 5.0
"""Seconds after which an update that was not accepted is sent again."""


class ManagerGone(SessionClosed):
    """The manager's host does not answer, so a goodbye would reach nobody."""


class NotApplied(SessionClosed):
    """A change of the assignment cannot be applied. The next session begins with the whole
    assignment."""


async def _no_preparation() -> None: ...


class Streams(Protocol):
    """See `streams.StreamPublisher`."""

    @property
    def kinds(self) -> tuple[str, ...]: ...

    def ask(self, publish: Publish) -> None: ...


class Uplink:
    def __init__(
        self,
        adapters: Adapters,
        facts: NodeFacts,
        statuses: Callable[[], Mapping[TaskId, TaskStatus]],
        apply: Callable[[AssignmentChange], None],
        reached: Callable[[], Awaitable[None]] = _no_preparation,
        streams: Streams | None = None,
    ) -> None:
        """`statuses` gives those of all tasks; `apply` takes over a change of the assignment;
        `reached` is awaited before the first message to a manager; `streams` publishes what a
        manager asks for, if this agent can."""
        self._adapters, self._managers = adapters, adapters.managers
        self._node = facts.node
        self._facts = facts
        self._statuses = statuses
        self._apply = apply
        self._reached = reached
        self._streams = streams
        self._renewal: Renewal | None = None
        own, origin = adapters.certificate, adapters.origin
        if own is not None:
            self._renewal = Renewal(
                own.credential_source,
                own.advertise_address,
                origin.clock,
                origin.entropy,
                own.changed,
            )
        self._revocations: RevocationWatch | None = None
        if adapters.managers.revocations is not None:
            self._revocations = RevocationWatch(adapters.managers.revocations, facts.node)
        self.farewells = Farewells()
        self._pending: dict[TaskId, TaskStatus] = {}
        self._all_accepted = asyncio.Event()
        self._some = asyncio.Event()
        self._accepted = asyncio.Event()
        self._numbers = itertools.count(1)
        self._awaited = 0
        self.connected = False
        self.error = ""
        """Why there is no session; empty while there is one."""
        self._was_expired = False
        self._closing: set[asyncio.Task[None]] = set()
        self.refused = False
        """A manager says that this node is no longer part of the cluster."""

    @property
    def trusted(self) -> str:
        """Fingerprint of the root certificate that this node trusts; empty where sessions use no
        certificates."""
        return self._renewal.trusted if self._renewal is not None else ""

    @property
    def expired(self) -> bool:
        """There is no session and can be none: the node's certificate has expired."""
        return not self.connected and self._renewal is not None and self._renewal.expired

    @property
    def expires(self) -> Nanoseconds | None:
        """When this node's certificate expires; None if it has none that can be used."""
        return self._renewal.expires if self._renewal is not None else None

    def renewal_is_late(self, fraction: float) -> bool:
        """Whether this part of the life of the node's certificate is over."""
        return self._renewal is not None and self._renewal.is_late(fraction)

    def report(self, task: TaskId, status: TaskStatus) -> None:
        self._pending[task] = status
        self._all_accepted.clear()
        self._some.set()

    async def all_accepted(self) -> None:
        """Waits until a manager has accepted the newest status of every task."""
        await self._all_accepted.wait()

    async def run(self) -> None:
        """Runs until cancelled, or until the node's last farewell was taken."""
        backoff = FIRST_BACKOFF
        while not self.farewells.is_last:
            if self._renewal is not None:
                self._renewal.begin()
            if self._revocations is not None:
                self._revocations.note_managers()
            try:
                session = await self._managers.connect()
                self.refused = False
                if await self._serve(session):
                    backoff = FIRST_BACKOFF
            except Forbidden as error:
                self.refused, self.error = True, str(error)
                log.warning("session.refused cause=%s", error)
            except WeftError as error:
                self.error = str(error)
                log.warning("session.failed cause=%s", error)
            except Exception as error:
                self.error = described(error)
                log.exception("session.failed")
            self.connected = False
            self._tell_expiry()
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, LAST_BACKOFF)

    def _tell_expiry(self) -> None:
        """Logs an expired certificate, once until there is a valid one: it may be replaced, or the
        clock may have been wrong."""
        before, self._was_expired = self._was_expired, self.expired
        if self._was_expired and not before:
            log.error("certificate.expired node=%s cause=%s", self._node, EXPIRED)

    async def _serve(self, session: AgentSession) -> bool:
        """Runs a session until its end. True if the manager welcomed this node and every assignment
        could be applied. A manager that cannot serve says goodbye at once."""
        adapters, managers, welcomed, gone = self._adapters, self._managers, False, False
        farewell = "agent ends the session"
        try:
            await self._reached()
            hello = Hello(
                node=self._node,
                description=adapters.description(),
                data_path_address=str(self._facts.data_path_address),
                routes=self._routes(),
                underlay_mtu=self._facts.underlay_mtu,
                trusted=self.trusted,
                epoch=managers.epoch(),
                ended=self._ended(),
                publishes=self._streams.kinds if self._streams is not None else (),
            )
            await session.send(hello)
            welcome = await _received(session, WELCOME_TIMEOUT)
            if not isinstance(welcome, Welcome):
                raise SessionClosed(_why(welcome))
            managers.check_epoch(welcome.epoch)
            welcomed = True
            managers.changed(welcome.managers)
            self._hear(Revoked(welcome.revoked))
            self.connected, self.error, self._was_expired = True, "", False
            log.info("session.open node=%s", self._node)
            await self._talk(session, welcome, hello.routes)
        except SessionClosed as error:
            self.error, gone = (
                str(error) or "session closed",
                isinstance(error, ManagerGone | ManagerRevoked),
            )
            if isinstance(error, NotApplied):
                welcomed, farewell = False, str(error)
            log.log(
                logging.INFO if gone else logging.WARNING, "session.closed cause=%s", self.error
            )
        finally:
            self.connected = False
            closing = asyncio.create_task(session.close(farewell))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            if not gone:
                await asyncio.shield(closing)
        return welcomed

    def _ended(self) -> tuple[tuple[TaskId, TaskStatus], ...]:
        """The newest statuses of ended tasks, as many as fit into one message."""
        found = [
            (task, status) for task, status in self._statuses().items() if status.state.is_terminal
        ]
        return tuple(reversed(report(reversed(found))))

    def _routes(self) -> tuple[str, ...]:
        return (str(self._facts.gateway.network), *self._adapters.routes())[:MAX_ROUTES]

    async def _talk(self, session: AgentSession, welcome: Welcome, routes: tuple[str, ...]) -> None:
        self._pending = dict(self._statuses())
        self._all_accepted.clear()
        self._some.set()
        speakers = [
            self._listen(session, SILENT_PERIODS * welcome.heartbeat / SECOND),
            self._send_statuses(session),
            self._send_heartbeats(session, welcome.heartbeat / SECOND, routes),
        ]
        if self._revocations is not None:
            speakers.append(self._revocations.run(session))
        if welcome.takes_farewells:
            speakers.append(self.farewells.run(session.send))
        if self._renewal is not None:
            speakers.append(self._renewal.run(session.send))
        open_echo, manager = self._managers.open_echo, _address(session.address)
        if open_echo is not None and manager is not None:
            speakers.append(_until_gone(open_echo, manager))
        await first(*speakers)

    async def _listen(self, session: AgentSession, silence: float) -> None:
        """Receives messages. A manager answers heartbeats: after `silence` seconds without a
        message, it is gone or suspended."""
        while True:
            message = await _received(session, silence)
            try:
                self._hear(message)
            except SessionClosed:
                raise
            except Exception as error:
                kind, known = type(message).__name__, isinstance(error, WeftError)
                trace = None if known else error
                log.error("session.not_applied kind=%s cause=%s", kind, error, exc_info=trace)
                if isinstance(message, AssignmentUpdate):
                    raise NotApplied(f"cannot apply {kind}: {described(error)}") from error

    def _hear(self, message: FromManager) -> None:
        match message:
            case AssignmentUpdate(change):
                self._apply(change)
            case StatusAccepted(number) if number == self._awaited:
                self._accepted.set()
            case Managers(managers):
                self._managers.changed(managers)
            case Renew() | IssuedCertificate() | Trust() as message if self._renewal is not None:
                self._renewal.hear(message)
            case Revoked(certificates) if self._revocations is not None:
                self._revocations.hear(certificates)
            case FarewellTaken() as taken:
                self.farewells.hear(taken)
            case Publish() as publish if self._streams is not None:
                self._streams.ask(publish)
            case Goodbye(reason):
                raise SessionClosed(reason)

    async def _send_heartbeats(
        self, session: AgentSession, period: float, routes: tuple[str, ...]
    ) -> None:
        """Sends heartbeats twice as often as the manager asks, so that one may be late.

        Managers learn the host's routes when a session begins: when the routes change, this session
        ends. The pauses between checks grow with their cost, for hosts with a million routes."""
        loop = asyncio.get_running_loop()
        look = loop.time() + ROUTES_PERIOD
        while True:
            await asyncio.sleep(period / 2)
            await session.send(Heartbeat())
            if (began := loop.time()) < look:
                continue
            if self._routes() != routes:
                raise SessionClosed("the routes of this host have changed")
            ended = loop.time()
            look = ended + max(ROUTES_PERIOD, (ended - began) / MOST_BUSY)

    async def _send_statuses(self, session: AgentSession) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(BATCH)
            if not self._pending:
                self._all_accepted.set()
                self._some.clear()
                continue
            batch = dict(itertools.islice(self._pending.items(), MAX_STATUSES))
            said = report(batch.items())
            self._awaited = next(self._numbers)
            self._accepted.clear()
            while not self._accepted.is_set():
                await session.send(StatusUpdate(self._awaited, said))
                await self._wait_accepted()
            for task, _ in said:
                if self._pending.get(task) is batch[task]:
                    del self._pending[task]

    async def _wait_accepted(self) -> None:
        try:
            async with asyncio.timeout(ACCEPT_TIMEOUT):
                await self._accepted.wait()
        except TimeoutError:
            log.info("session.status_repeated number=%s", self._awaited)


def report(statuses: Iterable[tuple[TaskId, TaskStatus]]) -> tuple[tuple[TaskId, TaskStatus], ...]:
    """The first of these statuses, as many as fit into one message; at least one, if there is
    one."""
    said: list[tuple[TaskId, TaskStatus]] = []
    size = 0
    for task, whole in itertools.islice(statuses, MAX_STATUSES):
        status = whole.cut()
        size += len(status.message.encode()) + len(status.err.encode())
        if said and size > MAX_REPORT:
            break
        said.append((task, status))
    return tuple(said)


async def _until_gone(open_echo: Callable[[], Echo], manager: IPv4Address) -> None:
    """Raises `ManagerGone` when the manager's host no longer answers."""
    gone = asyncio.Event()
    host_monitor = HostMonitor(open_echo, lambda: {"manager": (manager,)}, lambda *_: gone.set())
    await first(lasting("host monitor", host_monitor.run), gone.wait())
    raise ManagerGone("the manager's host does not answer")


def _address(text: str) -> IPv4Address | None:
    """The address in `text`; None for a name."""
    with contextlib.suppress(AddressValueError):
        return IPv4Address(text)
    return None


async def _received(session: AgentSession, seconds: float) -> FromManager:
    try:
        async with asyncio.timeout(seconds):
            return await session.receive()
    except TimeoutError:
        raise SessionClosed(f"the manager has been silent for {seconds:g} s") from None


def _why(message: object) -> str:
    return (
        message.reason
        if isinstance(message, Goodbye)
        else f"the manager began with {type(message).__name__}"
    )

"""One agent's session on the manager's side: one task receives, one task sends, and nothing grows
without bound between them.

The sender has no queue of messages, but notes of what is due: the numbers of accepted status
reports, the newest notice of each kind, the last request for a certificate, and the newest
assignment. When the agent has taken the last message, the sender computes the difference between
the assignment that the agent has and the newest one, so an agent that reads slowly skips those
between. An agent that reports without reading the answers is cut off."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from weft.control.assignments.differences import Memo, difference, in_pieces
from weft.errors import FailedPrecondition, InvalidArgument, WeftError
from weft.manager.incoming import checked
from weft.manager.statuses import Report, StatusWriter
from weft.model.assignment import Assignment
from weft.model.ids import NodeId
from weft.model.meta import SECOND, Nanoseconds
from weft.session.base import Identity, ManagerSession, SessionClosed
from weft.session.messages import (
    AssignmentUpdate,
    CertificateRequest,
    Farewell,
    FarewellTaken,
    FromAgent,
    Goodbye,
    Heartbeat,
    IssuedCertificate,
    Managers,
    NodeFarewell,
    Publish,
    Renew,
    Revoked,
    StatusAccepted,
    StatusUpdate,
    Trust,
    Welcome,
    kind_of,
)
from weft.system.rate import TokenBucket

log = logging.getLogger(__name__)

MAX_UNANSWERED = 256
"""Status reports whose answers the agent may leave unread."""
RATE, BURST = 50.0, 200.0
"""Tokens per second, and after a quiet time; a message costs one. An agent sends a heartbeat every
few seconds and waits for the answer to each report. Messages that an agent sends faster wait in its
own buffers."""
STATUSES_PER_TOKEN = 20
CERTIFICATE = 25.0
"""Tokens that a certificate costs, because it needs a signature; and a farewell, which is followed
by many decisions."""
MAX_ASKED = 64
"""Requests for streams that the agent may leave unread."""


Notice = Renew | Trust | Managers | Revoked


def _cost(message: FromAgent) -> float:
    match message:
        case StatusUpdate(statuses=statuses):
            return 1 + len(statuses) / STATUSES_PER_TOKEN
        case CertificateRequest() | NodeFarewell():
            return CERTIFICATE
        case _:
            return 1


class AgentLink:
    def __init__(
        self,
        session: ManagerSession,
        trusted: str,
        statuses: StatusWriter,
        heard: "Callable[[AgentLink], None]",
        certify: Callable[[CertificateRequest], Awaitable[IssuedCertificate]],
        turns: asyncio.Semaphore,
        part: Callable[[Farewell], Awaitable[None]],
    ) -> None:
        """`trusted`: see `Hello`. `heard` is called for each message of the agent; `certify` raises
        `WeftError` for a request that is refused; `part` commits a farewell. `turns` limits how many agents get their first
        assignment at a time."""
        self._session = session
        self.trusted = trusted
        self._statuses = statuses
        self._heard = heard
        self._certify = certify
        self._turns = turns
        self._part = part
        self._farewell: Farewell | None = None
        """The agent's last farewell, if it has no answer yet."""
        self.is_parting = False
        """The agent has said farewell: it need not be READY to be heard."""
        self.publishes: frozenset[str] = frozenset()
        """See `Hello`."""
        self._asked: deque[Publish] = deque()
        self._notices: dict[type[Notice], Notice] = {}
        self._noticed: dict[type[Notice], Notice] = {}
        self._requested: CertificateRequest | None = None
        self._sent: Assignment | None = None
        self._newest: Assignment | None = None
        self._offered = asyncio.Event()
        self._memo: Memo | None = None
        self._unanswered = 0
        self._bucket = TokenBucket(RATE, BURST)
        self._beat = False
        """The agent's last heartbeat has no answer yet."""
        self._accepted: deque[int] = deque()
        self._work = asyncio.Event()
        self._work.set()
        self._end: asyncio.Future[WeftError] = asyncio.get_running_loop().create_future()

    @property
    def node(self) -> NodeId:
        return self._session.peer.node

    @property
    def peer(self) -> Identity:
        return self._session.peer

    @property
    def newest(self) -> Assignment | None:
        """The assignment that the agent has, or will get next."""
        return self._newest

    @property
    def is_behind(self) -> bool:
        """Whether the agent was not sent the newest assignment yet."""
        return self._newest is not self._sent

    def offer(self, assignment: Assignment, memo: Memo) -> None:
        """Sends this assignment in place of all that were not sent yet. `memo` is shared by the
        nodes that are offered assignments together."""
        self._newest, self._memo = assignment, memo
        self._offered.set()
        self._work.set()

    def notice(self, notice: Notice) -> None:
        """Sends a notice, unless the last one of its kind was equal. A newer notice replaces one
        that was not sent yet."""
        kind = type(notice)
        if self._noticed.get(kind) != notice:
            self._notices[kind] = self._noticed[kind] = notice
            self._work.set()

    def ask(self, publish: Publish) -> None:
        """Asks the agent to publish a stream. Raises `InvalidArgument` if the agent is too old for
        this kind, `FailedPrecondition` if the agent does not read."""
        if (kind := kind_of(publish.request)) not in self.publishes:
            raise InvalidArgument(f"node {self.node} cannot publish {kind}: its daemon is too old")
        if len(self._asked) >= MAX_ASKED:
            raise FailedPrecondition(f"node {self.node} does not take what it is asked")
        self._asked.append(publish)
        self._work.set()

    def end(self, cause: WeftError) -> None:
        """Makes `run` raise `cause`."""
        if not self._end.done():
            self._end.set_result(cause)

    async def run(self, welcome: Welcome, silence: Nanoseconds) -> None:
        """Runs until the session ends, and always raises: `SessionClosed`, or the cause given to
        `end`. An agent that says nothing for `silence` is gone."""
        for said in (Managers(welcome.managers), Revoked(welcome.revoked)):
            if self._notices.get(type(said)) == said:
                del self._notices[type(said)]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._receive(silence / SECOND))
                group.create_task(self._until_ended())
                await self._session.send(welcome)
                group.create_task(self._send())
                group.create_task(self._send_first())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _until_ended(self) -> None:
        raise await self._end

    async def _receive(self, silence: float) -> None:
        while True:
            try:
                async with asyncio.timeout(silence):
                    message = await self._session.receive()
            except TimeoutError:
                raise SessionClosed(f"node {self.node} has been silent for {silence:g} s") from None
            self._heard(self)
            self._take(checked(message))
            if pause := self._bucket.owes(asyncio.get_running_loop().time(), _cost(message)):
                await asyncio.sleep(pause)

    def _take(self, message: FromAgent) -> None:
        match message:
            case Heartbeat():
                self._beat = True
                self._work.set()
            case StatusUpdate(number=number, statuses=statuses):
                self._unanswered += 1
                if self._unanswered > MAX_UNANSWERED:
                    raise SessionClosed(
                        f"node {self.node} does not take the answers to its reports"
                    )
                self._statuses.submit(Report(self.node, statuses, lambda: self._answer(number)))
            case CertificateRequest():
                self._requested = message
                self._work.set()
            case NodeFarewell(farewell=farewell):
                self._farewell, self.is_parting = farewell, True
                self._work.set()
            case Goodbye(reason=reason):
                raise SessionClosed(f"node {self.node} said goodbye: {reason}")
            case _:
                raise SessionClosed(f"node {self.node} sent {type(message).__name__} out of order")

    def _answer(self, number: int) -> None:
        self._accepted.append(number)
        self._work.set()

    async def _send(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            if self._beat:
                self._beat = False
                await self._session.send(Heartbeat())
            while self._accepted:
                await self._session.send(StatusAccepted(self._accepted.popleft()))
                self._unanswered -= 1
            while self._asked:
                await self._session.send(self._asked.popleft())
            while self._notices:
                await self._session.send(self._notices.pop(next(iter(self._notices))))
            if self._requested is not None:
                request, self._requested = self._requested, None
                await self._send_certificate(request)
            if self._farewell is not None:
                farewell, self._farewell = self._farewell, None
                await self._say_farewell(farewell)
            if (
                self._sent is not None
                and self._newest is not None
                and self._newest is not self._sent
            ):
                await self._send_assignment(self._newest)

    async def _send_first(self) -> None:
        """Sends the first assignment when it is this agent's turn. That may take longer than an
        agent waits for an answer, so other messages are sent meanwhile."""
        await self._offered.wait()
        async with self._turns:
            assert self._newest is not None
            await self._send_assignment(self._newest)
        self._work.set()

    async def _send_certificate(self, request: CertificateRequest) -> None:
        try:
            issued = await self._certify(request)
        except WeftError as error:
            raise SessionClosed(
                f"cannot renew the certificate of node {self.node}: {error}"
            ) from error
        await self._session.send(issued)
        log.info("certificate.issued node=%s", self.node)

    async def _say_farewell(self, farewell: Farewell) -> None:
        await self._part(farewell)
        await self._session.send(FarewellTaken(farewell))
        if farewell != "leaving":
            raise SessionClosed(f"node {self.node} is {farewell}")

    async def _send_assignment(self, assignment: Assignment) -> None:
        change = difference(self._sent, assignment, self._memo)
        self._memo = None
        if not change.is_empty:
            for piece in in_pieces(change):
                await self._session.send(AssignmentUpdate(piece))
            log.debug(
                "assignment.sent node=%s revision=%d full=%s",
                self.node,
                change.revision,
                change.full,
            )
        self._sent = assignment

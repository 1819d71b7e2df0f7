"""Learns which managers' certificates were revoked, and ends a session with such a manager.

Managers say it in their sessions. The manager of this node's session may be the very one that was
revoked, and would not say so. So now and then the agent asks another one: any that a manager has
named since the daemon started."""

import asyncio
import logging
from collections.abc import Iterable, Iterator

from weft.agent.adapters import RevocationAdapters
from weft.errors import WeftError
from weft.model.certificate import ManagerCertificate
from weft.model.ids import NodeId
from weft.session.base import AgentSession, SessionClosed
from weft.system.waiting import first

log = logging.getLogger(__name__)

PERIOD = 120.0
"""Seconds between two questions to other managers. A question costs a manager a TLS handshake, 2 ms
of processor time: a thousand nodes take 2 % of one processor."""
MOST_ASKED = 32
"""Managers that are remembered."""


class ManagerRevoked(SessionClosed):
    """The manager's certificate was revoked. Its answer to a goodbye is not waited for."""


class RevocationWatch:
    def __init__(self, adapters: RevocationAdapters, node: NodeId) -> None:
        self._adapters = adapters
        self._managers: dict[str, None] = {}
        """Addresses that were named, the latest last."""
        self._turn = 0
        self._phase = int(node[-4:], 36) / 36**4 if node.isalnum() else 0.0
        """Nodes that began their sessions together ask at different times."""

    def note_managers(self) -> None:
        for address in self._adapters.managers():
            self._managers.pop(address, None)
            self._managers[address] = None
        for address in list(self._managers)[:-MOST_ASKED]:
            del self._managers[address]

    def hear(self, certificates: Iterable[ManagerCertificate]) -> None:
        self._adapters.revocations.learn(certificates)

    async def run(self, session: AgentSession) -> None:
        """Runs during a session, until cancelled. Raises `ManagerRevoked`."""
        await first(self._adapters.revocations.revoked(session.serial), self._ask(session.address))
        raise ManagerRevoked(f"the manager's certificate {session.serial} was revoked")

    async def _ask(self, manager: str) -> None:
        """`manager`: the address of the session's manager."""
        await asyncio.sleep(PERIOD * self._phase)
        while True:
            self.note_managers()
            for address in self._others(manager):
                try:
                    self.hear(await self._adapters.ask(address))
                    break
                except WeftError as cause:
                    log.info("revocations.not_asked manager=%s cause=%s", address, cause)
            await asyncio.sleep(PERIOD)

    def _others(self, manager: str) -> Iterator[str]:
        """Each time another one first."""
        others = [each for each in self._managers if each.rpartition(":")[0] != manager]
        self._turn += 1
        begin = self._turn % len(others) if others else 0
        yield from others[begin:] + others[:begin]

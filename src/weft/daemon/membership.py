"""Follows the role that a node's certificate names: takes one step after the other
(`role_steps.py`) until there is nothing to do, then waits until something changes. A step that
fails is tried again.

What a step does on a host is behind `ManagerParts`; the daemon's are in `manager_parts.py`.
"""

import asyncio
import logging
from dataclasses import replace
from typing import Protocol

from weft.daemon.role_steps import RoleFacts, Step, next_step
from weft.errors import Damaged, WeftError
from weft.store.etcd.process import MemberRemoved
from weft.system.waiting import first

log = logging.getLogger(__name__)

RETRY = 1.0
"""Seconds after a step that failed."""


class ManagerParts(Protocol):
    """What a host has for being a manager."""

    @property
    def facts(self) -> RoleFacts: ...

    async def take(self, step: Step) -> None:
        """Safe to be called again, whatever the last call came to. Raises `Damaged` where to try
        again is of no use, `MemberRemoved` if this host's etcd member was taken out, else another
        `WeftError`."""
        ...

    async def changed(self) -> None:
        """Waits until the facts may be others, the role apart. Raises what ended a manager that
        should not end."""
        ...


class RoleFollower:
    """`obstacle`: why the node is not yet what it is to be; empty if it is. `damage`: the same, if
    only a person can mend it."""

    def __init__(self, parts: ManagerParts, trouble: str = "") -> None:
        """`trouble`: a damage that lasts for as long as this object."""
        self._parts = parts
        self._trouble = self.damage = self.obstacle = trouble
        self._removed = False
        self._role_changed = asyncio.Event()

    def role_changed(self) -> None:
        """The certificate may name another role now."""
        self._role_changed.set()

    def give_up(self, damage: Damaged) -> None:
        """A manager stays as it is then. To become a worker is still possible."""
        log.error("role.damaged cause=%s", damage)
        self.obstacle = self.damage = str(damage)

    async def run(self) -> None:
        """Until cancelled, or until a manager ends that should not; raises what ended it."""
        while True:
            self._role_changed.clear()
            found = self._parts.facts
            facts = replace(
                found, damaged=bool(self.damage), removed=found.removed or self._removed
            )
            step = next_step(facts)
            if step is Step.NOTHING:
                if facts.role == "worker" or not facts.damaged:
                    self.obstacle = self.damage = self._trouble
                await first(self._role_changed.wait(), self._parts.changed())
            elif not await self._take(step, facts) or self._parts.facts == found:
                await asyncio.sleep(
                    RETRY
                )  # also after a step that changed nothing: files that cannot be removed

    async def _take(self, step: Step, facts: RoleFacts) -> bool:
        """Whether it succeeded."""
        try:
            await self._parts.take(step)
            self._removed = self._removed and step is not Step.LEAVE
            return True
        except Damaged as error:
            self.give_up(error)
        except WeftError as error:
            if self.obstacle != str(error):
                log.warning(
                    "role.step_failed role=%s step=%r cause=%s", facts.role, step.value, error
                )
            self.obstacle = str(error)
            self._removed = self._removed or isinstance(error, MemberRemoved)
        return False

"""Follows the role that a node's certificate names: takes one step after the other
(`role_steps.py`) until there is nothing to do, then waits for a change. A failed step is tried
again.

`ManagerParts` does the steps on a host; the daemon's implementation is in `manager_parts.py`.
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
"""Seconds before a failed step is tried again."""


class ManagerParts(Protocol):
    """The parts with which a host can be a manager."""

    @property
    def facts(self) -> RoleFacts: ...

    async def take(self, step: Step) -> None:
        """Takes a step. Safe to call again, whatever the result of the last call. Raises `Damaged`
        if trying again does not help, `MemberRemoved` if this host's etcd member was removed, else
        another `WeftError`."""
        ...

    async def changed(self) -> None:
        """Waits until facts other than the role may have changed. If a manager ended unexpectedly,
        raises the error that ended it."""
        ...


class RoleFollower:
    """`obstacle`: why the node does not have its role yet; empty if it has. `damage`: the same, if
    only an operator can repair it."""

    def __init__(self, parts: ManagerParts, trouble: str = "") -> None:
        """`trouble`: a damage that lasts as long as this object, or until `mend`."""
        self._parts = parts
        self._trouble = self.damage = self.obstacle = trouble
        self._removed = False
        self._role_changed = asyncio.Event()

    def role_changed(self) -> None:
        """To be called when the certificate may name another role."""
        self._role_changed.set()

    def mend(self) -> None:
        """The trouble that this object began with is over."""
        self._trouble = self.damage = self.obstacle = ""
        self._role_changed.set()

    def give_up(self, damage: Damaged) -> None:
        """A damaged manager stays as it is; the node can still become a worker."""
        log.error("role.damaged cause=%s", damage)
        self.obstacle = self.damage = str(damage)

    async def run(self) -> None:
        """Runs until cancelled, or until a manager ends unexpectedly; then raises the error that
        ended it."""
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
                # Also if the step changed nothing, as when files cannot be removed.
                await asyncio.sleep(RETRY)

    async def _take(self, step: Step, facts: RoleFacts) -> bool:
        """Takes the step; returns whether it succeeded."""
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

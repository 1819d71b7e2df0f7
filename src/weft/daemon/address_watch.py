"""Notices that a running host loses the address by which its swarm knows it, as when a DHCP server
gives it another one, and that it has the address again. The log says both; `docker info` and `weft
doctor` say what is lost and what to do. Changes nothing.
"""

import asyncio
import logging
from collections.abc import Callable

from weft.linux.host import NoSuchAddress

log = logging.getLogger(__name__)

PAUSE = 5.0
"""Seconds between two looks."""
NO_ADDRESS = (
    "{cause}; the swarm knows this node by it. Containers go on. Give the host this address again (a"
    " fixed one, or a reservation of the DHCP server), and the node is back by itself. If the address"
    " has changed for good: docker swarm leave --force, and join again"
)  # fmt: skip


class AddressWatch:
    def __init__(self, check: Callable[[], None]) -> None:
        """`check` raises `NoSuchAddress` if the host has not the address of its membership."""
        self._check = check
        self.lost = ""
        """The cause and what to do; empty while the host has the address, or needs none."""

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            await asyncio.sleep(PAUSE)
            self.look()

    def look(self) -> None:
        before, self.lost = self.lost, ""
        try:
            self._check()
        except NoSuchAddress as error:
            self.lost = NO_ADDRESS.format(cause=error)
        if self.lost and not before:
            log.error("swarm.address_lost cause=%s", self.lost)
        elif before and not self.lost:
            log.info("swarm.address_back")

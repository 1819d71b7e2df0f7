"""Does the kernel of each host still answer? Asked a few times a second, so that a host without
power or cable is missed at once.

A manager watches the hosts of its sessions, an agent that of its manager. What is asked is the
kernel: a daemon that is busy, stopped or restarting is not missed, and no daemon does anything to
answer.

    every PERIOD    a question to each host (ICMP echo); has the last one been answered?
    it has not      three more within CONFIRM, by all ways there are; one answer is enough
    none            it is gone

Not judged is who has not answered TRUST questions in a row before: a host behind a filter, a
network that loses packets. And nobody is judged by who stood still meanwhile. Whoever is told that
a host is gone is told also whether any other host answered at that time: if none did, it is most
likely the one who asks who is cut off.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from ipaddress import IPv4Address
from itertools import chain, islice

from weft.session.base import Echo
from weft.system.supervision import contained

PERIOD = 0.2
"""Seconds between two questions to a host."""
MOST = 2500
"""Questions per second; of more hosts than that allows, each is asked less often. One costs some 15
µs of processor time."""
TOGETHER = 100
"""Hosts asked in one go: the answers wait in the socket until the next one."""
CONFIRM, ATTEMPTS = 0.3, 3
"""Seconds, and the questions in them. Between hosts an answer takes milliseconds; a SYN that was
lost is sent again after a second."""
WITNESSES = 3
TRUST = 5
STALL = 1.0
"""Seconds. A doubt that took so long was that of a process that stood still: it may not have taken
the answers."""

Hosts = Mapping[str, Sequence[IPv4Address]]
"""Where each host answers, by any name for it. The first address is asked all the time, the others
when it does not answer."""


class _Host:
    """What is known of one."""

    def __init__(self) -> None:
        self.asked: float | None = None
        self.streak = 0
        """Questions in a row that were answered."""


class HostMonitor:
    def __init__(
        self,
        open_echo: Callable[[], Echo],
        hosts: Callable[[], Hosts],
        gone: Callable[[Collection[str], bool], None],
    ) -> None:
        """`hosts` is looked at each time round. `gone` is called with those that have just stopped
        answering, and whether somebody else does, or nobody else is asked."""
        self._open_echo = open_echo
        self._hosts = hosts
        self._gone = gone
        self._known: dict[str, _Host] = {}
        self._heard: dict[IPv4Address, float] = {}
        """When an answer was taken last, by the loop's clock."""

    def answers(self, name: str) -> bool:
        """Whether it answered the last question but one, at least."""
        return name in self._known and self._known[name].streak > 0

    async def run(self) -> None:
        """Until cancelled."""
        with closing(self._open_echo()) as echo:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._round(echo, self._hosts(), group)

    async def _round(self, echo: Echo, hosts: Hosts, group: asyncio.TaskGroup) -> None:
        self._known = {name: self._known.get(name) or _Host() for name in hosts}
        self._keep({address for addresses in hosts.values() for address in addresses})
        names, count = iter(hosts), max(1, -(-len(hosts) // TOGETHER))
        for _ in range(count):
            self._take(echo)
            quiet = [
                name
                for name in islice(names, TOGETHER)
                if self._ask(echo, self._known[name], hosts[name][0])
            ]
            if quiet:
                group.create_task(
                    contained(f"doubt of {len(quiet)} hosts", self._doubt(echo, quiet, hosts))
                )
            await asyncio.sleep(max(PERIOD, len(hosts) / MOST) / count)

    def _keep(self, addresses: Collection[IPv4Address]) -> None:
        for address in self._heard.keys() - addresses:
            del self._heard[address]

    def _take(self, echo: Echo) -> None:
        self._heard.update(dict.fromkeys(echo.answered(), _now()))

    def _ask(self, echo: Echo, host: _Host, address: IPv4Address) -> bool:
        """Whether it is quiet although it used to answer."""
        now, quiet = _now(), False
        if host.asked is not None:
            if self._heard_since(host.asked, (address,)):
                host.streak += 1
            else:
                quiet, host.streak = host.streak >= TRUST, 0
        host.asked = now if echo.ask(address) else None
        return quiet

    async def _doubt(self, echo: Echo, names: Collection[str], hosts: Hosts) -> None:
        begun = _now()
        doubted = {name: hosts[name] for name in names}
        others = islice(
            (hosts[name][0] for name in hosts if name not in doubted and self.answers(name)),
            WITNESSES,
        )
        witnesses = tuple(others)
        for _ in range(ATTEMPTS):
            for address in chain(*doubted.values(), witnesses):
                echo.ask(address)
            await asyncio.sleep(CONFIRM / ATTEMPTS)
            self._take(echo)
        if _now() - begun > STALL:
            return
        silent = [
            name for name, addresses in doubted.items() if not self._heard_since(begun, addresses)
        ]
        if silent:
            self._gone(silent, len(hosts) == 1 or self._heard_since(begun + CONFIRM / 2, witnesses))

    def _heard_since(self, moment: float, addresses: Sequence[IPv4Address]) -> bool:
        """What was taken at that very moment was asked for before it: the loop's clock stands still
        between two of its rounds."""
        return any(self._heard.get(address, -1.0) > moment for address in addresses)


def _now() -> float:
    return asyncio.get_running_loop().time()

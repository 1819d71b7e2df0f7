"""The host monitor: probes the kernel of each host a few times a second, so that a host without
power or cable is noticed at once.

A manager monitors the hosts of its sessions, an agent the host of its manager. The kernel answers
the probes: a daemon that is busy, stopped or restarting is not noticed, and no daemon does anything
to answer.

    every PERIOD    a probe to each host (ICMP echo); was the last one answered?
    no answer       three more within CONFIRM, to all addresses of the host; one answer is enough
    still none      the host is gone

A host that has not answered TRUST probes in a row before is not judged: it may be behind a filter,
or on a network that loses packets. A process that stood still meanwhile judges no host. A report
that a host is gone also says whether any other host answered at that time: if none did, most likely
the reporting host itself is cut off.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from ipaddress import IPv4Address
from itertools import chain, islice

from weft.session.base import Echo
from weft.system.supervision import contained

PERIOD = 0.2
"""Seconds between two probes of a host."""
MOST = 2500
"""Probes per second; with more hosts than that allows, each host is probed less often. A probe
costs some 15 µs of processor time."""
TOGETHER = 100
"""Hosts probed in one go: the answers wait in the socket until the next one."""
CONFIRM, ATTEMPTS = 0.3, 3
"""Seconds, and the probes in them. Between hosts an answer takes milliseconds; a lost SYN is sent
again after a second."""
WITNESSES = 3
TRUST = 5
STALL = 1.0
"""Seconds. If the probes of a doubt took so long, this process stood still and may not have read
the answers."""

Hosts = Mapping[str, Sequence[IPv4Address]]
"""The addresses of each host, by any name for the host. The first address is probed all the time,
the others when the first does not answer."""


class _Host:
    """The monitor's record of one host."""

    def __init__(self) -> None:
        self.asked: float | None = None
        self.streak = 0
        """Probes in a row that were answered."""


class HostMonitor:
    def __init__(
        self,
        open_echo: Callable[[], Echo],
        hosts: Callable[[], Hosts],
        gone: Callable[[Collection[str], bool], None],
    ) -> None:
        """`hosts` is called in each round. `gone` is called with the hosts that have just stopped
        answering, and with True if another host answers or no other host is probed."""
        self._open_echo = open_echo
        self._hosts = hosts
        self._gone = gone
        self._known: dict[str, _Host] = {}
        self._heard: dict[IPv4Address, float] = {}
        """Time of the last answer from each address, by the loop's clock."""

    def answers(self, name: str) -> bool:
        """Whether the host answered the last probe but one, at least."""
        return name in self._known and self._known[name].streak > 0

    async def run(self) -> None:
        """Runs until cancelled."""
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
        """Probes the host. True if it is silent although it used to answer."""
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
        """An answer read at that very moment belongs to an earlier probe: the loop's clock stands
        still between two of the loop's rounds."""
        return any(self._heard.get(address, -1.0) > moment for address in addresses)


def _now() -> float:
    return asyncio.get_running_loop().time()

"""The network between the hosts of a simulation: sessions as TCP would carry them, and what happens
to them.

    delay     messages between two hosts take longer
    cut       none comes through: what is on its way waits, as TCP repeats it, and arrives when the
              cut is healed in time
    reset     the connections between two hosts break: what is on its way is lost, and nobody knows
              how much of it arrived
    vanish    a process has ended: the other side is told by its kernel, if that can be reached

An end whose other side cannot be reached is told so after `PATIENCE`, which is long: agents and
managers must notice before.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.simulation.processes import OUTSIDE, Processes
from weft.session.base import Identity
from weft.session.fake import WINDOW, Closing, MemoryAgentSession, MemoryManagerSession

LATENCY = 0.001
PATIENCE = 900.0
"""Seconds for which the kernel repeats what is not acknowledged (tcp_retries2): nobody may rely on
it."""
RETRANSMIT = 0.2
"""Seconds until what was held up by a cut is sent again."""
IN_FLIGHT = 64
"""Messages on the wire in one direction."""
Flight = asyncio.Queue[tuple[float, bytes | None]]
"""When each arrives, at the earliest; None is the end of the connection."""


def pair(a: str, b: str) -> frozenset[str]:
    return frozenset((a, b))


class SimNetwork:
    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._cuts: Counter[frozenset[str]] = Counter()
        """Between two, how often: each is healed once."""
        self.isolated: set[str] = set()
        """Hosts that reach nobody else."""
        self._delays: dict[frozenset[str], float] = {}
        self._links: set[SimLink] = set()
        self.off: set[str] = set()
        """Hosts without power: they answer nothing."""

    # --- what can go wrong

    def cut(self, a: str, b: str) -> None:
        if a != b:
            self._cuts[pair(a, b)] += 1

    def heal(self, a: str, b: str) -> None:
        if a != b:
            self._cuts[pair(a, b)] -= 1

    def delay(self, a: str, b: str, seconds: float) -> None:
        self._delays[pair(a, b)] = seconds

    def heal_all(self) -> None:
        self._cuts.clear()
        self._delays.clear()
        self.isolated.clear()

    def reset(self, a: str, b: str) -> None:
        for link in self._between(a, b):
            link.breaks("connection reset by peer")

    def vanish(self, host: str) -> None:
        """The process of the host has ended, or the host itself if it is `off`."""
        for link in [link for link in self._links if host in link.hosts]:
            link.loses(host)

    # --- what there is

    def is_open(self, a: str, b: str) -> bool:
        apart = self._cuts[pair(a, b)] > 0 or (a != b and bool(self.isolated & {a, b}))
        return not apart and not self.off & {a, b}

    def latency(self, a: str, b: str) -> float:
        return LATENCY / 10 if a == b else LATENCY + self._delays.get(pair(a, b), 0.0)

    async def passable(self, a: str, b: str) -> None:
        """Returns when a packet can get from one to the other."""
        while not self.is_open(a, b):
            await asyncio.sleep(RETRANSMIT)

    def connect(
        self, agent: str, manager: str, peer: Identity, address: str, at: str
    ) -> tuple[MemoryManagerSession, MemoryAgentSession]:
        """`address`: of the agent's host; `at`: of the manager's."""
        link = SimLink(self, agent, manager, self._links.discard)
        self._links.add(link)
        link.carrying = [self._processes.spawn(OUTSIDE, work) for work in link.work()]
        ours = MemoryManagerSession(
            peer,
            address,
            link.queues["down"][0],
            link.queues["up"][1],
            link.closing[manager, "manager"],
        )
        theirs = MemoryAgentSession(
            at, link.queues["down"][1], link.queues["up"][0], link.closing[agent, "agent"]
        )
        return ours, theirs

    def close(self) -> None:
        for link in tuple(self._links):
            link.breaks("the simulation is over")

    def _between(self, a: str, b: str) -> list["SimLink"]:
        return [link for link in self._links if pair(*link.hosts) == pair(a, b)]


class SimLink:
    """One connection. Each direction has a queue that its sender fills, and one that its receiver
    empties."""

    def __init__(
        self, network: SimNetwork, agent: str, manager: str, forget: Callable[["SimLink"], None]
    ) -> None:
        self._network = network
        self._agent, self._manager = agent, manager
        self._forget = forget
        self.hosts = (agent, manager)
        self.queues: dict[str, tuple[asyncio.Queue[bytes], asyncio.Queue[bytes]]] = {
            way: (asyncio.Queue(WINDOW), asyncio.Queue(WINDOW)) for way in ("up", "down")
        }
        self.closing = {(agent, "agent"): Closing(), (manager, "manager"): Closing()}
        self.carrying: list[asyncio.Task[Any]] = []

    def work(self) -> list[Any]:
        mine, its = self.closing[self._agent, "agent"], self.closing[self._manager, "manager"]
        up, down = (self._agent, self._manager), (self._manager, self._agent)
        flights: tuple[Flight, Flight] = asyncio.Queue(IN_FLIGHT), asyncio.Queue(IN_FLIGHT)
        return [
            self._send(self.queues["up"][0], flights[0], up, mine),
            self._deliver(flights[0], self.queues["up"][1], up, its),
            self._send(self.queues["down"][0], flights[1], down, its),
            self._deliver(flights[1], self.queues["down"][1], down, mine),
            self._watch(),
        ]

    def breaks(self, why: str) -> None:
        """Both ends know it, and what was on its way is gone."""
        for closing in self.closing.values():
            closing.set(why)
        self._end()

    def loses(self, host: str) -> None:
        """One end is gone."""
        for (where, _), closing in self.closing.items():
            if where == host:
                closing.set("the process has ended")

    async def _send(
        self, out: asyncio.Queue[bytes], flight: Flight, way: tuple[str, str], near: Closing
    ) -> None:
        """Until the sender has closed and all of his is on its way."""
        clock = asyncio.get_running_loop().time
        while not near.happened.is_set() or not out.empty():
            over = asyncio.ensure_future(near.happened.wait())
            getting = asyncio.ensure_future(out.get())
            try:
                await asyncio.wait((getting, over), return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    await flight.put((clock() + self._network.latency(*way), getting.result()))
            finally:
                getting.cancel()
                over.cancel()
        await flight.put((clock() + self._network.latency(*way), None))

    async def _deliver(
        self, flight: Flight, into: asyncio.Queue[bytes], way: tuple[str, str], far: Closing
    ) -> None:
        """Until the end has arrived, or there is nobody any more for whom to arrive."""
        clock = asyncio.get_running_loop().time
        while True:
            arrives, message = await flight.get()
            await asyncio.sleep(max(0.0, arrives - clock()))
            await self._network.passable(*way)
            if message is None or far.happened.is_set():
                break
            await into.put(message)
        far.set("the other side has closed the connection")
        self._end()

    async def _watch(self) -> None:
        """Patience with a side that cannot be reached."""
        silent = 0.0
        while True:
            await asyncio.sleep(RETRANSMIT)
            silent = 0.0 if self._network.is_open(*self.hosts) else silent + RETRANSMIT
            if silent > PATIENCE:
                self.breaks(f"nothing was heard for {PATIENCE:g} s")

    def _end(self) -> None:
        self._forget(self)
        for task in self.carrying:
            task.cancel()

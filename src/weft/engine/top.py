"""Publishes what this node's kernel has counted, again and again, for one reader.

Nothing is counted that the kernel does not count anyway: a reading is a dump of the devices of each
namespace, a file of /proc for each container, and one small packet to each other host."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Protocol

from weft.engine.adapters import NetworkAdapters
from weft.engine.name_tally import NameTally
from weft.errors import WeftError
from weft.linux.base import LinkTraffic
from weft.model.ids import ContainerId, NodeId
from weft.model.meta import SECOND, Nanoseconds
from weft.model.sandbox import NodeFacts
from weft.model.top import (
    Carried,
    NetworkCounts,
    TaskCounts,
    TcpCounts,
    TopFrame,
    TopWanted,
    Way,
)
from weft.network.kernel_state import HOST
from weft.network.readings import LOOPBACK, Reading

MOST_TASKS = 1000
MOST_WAYS = 64
"""Hosts that are asked in a reading: of a large swarm, those with the lowest ids."""
TOGETHER = 200
"""Tasks of one frame."""
PATIENCE = 0.5
"""Seconds for the answer of another host."""
BETWEEN = 1.0
"""Seconds between the two readings of one look."""
FINE = ("noerror", "nxdomain")


class Counting(Protocol):
    """The part of `engine.networking.Networking` that is needed here."""

    facts: NodeFacts

    def readings(self) -> Sequence[Reading]: ...

    def tunnels(self) -> Mapping[str, str]:
        """Names of networks, by the namespaces of their tunnels."""
        ...

    def peers(self) -> Mapping[NodeId, IPv4Address]: ...

    def pid(self, container: ContainerId) -> int:
        """0 if it does not run."""
        ...


class Top:
    def __init__(
        self,
        networking: Counting,
        adapters: NetworkAdapters,
        names: NameTally,
        clock: Callable[[], Nanoseconds],
        wanted: TopWanted,
    ) -> None:
        self._networking = networking
        self._adapters = adapters
        self._names = names
        self._clock = clock
        self._wanted = wanted

    async def frames(self) -> AsyncGenerator[TopFrame, None]:
        """The first frame says that the node is there."""
        yield TopFrame(now=self._clock())
        time = asyncio.get_running_loop().time
        pause = BETWEEN if self._wanted.once else self._wanted.every / SECOND
        number = 0
        while True:
            begun = time()
            async for frame in self._reading():
                yield frame
            number += 1
            if self._wanted.once and number == 2:
                return
            await asyncio.sleep(max(0.0, begun + pause - time()))

    async def _reading(self) -> AsyncGenerator[TopFrame, None]:
        ways = asyncio.ensure_future(self._ways())
        failed: list[str] = []
        try:
            places = self._networking.readings()
            tunnels = self._networking.tunnels()
            carried: Mapping[str, Mapping[str, LinkTraffic]] = {}
            device = ""
            try:
                device = self._adapters.uplink(self._networking.facts.data_path_address)
            except WeftError as error:
                failed.append(str(error))
            try:
                spaces = (HOST, *tunnels, *(place.namespace for place in places[:MOST_TASKS]))
                carried = await self._adapters.kernel.carried(spaces)
            except WeftError as error:
                failed.append(str(error))
            now = self._clock()
            tasks = await self._tasks(places[:MOST_TASKS], carried)
            for at in range(0, len(tasks), TOGETHER):
                yield TopFrame(now=now, tasks=tuple(tasks[at : at + TOGETHER]))
            underlay = carried.get(HOST, {}).get(device)
            answered, wrong = self._answers()
            yield TopFrame(
                now=now,
                networks=tuple(_networks(tunnels, carried)),
                ways=await ways,
                underlay=of(underlay) if underlay is not None else None,
                names_answered=answered,
                names_failed=wrong,
                left_out=max(0, len(places) - MOST_TASKS)
                + max(0, len(self._networking.peers()) - MOST_WAYS),
                failed=tuple(failed),
                is_last=True,
            )
        finally:
            ways.cancel()

    async def _tasks(
        self, places: Sequence[Reading], carried: Mapping[str, Mapping[str, LinkTraffic]]
    ) -> list[TaskCounts]:
        pids = [self._networking.pid(place.container) for place in places]
        count = self._adapters.count_tcp
        tcp: list[TcpCounts] = await asyncio.to_thread(lambda: [count(pid) for pid in pids])
        return [
            task(place, carried[place.namespace], counted)
            for place, counted in zip(places, tcp, strict=True)
            if place.namespace in carried
        ]

    async def _ways(self) -> tuple[Way, ...]:
        peers = dict(sorted(self._networking.peers().items())[:MOST_WAYS])
        try:
            took = await self._adapters.round_trips(tuple(peers.values()), PATIENCE)
        except WeftError:
            took = {}
        return tuple(
            Way(node, int(took[address] * SECOND) if address in took else -1)
            for node, address in peers.items()
        )

    def _answers(self) -> tuple[int, int]:
        """Names that were answered, and those of them with an error."""
        counted = self._names.answers.by_labels
        wrong = sum(count for (code, *_), count in counted.items() if code not in FINE)
        return sum(counted.values()), wrong


def task(place: Reading, devices: Mapping[str, LinkTraffic], tcp: TcpCounts) -> TaskCounts:
    ways = {"mesh": Carried(), "overlay": Carried(), "outside": Carried()}
    for device, traffic in devices.items():
        if device != LOOPBACK:
            way = place.devices.get(device, "outside")
            ways[way] += of(traffic)
    return TaskCounts(
        place.name, place.service, ways["mesh"], ways["overlay"], ways["outside"], tcp
    )


def of(traffic: LinkTraffic) -> Carried:
    return Carried(
        traffic.received_bytes,
        traffic.sent_bytes,
        traffic.received_packets,
        traffic.sent_packets,
        traffic.receive_dropped + traffic.send_dropped,
        traffic.receive_errors + traffic.send_errors,
    )


def _networks(
    tunnels: Mapping[str, str], carried: Mapping[str, Mapping[str, LinkTraffic]]
) -> Iterator[NetworkCounts]:
    for space, name in tunnels.items():
        total = Carried()
        for device, traffic in carried.get(space, {}).items():
            if device.startswith("vxlan"):
                total += of(traffic)
        yield NetworkCounts(name, total)

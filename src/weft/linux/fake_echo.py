"""`session.base.Echo` in virtual time, on a network that says which hosts can be reached."""

import asyncio
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address


class FakeEcho:
    def __init__(self, reaches: Callable[[IPv4Address], bool], latency: float = 0.001) -> None:
        """`reaches`: whether a packet to the address would be answered now. `latency`: seconds for
        the round trip."""
        self._reaches = reaches
        self.latency = latency
        self.asked: Counter[IPv4Address] = Counter()
        self._answers: list[tuple[float, IPv4Address]] = []
        self.is_closed = False

    def ask(self, address: IPv4Address) -> bool:
        self.asked[address] += 1
        if self._reaches(address):
            self._answers.append((asyncio.get_running_loop().time() + self.latency, address))
        return True

    def answered(self) -> set[IPv4Address]:
        now = asyncio.get_running_loop().time()
        here = {address for moment, address in self._answers if moment <= now}
        self._answers = [each for each in self._answers if each[0] > now]
        return here

    def close(self) -> None:
        self.is_closed = True

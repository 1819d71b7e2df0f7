"""ICMP echo against this machine's own kernel, on loopback; what an answer is, against scapy's
packets."""

import asyncio
import os
from contextlib import closing
from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import ICMP, IP

from weft.linux import ping, probe

OWN, OTHER = IPv4Address("127.0.0.1"), IPv4Address("127.0.0.9")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_kernel_answers() -> None:
    assert asyncio.run(ping.answers((OWN,), 4711, 2.0, 3))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_nobody_who_is_asked_does_not_answer() -> None:
    assert not asyncio.run(ping.answers((), 4711, 0.03, 3))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_time_of_a_round_trip_is_told_of_those_that_answer() -> None:
    """The kernel here answers at once, before the packet's sending is over."""
    found = asyncio.run(probe.round_trips([OWN, OTHER], 5.0))
    assert set(found) == {OWN, OTHER}
    assert all(0 <= took < 5 for took in found.values())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_many_are_asked_by_a_socket_that_hears_only_the_answers_to_itself() -> None:
    async def main() -> None:
        with closing(ping.EchoSocket()) as echo, closing(ping.EchoSocket()) as deaf:
            asked = {OWN + number for number in range(1500)}
            assert all(map(echo.ask, asked))
            heard = echo.answered()
            for _ in range(100):
                await asyncio.sleep(0.02)
                heard |= echo.answered()
            assert heard == asked
            assert deaf.answered() == set()
            assert echo.answered() == set()
            assert echo.ask(IPv4Address("240.0.0.1")), (
                "a host that cannot be reached was asked nevertheless"
            )

    asyncio.run(asyncio.wait_for(main(), 10))


def reply(source: IPv4Address, identifier: int, kind: int = 0) -> bytes:
    return bytes(IP(src=str(source), dst="127.0.0.1") / ICMP(type=kind, id=identifier, seq=1))


def test_an_answer_is_a_reply_to_this_question_from_who_was_asked() -> None:
    asked = frozenset((OTHER,))
    assert ping.is_answer(reply(OTHER, 7), asked, 7)
    assert not ping.is_answer(reply(OWN, 7), asked, 7)
    assert not ping.is_answer(reply(OTHER, 8), asked, 7)
    assert not ping.is_answer(reply(OTHER, 7, kind=8), asked, 7)
    assert not ping.is_answer(reply(OTHER, 7, kind=3), asked, 7)
    assert not any(ping.is_answer(reply(OTHER, 7)[:length], asked, 7) for length in range(28))


def test_the_checksum_is_that_of_others() -> None:
    packet = bytes(ICMP(type=8, id=0x1234, seq=0xFFFF))
    assert ping.checksum(packet[:2] + b"\0\0" + packet[4:]) == int.from_bytes(packet[2:4], "big")

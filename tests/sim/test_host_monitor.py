"""Who is missed, how soon, and who is not, in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address

import pytest

from tests.support import virtual_time
from weft.linux.fake_echo import FakeEcho
from weft.session.host_monitor import ATTEMPTS, CONFIRM, MOST, PERIOD, TRUST, WITNESSES, HostMonitor

SOON = 2 * PERIOD + CONFIRM + 0.01
"""Seconds until a host is missed, at most."""
FAMILIAR = (TRUST + 2) * PERIOD


class Scene:
    def __init__(self, hosts: int) -> None:
        self.addresses: dict[str, tuple[IPv4Address, ...]] = {
            f"h{k}": (IPv4Address("10.0.0.0") + k, IPv4Address("10.9.0.0") + k)
            for k in range(1, hosts + 1)
        }
        self.down: set[IPv4Address] = set()
        self.echo = FakeEcho(lambda address: address not in self.down)
        self.told: list[tuple[float, set[str], bool]] = []
        """When, who is gone, and whether others answered."""
        self.host_monitor = HostMonitor(lambda: self.echo, lambda: self.addresses, self._gone)

    def _gone(self, names: Iterable[str], others_answer: bool) -> None:
        self.told.append((asyncio.get_running_loop().time(), set(names), others_answer))

    def cut(self, *names: str) -> None:
        self.down.update(address for name in names for address in self.addresses[name])

    def heal(self, *names: str) -> None:
        self.down.difference_update(address for name in names for address in self.addresses[name])


def play(hosts: int, script: Callable[[Scene], Awaitable[None]]) -> Scene:
    scene = Scene(hosts)

    async def main() -> None:
        running = asyncio.create_task(scene.host_monitor.run())
        await asyncio.sleep(FAMILIAR)
        assert scene.told == []
        await script(scene)
        running.cancel()
        await asyncio.wait([running])

    virtual_time.run(main())
    assert scene.echo.is_closed
    return scene


@pytest.mark.parametrize("hosts", [2, 4, 250])
@pytest.mark.parametrize("later", [0.0, 0.05, 0.13, 0.19])
def test_a_host_that_falls_silent_is_missed_once_and_soon(hosts: int, later: float) -> None:
    async def script(scene: Scene) -> None:
        await asyncio.sleep(later)
        cut = asyncio.get_running_loop().time()
        scene.cut("h1")
        await asyncio.sleep(5)
        ((moment, names, others),) = scene.told
        assert (names, others) == ({"h1"}, True)
        assert moment - cut < SOON
        assert not scene.host_monitor.answers("h1")
        assert scene.host_monitor.answers("h2")
        scene.heal("h1")
        await asyncio.sleep(2 * PERIOD + 0.01)
        assert scene.host_monitor.answers("h1")

    play(hosts, script)


def test_one_of_a_thousand_is_missed_though_each_is_asked_less_often() -> None:
    async def script(scene: Scene) -> None:
        begun, asked = asyncio.get_running_loop().time(), scene.echo.asked.total()
        await asyncio.sleep(4)
        seconds = asyncio.get_running_loop().time() - begun
        assert (scene.echo.asked.total() - asked) / seconds <= MOST * 1.1
        scene.cut("h700")
        await asyncio.sleep(2 * 1000 / MOST + CONFIRM + 0.05)
        assert [told[1:] for told in scene.told] == [({"h700"}, True)]

    play(1000, script)


def test_a_packet_that_is_lost_is_no_host() -> None:
    async def script(scene: Scene) -> None:
        for pause in (0.05, 0.2, 0.25, 0.3):
            scene.cut("h1")
            await asyncio.sleep(pause)
            scene.heal("h1")
            await asyncio.sleep(FAMILIAR)
        assert scene.told == []

    play(3, script)


def test_any_way_to_a_host_will_do() -> None:
    async def script(scene: Scene) -> None:
        scene.down.add(scene.addresses["h1"][0])
        await asyncio.sleep(5)
        assert scene.told == []

    play(3, script)


@pytest.mark.parametrize("later", [0.0, 0.05, 0.12, 0.18])
@pytest.mark.parametrize("spread", [0.0, 0.05, 0.15, 0.21, 0.25, 0.28])
def test_who_hears_nobody_is_told_so(later: float, spread: float) -> None:
    """Whatever the packets of the others that were the last to get through."""

    async def script(scene: Scene) -> None:
        await asyncio.sleep(later)
        scene.cut("h2")
        await asyncio.sleep(spread)
        scene.cut("h1", "h3", "h4")
        await asyncio.sleep(3)
        assert {name for _, names, _ in scene.told for name in names} == set(scene.addresses)
        assert not any(others for _, _, others in scene.told)

    play(4, script)


def test_two_that_are_all_there_is_cannot_ask_anybody_else() -> None:
    async def script(scene: Scene) -> None:
        scene.cut("h1")
        await asyncio.sleep(3)
        assert [told[1:] for told in scene.told] == [({"h1"}, True)]

    play(1, script)


def test_who_never_answers_or_always_too_late_is_not_judged() -> None:
    async def script(scene: Scene) -> None:
        scene.addresses["filtered"] = (IPv4Address("10.0.1.1"),)
        scene.cut("filtered")
        await asyncio.sleep(5)
        scene.echo.latency = 0.7
        await asyncio.sleep(20)
        late = {name for _, names, _ in scene.told for name in names}
        assert "filtered" not in late
        assert len(scene.told) <= 1, "an answer in time is what earns trust"

    play(3, script)


def test_who_never_answers_is_no_witness_either() -> None:
    """Nor is who is doubted: the others answer, so it is the host that is gone and not the way to
    all of them."""

    async def script(scene: Scene) -> None:
        answering = dict(scene.addresses)
        filtered = {
            f"filtered{number}": (IPv4Address("10.0.1.0") + number,)
            for number in range(1, WITNESSES + 1)
        }
        scene.addresses.clear()
        scene.addresses.update({**filtered, **answering})
        scene.cut(*filtered)
        await asyncio.sleep(FAMILIAR)
        scene.cut("h1")
        await asyncio.sleep(5)

    assert [(names, others) for _, names, others in play(3, script).told] == [({"h1"}, True)]


def test_whoever_stood_still_himself_judges_nobody() -> None:
    """The process is stopped for two seconds; what was answered meanwhile found no room."""

    async def script(scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        scene.cut("h1")
        while scene.echo.asked[scene.addresses["h1"][1]] < ATTEMPTS:
            await asyncio.sleep(0.01)
        loop._jumping.now += 2.0  # type: ignore[attr-defined]
        scene.heal("h1")
        await asyncio.sleep(5)
        assert scene.told == []

    play(4, script)


def test_a_short_cut_is_told_once_and_over_at_once() -> None:
    async def script(scene: Scene) -> None:
        scene.cut("h1")
        await asyncio.sleep(SOON)
        scene.heal("h1")
        await asyncio.sleep(2 * PERIOD + 0.01)
        assert scene.host_monitor.answers("h1")
        await asyncio.sleep(20)
        assert len(scene.told) == 1

    play(3, script)


def test_the_questions_of_a_doubt_are_few() -> None:
    async def script(scene: Scene) -> None:
        scene.cut("h1")
        before = scene.echo.asked[scene.addresses["h1"][1]]
        await asyncio.sleep(5)
        assert scene.echo.asked[scene.addresses["h1"][1]] - before == ATTEMPTS

    play(3, script)

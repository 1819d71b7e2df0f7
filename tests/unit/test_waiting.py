"""To wait for the first of several things."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.support import virtual_time
from weft.errors import OperationFailed
from weft.system.waiting import first


class Waits:
    def __init__(self) -> None:
        self.ended: list[str] = []

    async def for_(self, name: str, seconds: float, error: Exception | None = None) -> None:
        try:
            await asyncio.sleep(seconds)
            if error is not None:
                raise error
        finally:
            await asyncio.sleep(0)
            self.ended.append(name)


def run(main: Callable[[Waits], Awaitable[None]]) -> None:
    async def body() -> None:
        await main(Waits())

    virtual_time.run(body())


def test_the_others_have_ended_when_the_first_is_over() -> None:
    async def main(waits: Waits) -> None:
        begun = asyncio.get_running_loop().time()
        await first(waits.for_("long", 9), waits.for_("short", 2), waits.for_("endless", 1e9))
        assert asyncio.get_running_loop().time() - begun == pytest.approx(2)
        assert sorted(waits.ended) == ["endless", "long", "short"]

    run(main)


def test_what_the_first_raises_is_raised() -> None:
    async def main(waits: Waits) -> None:
        with pytest.raises(OperationFailed, match="broken"):
            await first(
                waits.for_("fails", 1, OperationFailed("broken")),
                waits.for_("later", 2, OperationFailed("unheard")),
            )
        assert sorted(waits.ended) == ["fails", "later"]

    run(main)


def test_whoever_is_cancelled_leaves_nothing_behind() -> None:
    async def main(waits: Waits) -> None:
        outer = asyncio.create_task(asyncio.sleep(9))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await first(waits.for_("a", 5), asyncio.wait((outer,)))
        assert waits.ended == ["a"]
        assert not outer.done()
        outer.cancel()

    run(main)

"""The event log: what is remembered, who hears what."""

import asyncio

from tests.support import virtual_time
from weft.engine.events import REMEMBERED, UNREAD, EventLog
from weft.model.meta import SECOND


def test_past_then_present_until_the_end() -> None:
    async def main() -> None:
        log = EventLog(virtual_time.clock)
        for i in range(3):
            log.record("container", "start", f"c{i}", {})
            await asyncio.sleep(1)
        start = virtual_time.START
        heard = []

        async def listen() -> None:
            async for event in log.listen(start + SECOND, start + 10 * SECOND):
                heard.append(event.id)

        listener = asyncio.ensure_future(listen())
        await asyncio.sleep(1)
        log.record("container", "die", "late", {})
        await asyncio.sleep(20)
        assert listener.done()
        assert heard == ["c1", "c2", "late"]

    virtual_time.run(main())


def test_the_last_ones_are_remembered() -> None:
    async def main() -> None:
        log = EventLog(virtual_time.clock)
        for i in range(REMEMBERED + 10):
            log.record("container", "start", str(i), {})
        assert [e.id for e in log.past] == [str(i) for i in range(10, REMEMBERED + 10)]

    virtual_time.run(main())


def test_a_listener_that_does_not_read_is_cut_off() -> None:
    async def main() -> None:
        log = EventLog(virtual_time.clock)
        listening = log.listen()
        first = asyncio.ensure_future(anext(listening))
        await asyncio.sleep(0)
        for i in range(UNREAD + 5):
            log.record("container", "start", str(i), {})
        assert (await first).id == "0"
        assert len([event async for event in listening]) <= UNREAD

    virtual_time.run(main())

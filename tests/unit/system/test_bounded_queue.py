"""Several producers and one slow consumer: nothing is lost, little waits, and each producer has its
turn."""

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.support import virtual_time
from weft.system.bounded_queue import BoundedQueue

LIMIT = 100


async def say(queue: BoundedQueue[str], name: str, count: int, size: int) -> None:
    for _ in range(count):
        await queue.give(name, name, size)


def test_a_loud_producer_leaves_the_others_their_share() -> None:
    async def main() -> None:
        queue: BoundedQueue[str] = BoundedQueue(LIMIT)
        producers = [asyncio.create_task(say(queue, "loud", 10_000, 1)) for _ in range(3)]
        await asyncio.sleep(1)
        producers += [asyncio.create_task(say(queue, name, 20, 1)) for name in ("a", "b")]
        await asyncio.sleep(1)
        taken: Counter[str] = Counter()
        for _ in range(3):
            taken.update(await queue.take())
            await asyncio.sleep(1)
        assert (taken["a"], taken["b"]) == (20, 20)
        for producer in producers:
            producer.cancel()
        await asyncio.wait(producers)

    virtual_time.run(main())


def test_a_producer_that_gives_up_holds_up_nobody() -> None:
    async def main() -> None:
        queue: BoundedQueue[str] = BoundedQueue(LIMIT)
        await queue.give(1, "first", 60)
        large = asyncio.create_task(queue.give(2, "large", LIMIT))
        small = asyncio.create_task(queue.give(3, "small", 40))
        await asyncio.sleep(1)
        assert not small.done(), "the large one was there before"
        large.cancel()
        await asyncio.sleep(1)
        assert small.done()
        assert await queue.take() == ["first", "small"]

    virtual_time.run(main())


def test_an_item_larger_than_the_queue_passes_alone() -> None:
    async def main() -> None:
        queue: BoundedQueue[str] = BoundedQueue(LIMIT)
        await queue.give(1, "huge", 3 * LIMIT)
        waiting = asyncio.create_task(queue.give(2, "next", 1))
        assert await queue.take() == ["huge"]
        await waiting
        queue.close()
        assert [await queue.take(), await queue.take()] == [["next"], []]

    virtual_time.run(main())


@given(
    st.lists(st.tuples(st.integers(1, LIMIT), st.integers(1, 20)), min_size=1, max_size=6),
    st.lists(st.integers(0, 2), max_size=10),
)
def test_all_arrives_in_each_producers_order_and_the_limit_holds(
    producers: list[tuple[int, int]], pauses: list[int]
) -> None:
    async def main() -> None:
        queue: BoundedQueue[tuple[int, int]] = BoundedQueue(LIMIT)

        async def produce(name: int, size: int, count: int) -> None:
            for number in range(count):
                await queue.give(name, (name, number), size)

        giving = [asyncio.create_task(produce(name, *each)) for name, each in enumerate(producers)]
        taken: list[tuple[int, int]] = []
        total, turn = sum(count for _, count in producers), 0
        while len(taken) < total:
            items = await queue.take()
            assert sum(producers[name][0] for name, _ in items) <= LIMIT
            taken += items
            await asyncio.sleep(pauses[turn % len(pauses)] if pauses else 0)
            turn += 1
        await asyncio.gather(*giving)
        for name, (_, count) in enumerate(producers):
            assert [n for who, n in taken if who == name] == list(range(count))

    virtual_time.run(main())

"""The events on this node, for `docker events`: the last ones are remembered, new ones go to all
listeners."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from weft.model.container import Container, NodeEvent
from weft.model.meta import SECOND, Nanoseconds

REMEMBERED = 256
"""As in Docker."""
UNREAD = 4096
"""Events that a listener may be behind. A listener that is further behind is cut off, so that it
cannot fill the memory."""


class EventLog:
    def __init__(self, clock: Callable[[], Nanoseconds]) -> None:
        self._clock = clock
        self._past: deque[NodeEvent] = deque(maxlen=REMEMBERED)
        self._listeners: set[asyncio.Queue[NodeEvent | None]] = set()
        self.total = 0
        """All events so far."""

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    @property
    def past(self) -> tuple[NodeEvent, ...]:
        return tuple(self._past)

    def add(self, event: NodeEvent) -> None:
        self._past.append(event)
        self.total += 1
        for queue in tuple(self._listeners):
            if queue.qsize() >= UNREAD:
                self._listeners.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)

    def record(self, type: str, action: str, id: str, attributes: dict[str, str]) -> None:
        self.add(
            NodeEvent(type=type, action=action, id=id, attributes=attributes, time=self._clock())
        )

    def container(self, action: str, container: Container, **more: str) -> None:
        """Actions and the names in `more` are Docker's: `kill` has a signal, `die` an exitCode and
        the execDuration in seconds."""
        config = container.config
        attributes = {**config.labels, "image": config.spec.image, "name": config.name, **more}
        self.record("container", action, config.id, attributes)

    async def listen(
        self, since: Nanoseconds = 0, until: Nanoseconds = 0
    ) -> AsyncIterator[NodeEvent]:
        """Yields past events from `since` on (0: none), then new ones as they happen, until `until`
        (0: for ever)."""
        queue: asyncio.Queue[NodeEvent | None] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            for event in self.past if since else ():
                if event.time >= since and (not until or event.time <= until):
                    yield event
            while (event_or_end := await self._next(queue, until)) is not None:
                yield event_or_end
        finally:
            self._listeners.discard(queue)

    async def _next(
        self, queue: "asyncio.Queue[NodeEvent | None]", until: Nanoseconds
    ) -> NodeEvent | None:
        left = (until - self._clock()) / SECOND if until else None
        try:
            async with asyncio.timeout(left):
                return await queue.get()
        except TimeoutError:
            return None

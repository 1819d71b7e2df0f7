"""Takes in what a client sends, such as an archive, as a file."""

import threading
from collections.abc import AsyncIterator
from pathlib import Path

from weft.errors import OperationFailed, cause_of
from weft.runtime.room import Room
from weft.runtime.threads import Threads


async def receive(
    content: AsyncIterator[bytes], path: Path, threads: Threads, stop: threading.Event, task: str
) -> None:
    """Writes the file, as far as there is room on its file system. `stop`: see `Threads.run`.
    Raises `OperationFailed`: `cannot <task>: <cause>`."""
    try:
        room = Room(path.parent)
        with path.open("wb") as file:
            async for chunk in content:
                room.take(len(chunk))
                await threads.run(stop, file.write, chunk)
    except OSError as error:
        raise OperationFailed(f"cannot {task}: {cause_of(error)}") from error
    except OperationFailed as error:
        raise OperationFailed(f"cannot {task}: {error}") from error

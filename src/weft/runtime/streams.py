"""The standard streams of a container (through conmon's socket) and of a command in it (through
pipes or a terminal of the daemon).

Both implement `runtime.base.Attached`.
"""

import asyncio
import fcntl
import os
import socket
import struct
import termios
from pathlib import Path

from weft.errors import Conflict, OperationFailed, cause_of
from weft.runtime.record import opened

_CHUNK = 65536
_PACKET = 8193
"""conmon sends at most 8 KiB at a time, after one byte that names the stream."""
_STREAMS = {2: 1, 3: 2}
"""Maps conmon's number of a stream to Weft's."""
END = (0, b"")


class ContainerStreams:
    """A client of a container's conmon. Other clients see the same output."""

    def __init__(self, directory: Path) -> None:
        """Raises `Conflict` if conmon no longer listens: the container has ended."""
        self._directory = directory
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        fd = opened(directory)
        try:
            self._socket.connect(f"/proc/self/fd/{fd}/attach")
        except OSError as error:
            self._socket.close()
            raise Conflict(
                f"cannot attach to container {directory.name[:12]}: it is not running"
            ) from error
        finally:
            os.close(fd)

    async def read(self) -> tuple[int, bytes]:
        try:
            packet = await asyncio.get_running_loop().sock_recv(self._socket, _PACKET)
        except ConnectionError:
            return END
        return (_STREAMS.get(packet[0], 1), packet[1:]) if packet else END

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), _PACKET - 1):
            try:
                await asyncio.get_running_loop().sock_sendall(
                    self._socket, data[start : start + _PACKET - 1]
                )
            except (ConnectionError, BrokenPipeError):
                return

    async def close_stdin(self) -> None:
        """conmon treats this as the end of input unless other clients may still write."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return

    async def resize(self, rows: int, columns: int) -> None:
        resize_container(self._directory, rows, columns)

    def close(self) -> None:
        self._socket.close()


class PendingStreams:
    """A client that attaches to a container that has not been started. It is connected after the
    container is made and before its program begins, so it misses no output."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._streams: ContainerStreams | None = None
        self._decided = asyncio.Event()

    def connect(self) -> None:
        """Raises `Conflict` if the container has ended already."""
        if not self._decided.is_set():
            self._streams = ContainerStreams(self._directory)
            self._decided.set()

    async def _connected(self) -> ContainerStreams | None:
        """None: closed before that, or the container is gone."""
        await self._decided.wait()
        return self._streams

    async def read(self) -> tuple[int, bytes]:
        streams = await self._connected()
        return END if streams is None else await streams.read()

    async def write(self, data: bytes) -> None:
        if (streams := await self._connected()) is not None:
            await streams.write(data)

    async def close_stdin(self) -> None:
        if (streams := await self._connected()) is not None:
            await streams.close_stdin()

    async def resize(self, rows: int, columns: int) -> None:
        resize_container(self._directory, rows, columns)

    def close(self) -> None:
        self._decided.set()
        if self._streams is not None:
            self._streams.close()


def resize_container(directory: Path, rows: int, columns: int) -> None:
    """Writes to conmon's control FIFO: message 1 is a window size. Raises `Conflict` if conmon is
    gone."""
    try:
        fd = os.open(directory / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Conflict(
            f"cannot resize container {directory.name[:12]}: it is not running"
        ) from error
    try:
        os.write(fd, f"1 {rows} {columns}\n".encode())
    except OSError as error:
        raise OperationFailed(
            f"cannot resize container {directory.name[:12]}: {cause_of(error)}"
        ) from error
    finally:
        os.close(fd)


class CommandStreams:
    """The daemon's ends of a command's streams. The command may write from its start, until the
    pipes are full: nothing is lost before the first read, and a slow reader makes the command
    wait."""

    def __init__(self, stdin: int | None, outputs: dict[int, int]) -> None:
        """`stdin`: descriptor to write to; `outputs`: descriptor -> stream. A terminal is one
        descriptor in both."""
        self._stdin = stdin
        self._outputs = outputs
        self._ready: asyncio.Queue[int] = asyncio.Queue()
        self._ended = False
        self._left = False
        """Whether the client has gone."""
        for fd in {*outputs, *([] if stdin is None else [stdin])}:
            os.set_blocking(fd, False)
        for fd in outputs:
            self._listen(fd)

    def _listen(self, fd: int) -> None:
        asyncio.get_running_loop().add_reader(fd, self._on_readable, fd)

    def _on_readable(self, fd: int) -> None:
        asyncio.get_running_loop().remove_reader(fd)
        self._ready.put_nowait(fd)

    async def read(self) -> tuple[int, bytes]:
        while self._outputs:
            fd = await self._ready.get()
            if fd not in self._outputs:
                continue
            stream = self._outputs[fd]
            data = _read(fd)
            if data:
                self._listen(fd)
                return stream, data
            if data is None and not self._ended:
                self._listen(fd)
                continue
            self._close_output(fd)
        return END

    def end(self) -> None:
        """The command has ended. Its output is still read, but without waiting for child processes
        that it left."""
        self._ended = True
        if self._left:
            self._close_all()
        for fd in self._outputs:
            asyncio.get_running_loop().remove_reader(fd)
            self._ready.put_nowait(fd)

    async def write(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        view = memoryview(data)
        while view and self._stdin is not None:
            try:
                view = view[os.write(self._stdin, view) :]
            except BlockingIOError:
                writable = asyncio.Event()
                loop.add_writer(self._stdin, writable.set)
                try:
                    await writable.wait()
                finally:
                    if self._stdin is not None:
                        loop.remove_writer(self._stdin)
            except OSError:
                return

    async def close_stdin(self) -> None:
        if self._stdin is None:
            return
        if self._stdin in self._outputs:
            await self.write(b"\x04")
            return
        self._close_input()

    async def resize(self, rows: int, columns: int) -> None:
        if self._stdin is not None and self._stdin in self._outputs:
            fcntl.ioctl(self._stdin, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        """The client goes, and the command goes on, as in Docker: it gets no more input, and its
        output is dropped. A pipe that nobody reads would end it or make it wait; so would a
        terminal that is closed."""
        if self._ended or self._left:
            self._close_all()
            return
        self._left = True
        self._close_input()
        for fd in self._outputs:
            asyncio.get_running_loop().remove_reader(fd)
            asyncio.get_running_loop().add_reader(fd, self._drop, fd)

    def _drop(self, fd: int) -> None:
        if _read(fd) == b"":
            self._close_output(fd)

    def _close_all(self) -> None:
        for fd in list(self._outputs):
            self._close_output(fd)
        self._close_input()

    def _close_output(self, fd: int) -> None:
        del self._outputs[fd]
        asyncio.get_running_loop().remove_reader(fd)
        if fd == self._stdin:
            self._stdin = None
        os.close(fd)
        if not self._outputs:
            self._ready.put_nowait(-1)

    def _close_input(self) -> None:
        if self._stdin is not None and self._stdin not in self._outputs:
            asyncio.get_running_loop().remove_writer(self._stdin)
            os.close(self._stdin)
            self._stdin = None


def _read(fd: int) -> bytes | None:
    """b"" at the end, None if there is no data now."""
    try:
        return os.read(fd, _CHUNK)
    except BlockingIOError:
        return None
    except OSError:
        return b""  # EIO: the last process has closed the terminal

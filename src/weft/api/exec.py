"""Commands in running containers: create, start with streams attached, get the exit code, resize
the terminal.

A command that cannot be started is reported as in Docker: on the command's own output stream, with
the exit code that a shell would give, because the client already waits for streams.
"""

import asyncio
import logging

from aiohttp import web

from weft.api.call import Call, answer, nothing
from weft.api.container_lookup import find_container
from weft.api.container_states import check_runs
from weft.api.container_streams import content_type
from weft.api.containers import MAX_SIDE
from weft.api.detach_keys import keys_from
from weft.api.execs import ExecEntry
from weft.api.hijack import Connection, Taken
from weft.api.schema.container import ExecStartWire, ExecWire, exec_json
from weft.api.streams import STDERR, STDOUT, carry, frame, join
from weft.errors import Conflict, InvalidArgument, NotFound, WeftError
from weft.runtime.base import Exec

log = logging.getLogger(__name__)


async def create(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    wire = await call.body(ExecWire)
    if not wire.cmd:
        raise InvalidArgument("No exec command specified")
    check_runs(call, container)
    keys = keys_from(wire.detach_keys, "escape")
    exec = await call.node.containers.exec(
        container.id,
        wire.cmd,
        tty=wire.tty,
        stdin=wire.attach_stdin,
        env=wire.env,
        user=wire.user,
        directory=wire.working_dir,
        privileged=wire.privileged,
    )
    streams = (wire.attach_stdin, wire.attach_stdout, wire.attach_stderr)
    call.execs.add(ExecEntry(exec, streams, keys if wire.tty else b""))
    _tell(call, exec, f"exec_create: {' '.join(exec.argv)}")
    return answer({"Id": exec.id}, 201)


async def inspect(call: Call) -> web.Response:
    entry = call.execs.get(call.id)
    return answer(exec_json(entry.exec, entry.attached, entry.exit_code))


async def resize(call: Call) -> web.Response:
    rows, columns = call.number("h", MAX_SIDE), call.number("w", MAX_SIDE)
    await call.execs.get(call.id).exec.resize(rows, columns)
    return nothing(200)


async def start(call: Call) -> web.StreamResponse:
    entry = call.execs.get(call.id)
    wire = await call.body(ExecStartWire, empty=True)
    if entry.started:
        raise Conflict(f"exec {entry.exec.id} has already been started")
    entry.started = True
    _tell(call, entry.exec, f"exec_start: {' '.join(entry.exec.argv)}")
    return await (
        _start_detached(call, entry) if wire.detach else _start_attached(call, entry, wire)
    )


def _tell(call: Call, exec: Exec, action: str, **attributes: str) -> None:
    try:
        container = call.node.containers.get(exec.container)
    except NotFound:  # removed meanwhile, and the command with it
        return
    call.node.tell(action, container, execID=exec.id, **attributes)


async def _tell_end(call: Call, exec: Exec) -> None:
    _tell(call, exec, "exec_die", exitCode=str(await exec.wait()))


async def _start_detached(call: Call, entry: ExecEntry) -> web.Response:
    """Closes the command's streams at once; the command runs on."""
    try:
        attached = await entry.exec.start()
    except WeftError as error:
        entry.failed = _exit_code(error)
        raise
    call.execs.watch(_tell_end(call, entry.exec))
    attached.close()
    return nothing(200)


async def _start_attached(call: Call, entry: ExecEntry, wire: ExecStartWire) -> Taken:
    """Starts the command after the client has its answer, as Docker does: docker-py loses output
    that comes together with the answer. So an error of the start goes to the stream. The start
    request decides whether output is framed, and may differ from the create request: dockerode's
    examples do not repeat `Tty`."""
    exec, framed = entry.exec, not wire.tty

    async def work(connection: Connection) -> None:
        try:
            attached = await exec.start()
        except WeftError as error:
            entry.failed = _exit_code(error)
            text = f"{error}\r\n".encode()
            await connection.write(frame(STDOUT, text) if framed else text)
            return
        call.execs.watch(_tell_end(call, exec))
        try:
            if wire.console_size and wire.tty and exec.tty:
                await exec.resize(*wire.console_size)
            stdin, stdout, stderr = entry.attached
            outputs = frozenset(
                stream for stream, wanted in ((STDOUT, stdout), (STDERR, stderr)) if wanted
            )
            has_left = await join(
                attached, connection, stdin=stdin, outputs=outputs, framed=framed, keys=entry.keys
            )
            if has_left:
                _tell(call, exec, "exec_detach")
                return
            # The client asks for the exit code as soon as the connection closes, so the exit
            # code must be known before.
            await _ended_or_lost(entry, connection.lost)
        finally:
            attached.close()

    return await carry(call.request, content_type(call, framed), framed, work)


async def _ended_or_lost(entry: ExecEntry, lost: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(entry.exec.wait()), group.create_task(lost.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


def _exit_code(error: WeftError) -> int:
    """127 for a command that does not exist, 126 for one that cannot run."""
    text = str(error).lower()
    return 127 if "not found" in text or "no such file" in text else 126

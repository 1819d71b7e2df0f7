"""Commands in containers of the real conmon and runc, and attaching to containers: streams,
terminals, exit codes."""

import asyncio
import os

import pytest

from tests.kernel import runtime_host
from tests.kernel.runtime_host import Host, read_all, started, with_runtime
from weft.errors import Conflict, InvalidArgument
from weft.model.service import Ulimit
from weft.runtime.conmon import ConmonRuntime

pytestmark = runtime_host.NEEDED
host = runtime_host.host
image_archive = runtime_host.image_archive


@with_runtime
async def test_a_command_has_streams_of_its_own_and_an_exit_code(
    runtime: ConmonRuntime, host: Host
) -> None:
    id = await started(runtime, "sleep", "1000", env=("A=container",))
    command = await runtime.exec(
        id, ("sh", "-c", "echo $A $B; echo bad >&2; cat; exit 7"), stdin=True, env=("B=own",)
    )
    streams = await command.start()
    await streams.write(b"typed")
    await streams.close_stdin()
    assert await read_all(streams) == {1: b"container own\ntyped", 2: b"bad\n"}
    assert (await command.wait(), command.exit_code, command.running) == (7, 7, False)
    streams.close()


@with_runtime
async def test_a_command_has_the_limits_of_its_container(
    runtime: ConmonRuntime, host: Host
) -> None:
    id = await started(
        runtime, "sleep", "1000", ulimits=(Ulimit("nofile", 77, 88),), cap_add=("ALL",)
    )
    streams = await (await runtime.exec(id, ("sh", "-c", "ulimit -n; ulimit -H -n"))).start()
    assert await read_all(streams) == {1: b"77\n88\n"}
    streams.close()


@with_runtime
async def test_a_command_passes_much_data_both_ways(runtime: ConmonRuntime, host: Host) -> None:
    id = await started(runtime, "sleep", "1000")
    command = await runtime.exec(id, ("cat",), stdin=True)
    streams = await command.start()
    data = os.urandom(1 << 20) * 8

    async def feed() -> None:
        await streams.write(data)
        await streams.close_stdin()

    _, output = await asyncio.gather(feed(), read_all(streams))
    assert output == {1: data}
    assert await command.wait() == 0
    streams.close()


@with_runtime
async def test_a_command_on_a_terminal_knows_its_size(runtime: ConmonRuntime, host: Host) -> None:
    id = await started(runtime, "sleep", "1000")
    command = await runtime.exec(
        id, ("sh", "-c", "read x; stty size; tty; exit 9"), tty=True, stdin=True
    )
    streams = await command.start()
    await command.resize(33, 111)
    await streams.write(b"go\n")
    output = (await read_all(streams))[1]
    assert b"33 111\r\n" in output
    assert b"/dev/pts/0\r\n" in output
    assert await command.wait() == 9
    streams.close()


@with_runtime
async def test_a_command_does_not_wait_for_children_it_left_behind(
    runtime: ConmonRuntime, host: Host
) -> None:
    id = await started(runtime, "sleep", "1000")
    command = await runtime.exec(id, ("sh", "-c", "sleep 900 & echo done"))
    streams = await command.start()
    assert await read_all(streams) == {1: b"done\n"}
    streams.close()


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        ("nope", 127, 'exec: "nope": executable file not found in $PATH'),
        ("/absent", 127, 'exec: "/absent": stat /absent: no such file or directory'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_a_command_that_cannot_run_says_so(host: Host, program: str, code: int, words: str) -> None:
    @with_runtime
    async def body(runtime: ConmonRuntime, host: Host) -> None:
        command = await runtime.exec(await started(runtime, "sleep", "1000"), (program,))
        with pytest.raises(InvalidArgument) as caught:
            await command.start()
        prefix = "OCI runtime exec failed: exec failed: unable to start container process: "
        assert str(caught.value) == prefix + words
        assert command.exit_code == code

    body(host)


@with_runtime
async def test_attach_reads_writes_and_resizes_a_container(
    runtime: ConmonRuntime, host: Host
) -> None:
    id = await started(runtime, "sh", "-c", "read x; stty size; exit 4", tty=True, open_stdin=True)
    streams = await runtime.attach(id)
    await streams.resize(20, 70)
    await streams.write(b"go\n")
    output = (await read_all(streams))[1]
    streams.close()
    assert b"20 70\r\n" in output
    assert (await runtime.wait(id)).exit_code == 4
    with pytest.raises(Conflict):
        await runtime.attach(id)


@with_runtime
async def test_a_command_goes_on_without_its_client(runtime: ConmonRuntime, host: Host) -> None:
    """With more output than a pipe or a terminal holds."""
    id = await started(runtime, "sleep", "1000")
    for tty in (False, True):
        script = "sleep 0.1; head -c 900000 /dev/zero && exit 7"
        command = await runtime.exec(id, ("sh", "-c", script), tty=tty)
        (await command.start()).close()
        assert await command.wait() == 7, tty

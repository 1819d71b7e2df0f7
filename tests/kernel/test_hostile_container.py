"""Containers that do what they can with their own files to hold up the daemon, or to be of those
that cannot be removed."""

import asyncio
import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import runtime_host
from tests.kernel.runtime_host import Host, configure, finished, read_all, started
from weft.errors import InvalidArgument, OperationFailed, WeftError
from weft.model.ids import ContainerId
from weft.model.service import Mount
from weft.runtime.command import Command
from weft.runtime.conmon import ConmonRuntime

pytestmark = runtime_host.NEEDED
host = runtime_host.host
image_archive = runtime_host.image_archive

RENAME_EXCHANGE = 2
PATIENCE = 3.0
"""Seconds that the OCI runtime has here."""
_libc = ctypes.CDLL(None, use_errno=True)


def with_runtime(test: Any) -> Any:
    """As in `runtime_host`, with less patience; and nothing of what ran is left in the daemon's
    care."""

    def wrapper(host: Host) -> None:
        async def body() -> None:
            reap_earlier_children()
            runtime = await host.runtime(patience=PATIENCE)
            try:
                async with asyncio.timeout(60):
                    await test(runtime, host)
            finally:
                for container in runtime.containers():
                    await runtime.remove(container.id)
                assert zombies() == []
                await runtime.close()

        asyncio.run(body())

    wrapper.__name__ = test.__name__
    return wrapper


def reap_earlier_children() -> None:
    """Those of other tests in this process, which nobody waits for any more."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def zombies() -> list[str]:
    """Children of this process that nobody has reaped."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if rest.split()[:2] == ["Z", str(os.getpid())]:
            found.append(name)
    return found


def root_of(host: Host, id: ContainerId) -> Path:
    return host.data / "containers" / id / "merged"


def put_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


async def run(
    runtime: ConmonRuntime, id: ContainerId, *argv: str, user: str = ""
) -> dict[int, bytes]:
    streams = await (await runtime.exec(id, argv, user=user)).start()
    try:
        return await read_all(streams)
    finally:
        streams.close()


async def assert_daemon_lives(runtime: ConmonRuntime, other: ContainerId) -> None:
    assert await run(runtime, other, "id", "-u", user="nobody") == {1: b"65534\n"}


@contextmanager
def exchanged(one: Path, other: Path) -> Iterator[None]:
    """One takes the place of the other, without a pause."""
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            assert (
                _libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), RENAME_EXCHANGE)
                == 0
            )

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@with_runtime
async def test_a_command_is_run_or_refused_while_the_users_change_into_a_fifo(
    runtime: ConmonRuntime, host: Host
) -> None:
    hostile, other = (
        await started(runtime, "sleep", "1000"),
        await started(runtime, "sleep", "1000"),
    )
    etc = root_of(host, hostile) / "etc"
    os.mkfifo(etc / "fifo")
    with exchanged(etc / "passwd", etc / "fifo"):
        commands = [
            asyncio.create_task(run(runtime, hostile, "echo", "runs", user="nobody"))
            for _ in range(10)
        ]
        for _ in range(3):
            await assert_daemon_lives(runtime, other)
        results = await asyncio.gather(*commands, return_exceptions=True)
    assert all(isinstance(result, WeftError) or result == {1: b"runs\n"} for result in results), (
        results
    )


@with_runtime
async def test_a_command_finds_users_that_are_no_file(runtime: ConmonRuntime, host: Host) -> None:
    id = await started(runtime, "sleep", "1000")
    passwd = root_of(host, id) / "etc" / "passwd"
    secret = host.data / "secret"
    secret.write_text("outsider:x:77:77::/:\n")

    passwd.unlink()
    passwd.symlink_to(secret)
    assert await run(runtime, id, "id", "-u") == {1: b"0\n"}
    with pytest.raises(
        InvalidArgument, match="unable to find user outsider: no matching entries in passwd file"
    ):
        await runtime.exec(id, ("id",), user="outsider")

    passwd.unlink()
    os.mknod(passwd, 0o020666, os.makedev(1, 3))
    assert await run(runtime, id, "id", "-u", user="7") == {1: b"7\n"}
    with pytest.raises(
        InvalidArgument, match="unable to find user nobody: cannot read /etc/passwd: it is a device"
    ):
        await runtime.exec(id, ("id",), user="nobody")

    put_fifo(passwd)
    for user in ("", "7", "nobody"):
        with pytest.raises(
            InvalidArgument, match="cannot read /etc/passwd of the container: it is a FIFO"
        ):
            await runtime.exec(id, ("id",), user=user)


async def hung(runtime: ConmonRuntime, host: Host, id: ContainerId) -> Command:
    """A command for which the OCI runtime will wait: the file has become a FIFO since the daemon
    looked at it."""
    command = await runtime.exec(id, ("id",))
    put_fifo(root_of(host, id) / "etc" / "passwd")
    return command


@with_runtime
async def test_a_command_that_the_oci_runtime_cannot_start_is_given_up(
    runtime: ConmonRuntime, host: Host
) -> None:
    id, other = await started(runtime, "sleep", "1000"), await started(runtime, "sleep", "1000")
    command = await hung(runtime, host, id)
    starting = asyncio.create_task(command.start())
    await assert_daemon_lives(runtime, other)
    with pytest.raises(
        OperationFailed,
        match=f"cannot run 'id' in container {id[:12]}: .* has not started it within 3 s",
    ):
        await starting
    assert (command.exit_code, await command.wait(), command.running) == (126, 126, False)
    assert zombies() == []
    await runtime.remove(id)


@with_runtime
async def test_a_container_ends_although_a_client_left_while_its_command_was_started(
    runtime: ConmonRuntime, host: Host
) -> None:
    """Its first process waits for all others in its PID namespace to be reaped, also those whose
    parent is the daemon."""
    id = await started(runtime, "sleep", "1000")
    starting = asyncio.create_task((await hung(runtime, host, id)).start())
    async with asyncio.timeout(PATIENCE):
        while not processes_waiting_for_a_writer():
            await asyncio.sleep(0.02)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert zombies() == []
    await runtime.remove(id)


def processes_waiting_for_a_writer() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/wchan"):
        try:
            found += [path.parent.name] if path.read_text() == "wait_for_partner" else []
        except OSError:
            continue
    return found


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07])
def test_a_start_that_is_given_up_at_any_instant_leaves_no_process(
    host: Host, delay: float
) -> None:
    @with_runtime
    async def body(runtime: ConmonRuntime, host: Host) -> None:
        id = await started(runtime, "sleep", "1000")
        for tty in (False, True):
            before = await runtime.top(id)
            starting = asyncio.create_task(
                (await runtime.exec(id, ("sleep", "999"), tty=tty)).start()
            )
            await asyncio.wait((starting,), timeout=delay)
            starting.cancel()
            try:
                (await starting).close()
            except asyncio.CancelledError:
                assert await runtime.top(id) == before
        await runtime.remove(id)

    body(host)


@with_runtime
async def test_a_container_that_the_oci_runtime_cannot_make_is_given_up(
    runtime: ConmonRuntime, host: Host
) -> None:
    fifo = host.data / "fifo"
    os.mkfifo(fifo)
    config = configure("true", mounts=(Mount(type="bind", source=str(fifo), target="/etc/passwd"),))
    with pytest.raises(
        OperationFailed,
        match=f"cannot create container {config.id[:12]}: .* has not made it within 3 s",
    ):
        await runtime.create(config)
    assert zombies() == []
    assert host.leftovers() == []
    assert await finished(runtime, "echo", "next") == (0, b"next\n")


@with_runtime
async def test_a_container_that_left_a_fifo_of_users_is_not_started_again(
    runtime: ConmonRuntime, host: Host
) -> None:
    id = await started(runtime, "sh", "-c", "rm /etc/passwd; mkfifo /etc/passwd")
    await runtime.wait(id)
    with pytest.raises(
        InvalidArgument, match="cannot read /etc/passwd of the container: it is a FIFO"
    ):
        await runtime.start(id)


def test_with_the_disk_full_a_command_is_refused_and_the_container_goes_on(host: Host) -> None:
    """Its own files are on a small disk here."""
    disk = host.data / "containers"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)

    @with_runtime
    async def body(runtime: ConmonRuntime, host: Host) -> None:
        id = await started(runtime, "sleep", "1000")
        filler = root_of(host, id) / "filler"
        with pytest.raises(OSError, match="No space left"), filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
        for tty in (False, True):
            command = await runtime.exec(id, ("echo", "out"), tty=tty)
            with pytest.raises(
                OperationFailed,
                match=f"cannot run 'echo' in container {id[:12]}: No space left on device",
            ):
                await command.start()
            assert (command.exit_code, command.running) == (126, False)
        filler.unlink()
        assert await run(runtime, id, "echo", "out") == {1: b"out\n"}

    try:
        body(host)
    finally:
        subprocess.run(["umount", disk], check=True)


@with_runtime
async def test_a_tree_deeper_than_a_path_can_be_long_is_removed_with_its_container(
    runtime: ConmonRuntime, host: Host
) -> None:
    id = await started(runtime, "sleep", "1000")
    here = os.open(root_of(host, id), os.O_PATH)
    for _ in range(1200):  # Python recurses a thousand times
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_PATH, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    await runtime.remove(id)
    assert runtime.containers() == []

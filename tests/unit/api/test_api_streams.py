"""Answers that fail after they have begun: they end in their own form, and no HTTP response stands
in the middle of them."""

import asyncio
import errno
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop

from tests.support.fake_images import IMAGE
from tests.support.whole_node import WholeNode
from tests.unit.api.served import Get, run_service, serving
from weft.api.streams import ERROR, STDERR, STDOUT
from weft.errors import OperationFailed
from weft.model.container import LogLine
from weft.model.service import ContainerSpec, ServiceSpec, TaskSpec

FULL = OperationFailed("cannot run 'x': No space left on device")
UNFORESEEN = OSError(errno.EIO, "Input/output error")
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
FAILURES = pytest.mark.parametrize("failure", [FULL, UNFORESEEN], ids=["foreseen", "unforeseen"])
Run = Callable[[Coroutine[Any, Any, None]], None]


def words(failure: Exception) -> str:
    return str(failure) if failure is FULL else "internal error"


class Broken:
    """`runtime.base.Attached` of a program whose output ends with a failure."""

    def __init__(self, failure: Exception) -> None:
        self._output: list[tuple[int, bytes]] = [(1, b"out\n"), (2, b"err\n")]
        self._failure = failure
        self.closed = False

    async def read(self) -> tuple[int, bytes]:
        if self._output:
            return self._output.pop(0)
        raise self._failure

    async def write(self, data: bytes) -> None:
        return

    async def close_stdin(self) -> None:
        return

    async def resize(self, rows: int, columns: int) -> None:
        return

    def close(self) -> None:
        self.closed = True


def returning(value: Any) -> Callable[..., Awaitable[Any]]:
    async def function(*_: Any, **__: Any) -> Any:
        return value

    return function


def raising(failure: Exception) -> Callable[..., Awaitable[Any]]:
    async def function(*_: Any, **__: Any) -> Any:
        raise failure

    return function


def breaking(*items: Any, failure: Exception | None = None) -> Callable[..., AsyncIterator[Any]]:
    async def function(*_: Any, **__: Any) -> AsyncIterator[Any]:
        for item in items:
            yield item
        if failure is not None:
            raise failure

    return function


def instead(target: object, **methods: Any) -> None:
    """Puts these in the place of the target's own methods."""
    for name, method in methods.items():
        setattr(target, name, method)


async def exchange(
    path: Path, target: str, body: bytes = b"", upgrade: bool = True
) -> tuple[str, bytes]:
    """(head, all that follows until the connection is closed) of a POST."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    headers = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else ""
    writer.write(
        f"POST {target} HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode()
        + body
    )
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        if b"101 UPGRADED" in head:
            rest = await reader.read()
        else:
            rest = await reader.readexactly(
                int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            )
    writer.close()
    return head.decode(), rest


def frames(data: bytes) -> list[tuple[int, str]]:
    """All of it, or the test fails as a client would."""
    found = []
    while data:
        assert data[0] in (STDOUT, STDERR, ERROR), f"Unrecognized input header: {data[0]}"
        assert data[1:4] == b"\0\0\0"
        length = int.from_bytes(data[4:8], "big")
        assert len(data) >= 8 + length
        found.append((data[0], data[8 : 8 + length].decode()))
        data = data[8 + length :]
    return found


async def make_exec(node: WholeNode, ask: Get, tty: bool = False) -> str:
    id = await run_service(node)
    body = json.dumps(
        {"Cmd": ["cat"], "Tty": tty, "AttachStdout": True, "AttachStderr": True}
    ).encode()
    _, made, _ = await ask("POST", f"/containers/{id}/exec", body)
    return str(made["Id"])


def started(node: WholeNode) -> Any:
    return node.processes.execs[-1]


@LOOPS
@pytest.mark.parametrize("tty", [False, True])
def test_a_command_that_cannot_be_started_says_so_on_its_output(
    tmp_path: Path, run: Run, tty: bool
) -> None:
    """As Docker, whose clients then ask for the exit code."""

    async def check() -> None:
        async with serving(tmp_path / "s") as (node, ask):
            id = await make_exec(node, ask, tty)
            started(node).start = raising(FULL)
            head, rest = await exchange(
                tmp_path / "s", f"/exec/{id}/start", json.dumps({"Tty": tty}).encode()
            )
            assert head.startswith("HTTP/1.1 101 UPGRADED")
            text = f"{FULL}\r\n"
            assert (rest.decode() == text) if tty else (frames(rest) == [(STDOUT, text)])
            assert (await ask("GET", f"/exec/{id}/json"))[1]["ExitCode"] == 126

    run(check())


@pytest.mark.parametrize(("tty", "asked"), [(True, False), (False, True)])
def test_frames_are_as_the_start_asks_and_not_as_the_command_was_made(
    tmp_path: Path, tty: bool, asked: bool
) -> None:
    """dockerode's examples say `Tty` when they create the command, and `hijack` when they start
    it."""

    async def check() -> None:
        async with serving(tmp_path / "s") as (node, ask):
            id = await make_exec(node, ask, tty)
            started(node).start = raising(FULL)
            body = json.dumps({"Tty": asked, "hijack": True, "stdin": True}).encode()
            head, rest = await exchange(tmp_path / "s", f"/exec/{id}/start", body)
            assert head.startswith("HTTP/1.1 101 UPGRADED")
            text = f"{FULL}\r\n"
            assert (rest.decode() == text) if asked else (frames(rest) == [(STDOUT, text)])

    asyncio.run(check())


def test_what_nobody_foresaw_in_starting_a_command_is_said_in_a_frame(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, ask):
            id = await make_exec(node, ask)
            started(node).start = raising(UNFORESEEN)
            head, rest = await exchange(tmp_path / "s", f"/exec/{id}/start", b"{}")
            assert head.startswith("HTTP/1.1 101 UPGRADED")
            ((stream, text),) = frames(rest)
            assert stream == ERROR
            assert text.startswith("internal error")

    asyncio.run(check())


def test_a_client_is_answered_before_its_command_is_started(tmp_path: Path) -> None:
    """docker-py reads the answer through a buffer and the rest past it, so what came with the
    answer is lost to it."""

    async def check() -> None:
        async with serving(tmp_path / "s") as (node, ask):
            id = await make_exec(node, ask)
            answered = asyncio.Event()

            async def start() -> Broken:
                await answered.wait()
                return Broken(FULL)

            started(node).start = start
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
            writer.write(
                f"POST /exec/{id}/start HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{{}}".encode()
            )
            async with asyncio.timeout(20):
                await reader.readuntil(b"\r\n\r\n")
                answered.set()
                assert frames(await reader.read())[0] == (STDOUT, "out\n")
            writer.close()

    asyncio.run(check())


@LOOPS
@FAILURES
@pytest.mark.parametrize("tty", [False, True])
def test_a_commands_output_that_fails_ends_in_a_frame(
    tmp_path: Path, run: Run, failure: Exception, tty: bool
) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, ask):
            id = await make_exec(node, ask, tty)
            broken = Broken(failure)
            started(node).start = returning(broken)
            head, rest = await exchange(
                tmp_path / "s", f"/exec/{id}/start", json.dumps({"Tty": tty}).encode()
            )
            assert head.startswith("HTTP/1.1 101 UPGRADED")
            if tty:
                assert rest.startswith(b"out\nerr\n" + words(failure).encode())
                assert b"HTTP" not in rest
            else:
                *output, (stream, text) = frames(rest)
                assert output == [(STDOUT, "out\n"), (STDERR, "err\n")]
                assert stream == ERROR
                assert text.startswith(words(failure))
            assert broken.closed

    run(check())


@LOOPS
@FAILURES
def test_an_attachment_that_fails_ends_in_a_frame(
    tmp_path: Path, run: Run, failure: Exception
) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, _):
            id = await run_service(node)
            broken = Broken(failure)
            instead(node.containers, attach=returning(broken))
            _, rest = await exchange(
                tmp_path / "s", f"/containers/{id}/attach?stream=1&stdout=1&stderr=1"
            )
            *output, (stream, text) = frames(rest)
            assert output == [(STDOUT, "out\n"), (STDERR, "err\n")]
            assert stream == ERROR
            assert text.startswith(words(failure))
            instead(node.containers, logs=breaking(LogLine(1, 0, b"before\n"), failure=failure))
            _, rest = await exchange(
                tmp_path / "s", f"/containers/{id}/attach?stream=1&logs=1&stdout=1"
            )
            *output, (stream, text) = frames(rest)
            assert (output, stream) == ([(STDOUT, "before\n")], ERROR)
            assert broken.closed

    run(check())


@LOOPS
def test_what_an_attachment_shows_and_whether_it_ends_at_once(tmp_path: Path, run: Run) -> None:
    """All combinations: past output or not, output from now on or not, of which streams. Only a
    stream attaches to the container."""

    async def check() -> None:
        async with serving(tmp_path / "s") as (node, _):
            id = await run_service(node)
            past = LogLine(1, 0, b"past\n"), LogLine(2, 0, b"failed\n")
            shown = {1: [(STDOUT, "past\n")], 2: [(STDERR, "failed\n")]}
            for logs, stream, out, err in itertools.product((0, 1), repeat=4):
                broken = Broken(OperationFailed("end of the test"))
                instead(node.containers, attach=returning(broken), logs=breaking(*past))
                query = f"logs={logs}&stream={stream}&stdout={out}&stderr={err}"
                _, rest = await exchange(tmp_path / "s", f"/containers/{id}/attach?{query}")
                expected = [*(shown[1] * out), *(shown[2] * err)] * logs
                live = [(STDOUT, "out\n")] * out + [(STDERR, "err\n")] * err
                seen = frames(rest)
                if stream:
                    assert seen.pop()[0] == ERROR
                assert seen == expected + live * stream, query
                assert broken.closed == bool(stream)

    run(check())


async def ask_whole(path: Path, method: str, url: str) -> bytes:
    """The body; raises if the answer breaks off."""
    async with (
        aiohttp.ClientSession(
            "http://docker", connector=aiohttp.UnixConnector(str(path))
        ) as session,
        session.request(method, url, timeout=aiohttp.ClientTimeout(20)) as response,
    ):
        assert response.status == 200
        return await response.read()


@LOOPS
@FAILURES
def test_logs_that_cannot_be_read_on_end_in_a_frame(
    tmp_path: Path, run: Run, failure: Exception
) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, _):
            id = await run_service(node)
            instead(node.containers, logs=breaking(LogLine(1, 0, b"before\n"), failure=failure))
            body = await ask_whole(
                tmp_path / "s", "GET", f"/containers/{id}/logs?follow=1&stdout=1"
            )
            first, (stream, text) = frames(body)
            assert first == (STDOUT, "before\n")
            assert stream == ERROR
            assert text.startswith(f"Error grabbing logs: {words(failure)}")

    run(check())


@FAILURES
@pytest.mark.parametrize("tty", [False, True])
def test_a_services_logs_that_cannot_be_read_on_end_in_their_form(
    tmp_path: Path, failure: Exception, tty: bool
) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, _):
            spec = ServiceSpec(
                name="web", task=TaskSpec(container=ContainerSpec(image=IMAGE, tty=tty))
            )
            id = await node.swarm().create_service(spec)
            instead(node.manager.swarm, logs=breaking(failure=failure))
            body = await ask_whole(tmp_path / "s", "GET", f"/services/{id}/logs?follow=1&stdout=1")
            text = f"Error grabbing logs: rpc error: code = Unknown desc = {words(failure)}"
            if tty:
                assert body.decode().startswith(text)
            else:
                ((stream, found),) = frames(body)
                assert stream == ERROR
                assert found.startswith(text)

    asyncio.run(check())


@FAILURES
def test_waiting_that_fails_says_so(tmp_path: Path, failure: Exception) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, _):
            id = await run_service(node)
            instead(node.containers, wait=raising(failure))
            body = json.loads(await ask_whole(tmp_path / "s", "POST", f"/containers/{id}/wait"))
            assert body["Error"]["Message"].startswith(words(failure))

    asyncio.run(check())


@FAILURES
def test_a_pull_that_fails_on_its_way_says_so(tmp_path: Path, failure: Exception) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, ask):
            instead(node.images, pull=breaking("Pulling", failure=failure))
            body = await ask_whole(tmp_path / "s", "POST", "/images/create?fromImage=a&tag=1")
            first, last = map(json.loads, body.splitlines())
            assert first == {"status": "Pulling"}
            assert last["error"].startswith(words(failure))
            instead(node.images, pull=breaking(failure=failure))
            status, answer, _ = await ask("POST", "/images/create?fromImage=a&tag=1")
            assert status == 500
            assert answer["message"].startswith(words(failure))

    asyncio.run(check())


@LOOPS
@FAILURES
def test_events_that_fail_break_off(tmp_path: Path, run: Run, failure: Exception) -> None:
    """They have no form for an error; a client must not take what it has got for all."""

    async def check() -> None:
        async with serving(tmp_path / "s") as (node, ask):
            await node.swarm().create_service(
                ServiceSpec(name="web", task=TaskSpec(container=ContainerSpec(image=IMAGE)))
            )
            event = await anext(node.events(since=1))
            instead(node, events=breaking(event, failure=failure))
            with pytest.raises(aiohttp.ClientError):
                await ask_whole(tmp_path / "s", "GET", "/events")
            assert (await ask("GET", "/_ping"))[0] == 200

    run(check())


def test_a_client_that_leaves_while_its_command_is_started_ends_the_start(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, ask):
            id = await make_exec(node, ask)
            begun, ended = asyncio.Event(), asyncio.Event()

            async def start() -> Broken:
                begun.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.set()
                return Broken(FULL)

            started(node).start = start
            _, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
            writer.write(
                f"POST /exec/{id}/start HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{{}}".encode()
            )
            async with asyncio.timeout(20):
                await begun.wait()
                writer.close()
                await ended.wait()

    asyncio.run(check())

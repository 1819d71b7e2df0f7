"""Clients of the API that send no more, do not read, or leave: each gets the answer that it can
still have, and none holds up the others."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.support.whole_node import asked_for
from tests.unit.api.served import run_service, serving

LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


async def half_closed(path: Path, *requests: bytes) -> bytes:
    """All that comes back to a client that sends these, each behind the other, and says at once
    that it sends no more."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"".join(requests))
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


@LOOPS
def test_a_client_that_sends_no_more_gets_its_answer(
    tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, _):
            id = (await run_service(node)).encode()
            get = b"GET /nodes HTTP/1.1\r\nHost: d\r\n\r\n"
            answer = await half_closed(tmp_path / "s", get)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])[0]["Spec"]["Role"] == "manager"
            assert (await half_closed(tmp_path / "s", get, get, get)).count(b"HTTP/1.1 200 OK") == 3
            post = b"POST /networks/create HTTP/1.1\r\nHost: d\r\nContent-Length: 32\r\n\r\n"
            made = await half_closed(tmp_path / "s", post, b'{"Name": "n","Driver":"overlay"}')
            assert b"201 Created" in made
            logs = await half_closed(
                tmp_path / "s", b"GET /containers/%s/logs?stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n" % id
            )
            assert b"listening\n" in logs
            now = int(time.time()) + 1
            events = await half_closed(
                tmp_path / "s", b"GET /events?since=1&until=%d HTTP/1.1\r\nHost: d\r\n\r\n" % now
            )
            assert b'"Action":"create"' in events

    run(check())


@LOOPS
def test_a_command_is_run_for_a_client_that_sends_no_more(
    tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, ask):
            id = await run_service(node)
            for upgrade in (b"", b"Connection: Upgrade\r\nUpgrade: tcp\r\n"):
                body = (
                    b'{"Cmd":["sh","-c","cat; echo done"],"AttachStdin":true,"AttachStdout":true}'
                )
                _, made, _ = await ask("POST", f"/containers/{id}/exec", body)
                head = (
                    b"POST /exec/%s/start HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n"
                    % made["Id"].encode()
                )
                answer = await half_closed(tmp_path / "s", head + upgrade + b"\r\n{}")
                assert parse_frames(answer.partition(b"\r\n\r\n")[2]) == [b"done\n"]

    run(check())


@LOOPS
def test_half_a_request_is_no_request(
    tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, _):
            before = asked_for(node.swarm().state)
            post = b"POST /networks/create HTTP/1.1\r\nHost: d\r\nContent-Length: 99\r\n\r\n"
            for parts in ((), (b"GET /no",), (post, b'{"Name": "n","Driver":"overlay"}')):
                assert await half_closed(tmp_path / "s", *parts) == b""
            assert asked_for(node.swarm().state) == before

    run(check())


@LOOPS
def test_a_follower_that_sends_no_more_and_then_leaves_is_let_go(
    tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, _):
            id = await run_service(node)
            before = len(asyncio.all_tasks())
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
            writer.write(
                b"GET /containers/%s/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n"
                % id.encode()
            )
            writer.write_eof()
            await asyncio.wait_for(reader.readuntil(b"listening\n"), 20)
            assert len(asyncio.all_tasks()) > before
            writer.close()
            deadline = time.monotonic() + 20
            while len(asyncio.all_tasks()) > before:
                assert time.monotonic() < deadline, asyncio.all_tasks()
                await asyncio.sleep(0.01)

    run(check())


def test_many_may_wait_to_be_accepted(tmp_path: Path) -> None:
    """As clients written in Go do it: without waiting themselves."""

    async def check() -> None:
        async with serving(tmp_path / "s"):
            room = min(500, int(Path("/proc/sys/net/core/somaxconn").read_text()))
            with ExitStack() as clients:
                for _ in range(room):
                    client = clients.enter_context(
                        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                    )
                    client.connect(str(tmp_path / "s"))

    asyncio.run(check())


@LOOPS
def test_a_raw_client_may_close_its_half_and_read_on(
    tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, ask):
            id = await run_service(node)
            _, made, _ = await ask(
                "POST",
                f"/containers/{id}/exec",
                b'{"Cmd":["cat"],"AttachStdin":true,"AttachStdout":true}',
            )
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
            body = b"{}"
            writer.write(
                b"POST /v1.45/exec/%s/start HTTP/1.1\r\nHost: d\r\nContent-Type:"
                b" application/json\r\nContent-Length: %d\r\nConnection: Upgrade\r\nUpgrade:"
                b" tcp\r\n\r\n%s" % (made["Id"].encode(), len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(
                b"HTTP/1.1 101 UPGRADED\r\nContent-Type:"
                b" application/vnd.docker.multiplexed-stream\r\n"
            )
            writer.write(b"at once\n")
            writer.write_eof()
            output = await asyncio.wait_for(reader.read(), 20)
            writer.close()
            assert b"".join(parse_frames(output)) == b"at once\n"
            assert (await ask("GET", f"/exec/{made['Id']}/json"))[1]["ExitCode"] == 0

    run(check())


def parse_frames(data: bytes) -> list[bytes]:
    frames = []
    while data:
        length = int.from_bytes(data[4:8], "big")
        frames.append(data[8 : 8 + length])
        data = data[8 + length :]
    return frames


def test_a_client_that_does_not_read_holds_up_nobody_else(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, ask):
            id = await run_service(node)
            _, made, _ = await ask(
                "POST", f"/containers/{id}/exec", b'{"Cmd":["cat","/dev/zero"],"AttachStdout":true}'
            )
            with (
                socket.socket(socket.AF_UNIX) as stuck,
                socket.socket(socket.AF_UNIX) as unfinished,
            ):
                for client, request in (
                    (
                        stuck,
                        b"POST /exec/%s/start HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{}",
                    ),
                    (
                        unfinished,
                        (
                            b"POST /containers/%s/exec HTTP/1.1\r\nHost: d\r\nContent-Length:"
                            b" 99\r\n\r\n{"
                        ),
                    ),
                ):
                    client.connect(str(tmp_path / "s"))
                    client.sendall(request % made["Id"].encode())
                for _ in range(20):
                    assert (await asyncio.wait_for(ask("GET", "/_ping"), 20))[0] == 200

    asyncio.run(check())


def test_a_follower_that_leaves_is_let_go(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, _):
            id = await run_service(node)
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
            before = len(asyncio.all_tasks())
            writer.write(
                b"GET /containers/%s/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n"
                % id.encode()
            )
            await reader.readuntil(b"listening\n")
            assert len(asyncio.all_tasks()) > before
            writer.close()
            deadline = time.monotonic() + 20
            while len(asyncio.all_tasks()) > before:
                assert time.monotonic() < deadline, asyncio.all_tasks()
                await asyncio.sleep(0.01)

    asyncio.run(check())

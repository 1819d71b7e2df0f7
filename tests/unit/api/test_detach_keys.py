"""The keys with which a client at a terminal leaves a program that goes on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.fake_images import IMAGE
from tests.unit.api.served import serving
from weft.api.detach_keys import USUAL, DetachKeys, keys_from
from weft.errors import InvalidArgument

PATIENCE = 20


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", USUAL),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("a", b"a"),
        ("ctrl-@,ctrl-a,ctrl-z,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_,DEL,~",
         b"\x00\x01\x1a\x1b\x1c\x1d\x1e\x1f\x7f~"),
    ],
)  # fmt: skip
def test_keys_as_the_docker_command_writes_them(text: str, keys: bytes) -> None:
    assert keys_from(text, "detach") == keys


@pytest.mark.parametrize("text", ["ctrl-P", "ctrl-", "ab", "a,", ",", "é", "del", "ctrl-1"])
def test_what_no_key_is_called(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        keys_from(text, "escape")
    assert str(refused.value) == f"Invalid escape keys ({text}) provided"


@pytest.mark.parametrize(
    ("pieces", "passed", "pressed"),
    [
        ((b"ls\n",), b"ls\n", False),
        ((b"\x10\x11",), b"", True),
        ((b"ls\x10\x11more",), b"ls", True),
        ((b"ls\x10", b"\x11"), b"ls", True),
        ((b"\x10", b"x"), b"\x10x", False),
        ((b"\x10\x10\x11",), b"\x10\x10\x11", False),
        ((b"\x11\x10",), b"\x11", False),
    ],
)
def test_all_other_input_is_the_programs(
    pieces: tuple[bytes, ...], passed: bytes, pressed: bool
) -> None:
    keys = DetachKeys(USUAL)
    assert b"".join(map(keys.left_of, pieces)) == passed
    assert keys.pressed.is_set() == pressed
    assert DetachKeys(b"").left_of(b"\x10\x11") == b"\x10\x11"


@asynccontextmanager
async def taken(
    path: Path, target: str, body: bytes = b""
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """The streams of a request that takes the connection over."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    head = f"Host: d\r\nContent-Length: {len(body)}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    writer.write(f"POST {target} HTTP/1.1\r\n{head}\r\n".encode() + body)
    try:
        async with asyncio.timeout(PATIENCE):
            assert b"101 UPGRADED" in await reader.readuntil(b"\r\n\r\n")
            yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("given", "pressed"), [("", b"\x10\x11"), ("ctrl-x,q", b"\x18q")], ids=["usual", "own"]
)
@pytest.mark.parametrize("door", ["attach", "exec"])
def test_with_them_a_client_leaves_and_the_program_goes_on(
    tmp_path: Path, door: str, given: str, pressed: bytes
) -> None:
    path = tmp_path / "s"

    async def check() -> None:
        async with serving(path) as (node, ask):
            made = {"Image": IMAGE, "Tty": True, "OpenStdin": True, "Cmd": ["cat"],
                    "HostConfig": {"NetworkMode": "none"}}  # fmt: skip
            body = json.dumps(made).encode()
            assert (await ask("POST", "/containers/create?name=it", body))[0] == 201
            assert (await ask("POST", "/containers/it/start"))[0] == 204
            target, body = (
                f"/containers/it/attach?stream=1&stdin=1&stdout=1&detachKeys={given}",
                b"",
            )
            if door == "exec":
                wish = {"Cmd": ["cat"], "Tty": True, "AttachStdin": True, "AttachStdout": True,
                        "DetachKeys": given}  # fmt: skip
                told = await ask("POST", "/containers/it/exec", json.dumps(wish).encode())
                target, body = f"/exec/{told[1]['Id']}/start", b'{"Tty": true}'
            async with taken(path, target, body) as (reader, writer):
                writer.write(b"in\n")
                assert (await reader.readline()).strip() == b"in"
                writer.write(pressed)
                await reader.read()
            (container,) = node.containers.containers()
            assert container.state.value == "running"
            actions = [event.action for event in node.engine.events.past]
            assert actions[-1] == ("detach" if door == "attach" else "exec_detach")
            if door == "exec":
                assert (await ask("GET", f"/exec/{told[1]['Id']}/json"))[1]["Running"] is True

    asyncio.run(check())


def test_wrong_keys_are_refused(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (_, ask):
            body = json.dumps({"Image": IMAGE}).encode()
            await ask("POST", "/containers/create?name=it", body)
            status, told, _ = await ask("POST", "/containers/it/attach?detachKeys=ctrl-P")
            assert (status, told["message"]) == (400, "Invalid detach keys (ctrl-P) provided")

    asyncio.run(check())

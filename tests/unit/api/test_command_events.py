"""The events of what a client does to a running container: as Docker gives them."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.unit.api.served import run_service, serving


def shown(node: Any, container: str) -> list[tuple[str, dict[str, str]]]:
    """Without what every event of a container has."""
    usual = ("image", "name", "execID")
    return [
        (e.action, {k: v for k, v in e.attributes.items() if k not in usual and "." not in k})
        for e in node.engine.events.past
        if e.type == "container" and e.id == container
    ]


async def until(node: Any, action: str) -> None:
    async with asyncio.timeout(10):
        async for event in node.events(1):
            if event.action == action:
                return


def test_a_command_is_told_when_it_is_made_started_and_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "docker.sock") as (node, ask):
            container = await run_service(node, "sh", "-c", "sleep 60")
            body = json.dumps({"Cmd": ["sh", "-c", "exit 3"], "AttachStdout": True}).encode()
            _, made, _ = await ask("POST", f"/containers/{container}/exec", body)
            status, _, _ = await ask("POST", f"/exec/{made['Id']}/start", b'{"Detach": true}')
            assert status == 200
            await until(node, "exec_die")
            told = shown(node, container)
            assert [action for action, _ in told[-3:]] == [
                "exec_create: sh -c exit 3",
                "exec_start: sh -c exit 3",
                "exec_die",
            ]
            assert told[-1][1] == {"exitCode": "3"}
            commands = {e.attributes.get("execID") for e in list(node.engine.events.past)[-3:]}
            assert commands == {made["Id"]}

    asyncio.run(main())


def test_looking_at_processes_and_stopping_are_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "docker.sock") as (node, ask):
            container = await run_service(node, "sh", "-c", "sleep 60")
            assert (await ask("GET", f"/containers/{container}/top"))[0] == 200
            assert (await ask("POST", f"/containers/{container}/stop?t=1"))[0] == 204
            actions = [action for action, _ in shown(node, container)]
            assert [a for a in actions if a in ("top", "kill", "die", "stop")] in (
                ["top", "kill", "die", "stop"],
                ["top", "kill", "kill", "die", "stop"],  # a shell that starts may miss the signal
            )

    asyncio.run(main())

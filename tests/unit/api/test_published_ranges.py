"""Ranges of the host's ports: `docker run -p 8000-8001:80`."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.support.fake_images import IMAGE
from tests.unit.api.served import serving


def asked(ports: str, target: str = "80/tcp") -> bytes:
    bindings = {target: [{"HostIp": "127.0.0.1", "HostPort": ports}]}
    return json.dumps({"Image": IMAGE, "HostConfig": {"PortBindings": bindings}}).encode()


def test_containers_share_a_range_until_none_of_its_ports_is_free(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (_, ask):

            async def run(name: str) -> tuple[int, Any]:
                body = asked("48100-48101")
                assert (await ask("POST", f"/containers/create?name={name}", body))[0] == 201
                status, answer, _ = await ask("POST", f"/containers/{name}/start")
                return status, answer

            async def port(name: str) -> str:
                _, told, _ = await ask("GET", f"/containers/{name}/json")
                assert told["HostConfig"]["PortBindings"]["80/tcp"][0]["HostPort"] == "48100-48101"
                [binding] = told["NetworkSettings"]["Ports"]["80/tcp"]
                return str(binding["HostPort"])

            assert [(await run(name))[0] for name in ("one", "two")] == [204, 204]
            assert [await port(name) for name in ("one", "two")] == ["48100", "48101"]
            status, answer = await run("three")
            assert status == 500
            assert answer["message"].endswith(": all ports are allocated")
            _, told, _ = await ask("GET", "/containers/three/json")
            assert (told["State"]["Status"], told["State"]["ExitCode"]) == ("created", 128)
            assert told["State"]["Error"] == answer["message"]
            await ask("DELETE", "/containers/one?force=1")
            assert (await ask("POST", "/containers/three/start"))[0] == 204
            assert await port("three") == "48100"
            _, told, _ = await ask("GET", "/containers/three/json")
            assert (told["State"]["ExitCode"], told["State"]["Error"]) == (0, "")

    asyncio.run(check())


def test_what_is_no_range_is_refused(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (_, ask):
            for ports in ("0-8000", "8001-8000", "8000-", "-8000", "1-2-3", "8000-65536", "a"):
                status, answer, _ = await ask("POST", "/containers/create", asked(ports))
                assert (status, ports in answer["message"]) == (400, True), ports

    asyncio.run(check())

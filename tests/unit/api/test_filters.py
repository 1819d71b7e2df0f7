"""Filters of lists: which there are, and what their values mean, as in Docker."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.fake_images import IMAGE
from tests.unit.api.served import serving
from weft.api import events, filters
from weft.errors import InvalidArgument
from weft.model.container import NodeEvent
from weft.model.service import ContainerSpec, Mount, ServiceSpec, TaskSpec

Count = Callable[[str, dict[str, list[str]]], Awaitable[int | str]]


def run(path: Path, check: Callable[[Count], Awaitable[None]]) -> None:
    """`Count` says how many items a list has with these filters, or why it has none."""

    async def scene() -> None:
        async with serving(path, labels={"disk": "fast"}) as (node, ask):
            container = ContainerSpec(
                image=IMAGE,
                labels={"ctrlab": "2"},
                mounts=(Mount(type="bind", source="/a", target="/b"),),
            )
            spec = ServiceSpec(
                name="web", labels={"svclab": "1"}, replicas=2, task=TaskSpec(container=container)
            )
            await node.swarm().create_service(spec)
            await node.until_running("web")

            async def count(url: str, wanted: dict[str, list[str]]) -> int | str:
                status, body, _ = await ask("GET", f"{url}?filters={quote(json.dumps(wanted))}")
                return len(body) if status == 200 else str(body["message"])

            await check(count)

    asyncio.run(scene())


TASKS: list[tuple[dict[str, list[str]], Any]] = [
    ({"label": ["svclab=1"]}, 2),
    ({"label": ["svclab"]}, 2),
    ({"label": ["svclab="]}, 2),
    ({"label": ["svclab=2"]}, 0),
    ({"label": ["ctrlab=2"]}, 0),
    ({"desired-state": ["running"]}, 2),
    ({"desired-state": ["Running"]}, 2),
    ({"desired-state": ["ready"]}, 0),
    ({"desired-state": ["complete", "RUNNING"]}, 2),
    ({"desired-state": [""]}, 2),
    ({"desired-state": ["nonsense"]}, "Invalid desired-state filter: 'nonsense'"),
    ({"_up-to-date": ["true"]}, 2),
    ({"runtime": ["container"]}, 2),
]


@pytest.mark.parametrize(("wanted", "found"), TASKS, ids=str)
def test_tasks(tmp_path: Path, wanted: dict[str, list[str]], found: Any) -> None:
    async def check(count: Count) -> None:
        assert await count("/tasks", wanted) == found

    run(tmp_path / "s", check)


def test_every_state_of_a_task_may_be_asked_for(tmp_path: Path) -> None:
    async def check(count: Count) -> None:
        for state in (
            "new",
            "pending",
            "assigned",
            "accepted",
            "preparing",
            "ready",
            "starting",
            "running",
            "complete",
            "shutdown",
            "failed",
            "rejected",
            "remove",
            "orphaned",
        ):
            assert await count("/tasks", {"desired-state": [state]}) == (
                2 if state == "running" else 0
            )

    run(tmp_path / "s", check)


def test_nodes(tmp_path: Path) -> None:
    async def check(count: Count) -> None:
        for wanted, found in (
            ({"role": ["Manager"]}, 1),
            ({"role": ["WORKER"]}, 0),
            ({"role": [""]}, 1),
            ({"role": ["king"]}, "Invalid role filter: 'king'"),
            ({"membership": ["Accepted"]}, 1),
            ({"membership": ["PENDING"]}, 0),
            ({"membership": ["x"]}, "Invalid membership filter: 'x'"),
            ({"label": ["disk=fast"]}, 1),
            ({"label": ["disk="]}, 1),
            ({"label": ["disk=slow"]}, 0),
        ):
            assert await count("/nodes", wanted) == found, wanted

    run(tmp_path / "s", check)


def test_containers(tmp_path: Path) -> None:
    async def check(count: Count) -> None:
        for wanted, found in (
            ({"health": ["none"]}, 2),
            ({"health": ["healthy"]}, 0),
            (
                {"health": ["sick"]},
                "invalid filter 'health=sick': invalid value for health (sick): must be one of none,"
                " starting, healthy, unhealthy",
            ),
            ({"volume": ["/b"]}, 2),
            ({"volume": ["/a"]}, 2),
            ({"volume": ["/c"]}, 0),
            ({"isolation": ["default"]}, 2),
            ({"publish": ["80"]}, 0),
            ({"publish": ["8000-9000/udp"]}, 0),
            ({"expose": ["80/nonsense"]}, "invalid filter 'expose=80/nonsense'"),
            ({"publish": ["9-8"]}, "invalid filter 'publish=9-8'"),
            ({"nonsense": ["a"]}, "invalid filter 'nonsense'"),
        ):
            assert await count("/containers/json", wanted) == found, wanted

    run(tmp_path / "s", check)


def test_of_an_image_only_the_names_that_were_asked_for_are_shown(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (_, ask):
            for tag in ("bb:1", "bb:2"):
                repo, _, version = tag.partition(":")
                assert (await ask("POST", f"/images/{IMAGE}/tag?repo={repo}&tag={version}"))[
                    0
                ] == 201
            for pattern, names in (
                ("bb:1", ["bb:1"]),
                ("*:2", ["bb:2"]),
                ("bb", ["bb:1", "bb:2"]),
                ("none", None),
            ):
                _, found, _ = await ask(
                    "GET", f"/images/json?filters={quote(json.dumps({'reference': [pattern]}))}"
                )
                assert [image["RepoTags"] for image in found] == ([names] if names else [])

    asyncio.run(check())


def test_events_may_be_asked_for_of_every_kind_of_object() -> None:
    event = NodeEvent(
        type="network",
        action="connect",
        id="n1",
        time=1,
        attributes={"name": "net", "container": "c1"},
    )
    kinds = (
        "container",
        "image",
        "network",
        "service",
        "node",
        "config",
        "daemon",
        "plugin",
        "secret",
        "volume",
    )
    for kind in kinds:
        wanted = filters.parse(json.dumps({kind: ["n1", "c1"]}), events.FILTERS)
        assert filters.compile_test(wanted, events.MAKERS)(event) == (
            kind in ("container", "network")
        )
    with pytest.raises(InvalidArgument, match="invalid filter 'nonsense'"):
        filters.parse('{"nonsense": ["a"]}', events.FILTERS)

"""What hostile requests are sent to: a node in memory, or a daemon behind a socket."""

import json
import logging
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.hostile.harness import LogWatch, play, send
from tests.hostile.managed_node import ManagedNode
from tests.hostile.requests import Draft, Names, Request
from tests.support.fake_images import IMAGE
from weft.api.server import ApiServer

EXEC = b'{"Cmd":["cat"],"AttachStdin":true,"AttachStdout":true}'
LISTS = ("/networks", "/services", "/nodes", "/swarm", "/images/json")
VERSIONED = ("/services/web", "/nodes/node2", "/swarm")
VOLATILE = frozenset(
    (
        "Status",
        "Version",
        "UpdatedAt",
        "ManagerStatus",
        "Endpoint",
        "UpdateStatus",
        "Containers",
        "Description",
        "IPAM",
    )
)
"""What changes by itself, or says when something did."""


async def _command(path: Path, container: str) -> str:
    """The id of one that waits to be started."""
    made = await send(path, Request("POST", f"/containers/{container}/exec", body=EXEC))
    return str(json.loads(made.body).get("Id", "nothing"))


class InMemory:
    def __init__(self, node: ManagedNode, path: Path) -> None:
        self.node = node
        self.path = path

    async def prepare(self, draft: Draft) -> Names:
        await self.node.furnish()
        state = self.node.manager.swarm.state
        command = (
            await _command(self.path, self.node.container) if draft.path.startswith("/exec") else ""
        )
        return {
            "containers": self.node.container, "exec": command, "images": IMAGE,
            "distribution": IMAGE,
            "networks": "net", "services": "web", "nodes": "node2",
            "tasks": next(iter(state.tasks), "nothing"),
            **{f"version of {kind}": str(version) for kind,
                version in self.node.versions().items()},
        }  # fmt: skip

    async def specs(self) -> Mapping[str, object]:
        return self.node.specs()


class Daemon:
    """Has a service `web` and a network `net` made for it; containers are those that are there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def _get(self, path: str) -> Any:
        return json.loads((await send(self.path, Request("GET", path))).body)

    async def prepare(self, draft: Draft) -> Names:
        network = b'{"Name":"net","Driver":"overlay","Attachable":true}'
        service = (
            b'{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"%s"},'
            b'"Networks":[{"Target":"net"}]}}' % IMAGE.encode()
        )
        await send(self.path, Request("POST", "/networks/create", body=network))
        await send(self.path, Request("POST", "/services/create", body=service))
        container = next(iter(await self._get("/containers/json")), {"Id": "nothing"})["Id"]
        return {
            "containers": container, "exec": await _command(self.path, container), "images": IMAGE,
            "distribution": IMAGE, "networks": "net",
            "services": "web", "nodes": "node2",
            "tasks": next(iter(await self._get("/tasks")), {"ID": "nothing"})["ID"],
            **{f"version of {path.split('/')[1]}": await self._version(path) for path in VERSIONED},
        }  # fmt: skip

    async def _version(self, path: str) -> str:
        return str((await self._get(path)).get("Version", {}).get("Index", 1))

    async def specs(self) -> Mapping[str, object]:
        return {path: _lasting(await self._get(path)) for path in LISTS}


def _lasting(value: Any) -> Any:
    if isinstance(value, list):
        return sorted((_lasting(item) for item in value), key=str)
    return (
        {key: item for key, item in value.items() if key not in VOLATILE}
        if isinstance(value, dict)
        else value
    )


async def in_memory(path: Path, drafts: Iterable[Draft]) -> list[str]:
    """What went wrong."""
    log = LogWatch()
    root = logging.getLogger()
    level = root.level
    root.addHandler(log)
    root.setLevel(logging.INFO)
    disk = tempfile.TemporaryDirectory()
    node = ManagedNode(Path(disk.name))
    await node.resume()
    server = ApiServer(node)
    await server.start(path)
    try:
        return await play(InMemory(node, path), drafts, log)
    finally:
        root.removeHandler(log)
        root.setLevel(level)
        await server.close()
        await node.close()
        disk.cleanup()


async def daemon(path: Path, drafts: Iterable[Draft]) -> list[str]:
    """The same; a lab's daemon stays in its swarm, and its images where they are."""
    kept = ("/swarm/leave", "/swarm/join", "/images/create", "/images/{id:.+}")
    return await play(
        Daemon(path), (draft for draft in drafts if draft.path not in kept), LogWatch()
    )

"""A stack as its user has it: a directory of files, which the stock docker command deploys, shows,
updates and removes."""

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from tests.conformance.client import Daemon, eventually
from tests.support.fake_images import hex_of
from weft.model.container import Image, ImageConfig

FILES = Path(__file__).parent / "files"
RUNS = ("sh", "-c", "exec sleep 3600", "stand-in")
ENDS = ("sh", "-c", "exit 0", "stand-in")
"""Entry points: whatever a file says that an image shall run, its stand-in runs or ends."""
JOBS = ("migrate", "flush")


class Stack:
    """A copy of a stack's files, which a test may change and deploy again."""

    def __init__(self, nodes: list[Daemon], name: str, directory: str, place: Path) -> None:
        self._nodes, self.manager = nodes, nodes[0]
        self.name = name
        self._directory = place / directory
        shutil.copytree(FILES / directory, self._directory)

    def change(self, changes: dict[str, str], file: str = "compose.yml") -> None:
        """Puts other words into a file."""
        path = self._directory / file
        for old, new in changes.items():
            assert old in path.read_text(), old
            path.write_text(path.read_text().replace(old, new))

    @property
    def file(self) -> str:
        return str(self._directory / "compose.yml")

    def deploy(self, *options: str) -> str:
        shown = self.manager.ok("stack", "config", "-c", self.file)
        for image in re.findall(r"^    image: (.*)$", shown, re.MULTILINE):
            for node in self._nodes:
                add_stand_in(node, image)
        return self.manager.ok("stack", "deploy", *options, "-c", self.file, self.name)

    def runs(self, **replicas: str) -> None:
        """Returns when these and no other services have these replicas, all of the present spec."""
        wanted = {self.of(service): count for service, count in replicas.items()}
        eventually(lambda: self.replicas() == wanted)
        for service, count in replicas.items():
            if "completed" not in count:
                self.manager.settled(self.of(service))
        listed = self.manager.ok("stack", "ls", "--format", "{{.Name}} {{.Services}}")
        assert f"{self.name} {len(replicas)}\n" in listed

    def replicas(self) -> dict[str, str]:
        rows = self.manager.ok("stack", "services", self.name, "--format", "json").splitlines()
        return {row["Name"]: row["Replicas"] for row in map(json.loads, rows)}

    def tasks(self, service: str) -> list[dict[str, str]]:
        """That are to run or to complete, of `docker stack ps`."""
        rows = self.manager.ok("stack", "ps", self.name, "--no-trunc", "--format", "json")
        found = map(json.loads, rows.splitlines())
        return [
            row
            for row in found
            if row["DesiredState"] != "Shutdown"
            and row["Name"].strip().startswith(f"{self.of(service)}.")
        ]

    def of(self, service: str) -> str:
        return f"{self.name}_{service}"

    def service(self, service: str) -> Any:
        return json.loads(self.manager.ok("service", "inspect", self.of(service)))[0]

    def image(self, service: str) -> str:
        """Its name and tag. The command has asked for the digest, and pinned it."""
        image: str = self.service(service)["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
        name, _, digest = image.partition("@sha256:")
        assert digest, image
        return name

    def containers(self, service: str) -> list[Any]:
        """What each node says of those that run."""
        label = f"label=com.docker.swarm.service.name={self.of(service)}"
        found = []
        for node in self._nodes:
            for id in node.ok("ps", "-q", "--filter", label).split():
                found += json.loads(node.ok("inspect", id))
        return found

    def variables(self, service: str) -> list[dict[str, str]]:
        """Of each container that runs."""
        return [
            dict(entry.split("=", 1) for entry in container["Config"]["Env"])
            for container in self.containers(service)
        ]

    def files(self, service: str) -> list[dict[str, bytes]]:
        """Secrets and configs in each container that runs, by path."""
        found = []
        for container in self.containers(service):
            for node in self._nodes:
                if container["Id"] in node.node.processes.files:
                    files = node.node.processes.files[container["Id"]]
                    found.append({str(file.path): file.data for file in files})
        return found

    def remove(self) -> None:
        """Nothing of it is left but volumes."""
        self.manager.ok("stack", "rm", self.name)
        self.manager.cleared()
        label = ("--filter", f"label=com.docker.stack.namespace={self.name}")
        for kind in ("service", "secret", "config"):
            assert self.manager.ok(kind, "ls", "-q", *label) == "", kind
        for node in self._nodes:
            for argv in (("ps", "-aq"), ("network", "ls", "-q", *label)):
                eventually(partial(prints_nothing, node, *argv))
        assert f"{self.name} " not in self.manager.ok("stack", "ls", "--format", "{{.Name}} ")


def prints_nothing(node: Daemon, *argv: str) -> bool:
    return node.ok(*argv) == ""


def add_stand_in(node: Daemon, image: str) -> None:
    """Puts an image of this name onto a node."""
    tag = image if ":" in image.rpartition("/")[2] else f"{image}:latest"
    entrypoint = ENDS if any(word in image for word in JOBS) else RUNS
    images = node.node.image_store.images
    if not any(tag in each.tags for each in images):
        images.append(
            Image(
                id=f"sha256:{hex_of(tag)}",
                tags=(tag,),
                created=1,
                size=1,
                config=ImageConfig(entrypoint=entrypoint),
            )
        )

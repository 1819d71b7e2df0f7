"""What a node is without a swarm: networks that every host has, containers and images, and the
events of both."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.engines import nobody
from tests.support.swarms import Swarm
from weft.engine.adapters import EngineAdapters, NameAdapters, NetworkAdapters, Origin
from weft.engine.engine import Engine
from weft.engine.networking import Networking
from weft.errors import NotFound
from weft.linux.fake import FakeKernel
from weft.model.container import ContainerConfig
from weft.model.ids import ContainerId
from weft.model.service import ContainerSpec
from weft.runtime.fake import FakeImages, FakeRuntime
from weft.runtime.fake_volumes import FakeVolumes

ID = ContainerId("c" * 64)


def engine() -> Engine:
    images = FakeImages("demo")
    images.registry.add("web:1")
    network = NetworkAdapters(kernel=FakeKernel(), names=NameAdapters(open_resolver=nobody))
    origin = Origin(clock=lambda: 7, entropy=bytes)
    return Engine(
        "host1",
        EngineAdapters(
            runtime=FakeRuntime(images),
            images=images,
            volumes=FakeVolumes(),
            network=network,
            origin=origin,
        ),
    )


def happened(made: Engine) -> list[tuple[str, str, str]]:
    return [(e.type, e.action, e.attributes["name"]) for e in made.events.past]


def test_the_networks_that_every_host_has_are_the_same_in_a_swarm() -> None:
    made = engine()
    made.local.load()
    alone = made.local_networks()
    assert [(n.name, n.driver) for n in alone] == [
        ("bridge", "bridge"),
        ("host", "host"),
        ("none", "null"),
    ]
    assert [(str(subnet), gateway) for subnet, gateway in alone[0].pools] == [
        ("172.17.0.0/16", "172.17.0.1")
    ]
    for node in (1, 2):
        within = Networking(made, Swarm(2).facts(node)).local_networks()
        assert [n.name for n in within] == ["bridge", "docker_gwbridge", "host", "none"]
        assert [n for n in within if n.name != "docker_gwbridge"] == alone


def test_what_happens_to_a_container_is_told() -> None:
    async def main() -> None:
        made = engine()
        await made.create(
            ContainerConfig(
                id=ID, name="one", spec=ContainerSpec(image="demo"), hostname="h", namespace=None
            )
        )
        await made.start(ID)
        [container] = made.containers.values()
        await made.kill(container, "SIGUSR1")
        await made.stop(container)
        made.died(made.containers[ID])
        await made.remove(ID)
        await made.remove(ID)
        assert [action for _, action, _ in happened(made)] == [
            "create",
            "start",
            "kill",
            "die",
            "destroy",
        ]
        assert made.events.past[2].attributes["signal"] == "10"
        assert not made.containers

    asyncio.run(main())


@pytest.mark.parametrize("is_watched", [True, False])
def test_a_running_container_that_is_removed_dies_first(is_watched: bool) -> None:
    """Once, whether a task's worker waits for its end or not."""

    async def main() -> None:
        made = engine()
        config = ContainerConfig(
            id=ID, name="one", spec=ContainerSpec(image="demo"), hostname="h", namespace=None
        )

        async def watch() -> None:
            made.died(await made.wait(ID))

        await made.create(config)
        await made.start(ID)
        watching = asyncio.create_task(watch()) if is_watched else None
        await asyncio.sleep(0)
        await made.remove(ID)
        if watching is not None:
            await watching
        actions = [action for _, action, _ in happened(made)]
        assert actions == ["create", "start", "kill", "die", "destroy"]
        assert made.events.past[2].attributes["signal"] == "9"
        assert made.events.past[3].attributes["exitCode"] == "137"

    asyncio.run(main())


async def archive(name: str) -> AsyncIterator[bytes]:
    yield name.encode()


def test_what_happens_to_an_image_is_told() -> None:
    async def main() -> None:
        made = engine()
        assert [line async for line in made.images.pull("docker.io/library/web:1")]
        assert await made.images.load(archive("box:2")) == ["box:2"]
        await made.images.tag("box:2", "box:new")
        image = made.images.find("box:2").id
        await made.images.remove("box:2")
        assert [(e.action, e.id, e.attributes["name"]) for e in made.events.past] == [
            ("pull", "web:1", "web"), ("load", image, image), ("tag", image, "box:new"), ("untag", image, image),
            ("delete", image, image),
        ]  # fmt: skip

    asyncio.run(main())


def test_what_did_not_happen_to_an_image_is_not_told() -> None:
    async def main() -> None:
        made = engine()
        with pytest.raises(NotFound):
            [line async for line in made.images.pull("nothing:1")]
        with pytest.raises(NotFound):
            await made.images.tag("nothing:1", "other:1")
        with pytest.raises(NotFound):
            await made.images.remove("nothing:1")
        assert happened(made) == []

    asyncio.run(main())

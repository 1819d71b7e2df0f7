"""The events of a container's end, as Docker gives them: what asked for it, the end itself, and how
long the container ran."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.support import virtual_time
from tests.support.engines import nobody
from tests.support.swarms import Swarm
from weft.engine.adapters import EngineAdapters, NameAdapters, NetworkAdapters, Origin
from weft.engine.engine import Engine
from weft.engine.networking import Networking
from weft.linux.fake import FakeKernel
from weft.model.assignment import Overlays
from weft.model.container import ContainerConfig, ImageConfig
from weft.model.ids import ContainerId
from weft.model.meta import SECOND
from weft.model.service import ContainerSpec
from weft.runtime.fake import FakeImages, FakeRuntime
from weft.runtime.fake_volumes import FakeVolumes

ID = ContainerId("c" * 64)
Story = Callable[[Engine, FakeRuntime], Awaitable[None]]


def told(story: Story, stop_signal: str = "", of_image: str = "") -> list[tuple[str, str]]:
    """(action, what is special about it) of what happens to one running container."""
    images = FakeImages()
    images.add("demo", ImageConfig(stop_signal=of_image))
    runtime = FakeRuntime(images, virtual_time.clock)
    network = NetworkAdapters(kernel=FakeKernel(), names=NameAdapters(open_resolver=nobody))
    origin = Origin(clock=virtual_time.clock, entropy=bytes)
    engine = Engine(
        "host1",
        EngineAdapters(
            runtime=runtime, images=images, volumes=FakeVolumes(), network=network, origin=origin
        ),
    )
    spec = ContainerSpec(image="demo", stop_signal=stop_signal)

    async def main() -> None:
        await engine.create(
            ContainerConfig(id=ID, name="one", spec=spec, hostname="h", namespace=None)
        )
        await engine.start(ID)
        await story(engine, runtime)

    virtual_time.run(main())
    return [
        (
            e.action,
            ",".join(v for k, v in sorted(e.attributes.items()) if k not in ("image", "name")),
        )
        for e in list(engine.events.past)[2:]
    ]


@pytest.mark.parametrize(
    ("spec", "image", "number"),
    [("", "", "15"), ("SIGUSR1", "SIGINT", "10"), ("", "INT", "2"), ("9", "", "9")],
)
def test_a_stop_tells_the_signal_the_end_and_the_stop(spec: str, image: str, number: str) -> None:
    async def story(engine: Engine, runtime: FakeRuntime) -> None:
        await asyncio.sleep(2.5)
        await engine.stop(engine.containers[ID])

    assert told(story, spec, image) == [("kill", number), ("die", "2,0"), ("stop", "")]


def test_a_container_that_does_not_obey_is_killed_after_the_grace_of_the_request() -> None:
    async def story(engine: Engine, runtime: FakeRuntime) -> None:
        runtime.stop_latency = 60
        await engine.stop(engine.containers[ID], 3 * SECOND)

    assert told(story) == [("kill", "15"), ("kill", "9"), ("die", "3,137"), ("stop", "")]


def test_each_end_is_told_once_whoever_sees_it() -> None:
    async def story(engine: Engine, runtime: FakeRuntime) -> None:
        watching = asyncio.create_task(engine.wait(ID))
        await engine.stop(engine.containers[ID])
        engine.died(await watching)
        await engine.stop(engine.containers[ID])
        await asyncio.sleep(1)
        await engine.start(ID)
        runtime.die(ID, 3)
        engine.died(await engine.wait(ID))

    assert told(story) == [
        ("kill", "15"), ("die", "0,0"), ("stop", ""), ("start", ""), ("die", "0,3"),
    ]  # fmt: skip


def test_running_out_of_memory_is_told_before_the_end() -> None:
    async def story(engine: Engine, runtime: FakeRuntime) -> None:
        runtime.die(ID, 137, oom_killed=True)
        engine.died(await engine.wait(ID))

    assert told(story) == [("oom", ""), ("die", "0,137")]


def test_networks_that_reach_the_node_are_told_and_those_that_no_longer_do() -> None:
    images = FakeImages()
    network = NetworkAdapters(kernel=FakeKernel(), names=NameAdapters(open_resolver=nobody))
    origin = Origin(clock=virtual_time.clock, entropy=bytes)
    runtime = FakeRuntime(images)
    engine = Engine(
        "host1",
        EngineAdapters(
            runtime=runtime, images=images, volumes=FakeVolumes(), network=network, origin=origin
        ),
    )
    swarm = Swarm(2)
    overlays = swarm.assignment(1)
    networking = Networking(engine, swarm.facts(1))

    async def main() -> None:
        networking.desire(overlays, ())
        networking.desire(overlays, ())
        networking.desire(Overlays(), ())

    virtual_time.run(main())
    names = [view.definition.name for view in overlays.networks.values()]
    assert names
    assert [(e.type, e.action, e.attributes["name"]) for e in engine.events.past] == [
        ("network", action, name) for action in ("create", "destroy") for name in names
    ]

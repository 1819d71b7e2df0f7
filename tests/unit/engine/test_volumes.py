"""Volumes on one node: who uses them, who may remove them, and the events of all of it."""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from tests.support.engines import engine_on_fakes
from weft.engine.engine import Engine
from weft.engine.volumes import requested
from weft.errors import Conflict, InvalidArgument, NotFound, OperationFailed
from weft.model.container import ContainerConfig, ImageConfig
from weft.model.ids import ContainerId
from weft.model.mount import VolumeDriver, VolumeOptions
from weft.model.service import ContainerSpec, Mount
from weft.runtime.fake import FakeImages, FakeRuntime
from weft.runtime.fake_volumes import FakeVolumes


class Bed:
    def __init__(self, *image_volumes: str) -> None:
        self.images = FakeImages()
        self.images.add("demo", ImageConfig(volumes=image_volumes))
        self.runtime = FakeRuntime(self.images)
        self.engine = engine_on_fakes("host1", self.runtime, self.images)
        assert isinstance(self.engine.adapters.volumes, FakeVolumes)
        self.store = self.engine.adapters.volumes

    @property
    def names(self) -> list[str]:
        return [volume.name for volume in self.engine.volumes.all()]

    @property
    def events(self) -> list[tuple[str, str]]:
        past = self.engine.events.past
        return [(event.action, event.id) for event in past if event.type == "volume"]


def config(number: int = 1, *mounts: Mount) -> ContainerConfig:
    return ContainerConfig(
        id=ContainerId(f"{number:064x}"),
        name=f"c{number}",
        spec=ContainerSpec(image="demo", mounts=mounts),
        hostname="h",
        namespace=None,
    )


def on(source: str, target: str = "/v", **options: Any) -> Mount:
    return Mount(type="volume", source=source, target=target, volume=VolumeOptions(**options))


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_the_images_volumes_are_made_where_nothing_else_is_mounted() -> None:
    image = ImageConfig(volumes=("/data/", "/data", "/tmp/../x", "/", "/mine"))
    points = requested((Mount(type="tmpfs", target="/mine/"), on("", "/v")), image)
    assert [(p.type, p.destination, p.is_anonymous) for p in points] == [
        ("tmpfs", "/mine", False),
        ("volume", "/v", True),
        ("volume", "/data", True),
        ("volume", "/x", True),
    ]


def test_an_image_cannot_ask_for_volumes_without_end() -> None:
    async def test() -> None:
        bed = Bed(*(f"/{number}" for number in range(257)))
        with pytest.raises(InvalidArgument, match="asks for 257 volumes, which are more than 256"):
            await bed.engine.create(config())
        assert bed.names == []
        assert bed.runtime.containers() == []

    run(test)


def test_a_life_with_volumes_told_in_events() -> None:
    async def test() -> None:
        bed = Bed("/data")
        engine = bed.engine
        made = config(1, on("kept", driver=VolumeDriver("local", {}), labels={"a": "b"}))
        await engine.create(made)
        kept, anonymous = bed.names
        assert engine.volumes.get("kept").labels == {"a": "b"}
        assert len(anonymous) == 64
        assert engine.volumes.get(anonymous).is_anonymous
        points = bed.runtime.get(made.id).config.mounts
        assert [(p.name, p.source, p.driver, p.mode) for p in points] == [
            ("kept", "/var/lib/weft/volumes/kept/_data", "local", "z"),
            (anonymous, f"/var/lib/weft/volumes/{anonymous}/_data", "local", ""),
        ]
        await engine.start(made.id)
        with pytest.raises(Conflict) as raised:
            await engine.volumes.remove("kept", force=True)
        assert str(raised.value) == f"remove kept: volume is in use - [{made.id}]"
        await engine.stop(bed.runtime.get(made.id))
        with pytest.raises(Conflict):
            await engine.volumes.remove("kept")
        await engine.remove(made.id)
        assert bed.names == ["kept"]
        await engine.volumes.remove("kept")
        assert bed.events == [
            ("create", kept), ("create", anonymous), ("mount", kept), ("mount", anonymous),
            ("unmount", kept), ("unmount", anonymous), ("destroy", anonymous), ("destroy", kept),
        ]  # fmt: skip
        mounted = next(e for e in engine.events.past if e.action == "mount")
        assert mounted.attributes == {
            "driver": "local", "container": made.id, "destination": "/v", "read/write": "true", "propagation": "",
        }  # fmt: skip

    run(test)


def test_a_container_is_removed_without_its_volumes_if_so_asked() -> None:
    async def test() -> None:
        bed = Bed("/data")
        await bed.engine.create(config())
        (anonymous,) = bed.names
        await bed.engine.remove(config().id, volumes=False)
        assert bed.names == [anonymous]

    run(test)


def test_a_container_that_is_made_again_after_the_daemon_was_killed_has_the_same_volumes() -> None:
    """The first daemon has made the volumes, and not the container."""

    async def test() -> None:
        bed = Bed("/data", "/more")
        wanted = config(1, on("", "/v"))
        await bed.engine.volumes.claimed(wanted, bed.images.find("demo").config)
        left = bed.names
        bed.engine.volumes.release(wanted.id)
        await bed.engine.create(wanted)
        assert (len(left), bed.names) == (3, left)
        await bed.engine.create(config(2, on("", "/v")))
        assert len(bed.names) == 6
        await bed.engine.remove(wanted.id)
        await bed.engine.remove(config(2).id)
        assert bed.names == []

    run(test)


def test_an_anonymous_volume_that_another_container_has_stays() -> None:
    async def test() -> None:
        bed = Bed("/data")
        await bed.engine.create(config())
        (anonymous,) = bed.names
        await bed.engine.create(config(2, on(anonymous, "/data")))
        await bed.engine.remove(config(1).id)
        assert bed.names == [anonymous]

    run(test)


@pytest.mark.parametrize("cause", ["runtime", "volume"])
def test_a_container_that_cannot_be_made_leaves_only_volumes_with_a_name(cause: str) -> None:
    async def test() -> None:
        bed = Bed("/data")
        mounts = [on("kept"), on("", "/w")]
        if cause == "runtime":
            bed.runtime.fail("create", "no")
        else:
            mounts.append(on("other", "/x", driver=VolumeDriver("local", {"speed": "1"})))
        with pytest.raises((OperationFailed, InvalidArgument)):
            await bed.engine.create(config(1, *mounts))
        assert bed.names == ["kept"]
        await bed.engine.volumes.remove("kept")

    run(test)


def test_a_volume_cannot_be_removed_between_its_making_and_its_containers() -> None:
    async def test() -> None:
        bed = Bed()
        bed.runtime.latency = 0.01
        making = asyncio.create_task(bed.engine.create(config(1, on("data"))))
        while not bed.names:
            await asyncio.sleep(0)
        with pytest.raises(Conflict):
            await bed.engine.volumes.remove("data")
        assert await bed.engine.volumes.prune(lambda volume: True) == ([], 0)
        await making

    run(test)


def test_a_container_gets_a_new_volume_in_place_of_one_that_is_being_removed() -> None:
    class SlowVolumes(FakeVolumes):
        """Takes a moment to remove one; `create` waits for that, as the real store does."""

        def __init__(self) -> None:
            super().__init__()
            self._lock = asyncio.Lock()

        async def remove(self, name: str) -> None:
            async with self._lock:
                await asyncio.sleep(0.01)
                await super().remove(name)

        async def create(self, volume: Any) -> bool:
            async with self._lock:
                return await super().create(volume)

    async def test() -> None:
        bed = Bed()
        adapters = bed.engine.adapters
        bed.engine = Engine("host1", dataclasses.replace(adapters, volumes=SlowVolumes()))
        await bed.engine.volumes.create("data", labels={"old": ""})
        removing = asyncio.create_task(bed.engine.volumes.remove("data"))
        await asyncio.sleep(0)
        await bed.engine.create(config(1, on("data")))
        await removing
        assert bed.engine.volumes.get("data").labels == {}

    run(test)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("data", "rexray"), NotFound, 'create data: error looking up volume plugin rexray: plugin "rexray" not found'),
        (("x",), InvalidArgument, "create x: volume name is too short"),
        (("../data",), InvalidArgument, 'create ../data: "../data" includes invalid characters'),
        (("data", "", {"a": "b"}), InvalidArgument, 'create data: invalid option: "a"'),
    ],
)  # fmt: skip
def test_bad_volumes_are_refused_in_dockers_words(
    arguments: tuple[Any, ...], error: type[Exception], text: str
) -> None:
    async def test() -> None:
        bed = Bed()
        with pytest.raises(error) as raised:
            await bed.engine.volumes.create(*arguments)
        assert str(raised.value).startswith(text)
        assert bed.names == []

    run(test)


def test_missing_ones_are_removed_only_with_force() -> None:
    async def test() -> None:
        bed = Bed()
        with pytest.raises(NotFound, match="^get data: no such volume$"):
            await bed.engine.volumes.remove("data")
        await bed.engine.volumes.remove("data", force=True)
        assert bed.events == []

    run(test)


def test_pruning_spares_what_is_used_and_what_is_elsewhere() -> None:
    async def test() -> None:
        bed = Bed()
        volumes = bed.engine.volumes
        far = {"type": "nfs", "device": ":/x", "o": "addr=10.0.0.1"}
        for name, options in (
            ("used", {}),
            ("far", far),
            ("idle", {}),
            ("stuck", {}),
            ("other", {}),
        ):
            await volumes.create(name, options=options)
        await bed.engine.create(config(1, on("used")))
        bed.store.sizes = {"idle": 5, "used": 7, "stuck": 11}
        bed.store.fail = ["it does not go"]
        result = await volumes.prune(lambda volume: volume.name != "other")
        assert result == (["stuck"], 11)
        assert await volumes.prune(lambda volume: volume.name != "other") == (["idle"], 5)
        assert bed.names == ["used", "far", "other"]
        assert bed.engine.events.past[-1].attributes == {"reclaimed": "5"}

    run(test)


def test_records_older_than_volumes_show_their_mounts() -> None:
    old = config(1, Mount(type="bind", source="/a/", target="/b"), Mount(type="tmpfs", target="/c"))
    again = msgspec.convert(
        {k: v for k, v in msgspec.to_builtins(old).items() if k != "mounts"}, ContainerConfig
    )
    assert [(p.source, p.destination, p.propagation) for p in again.mount_points] == [
        ("/a", "/b", "rprivate"),
        ("", "/c", ""),
    ]

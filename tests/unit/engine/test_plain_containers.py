"""The life of plain containers on a runtime in memory, in virtual time: restarts, removal, and what
the next daemon does with what it finds."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from tests.support import virtual_time
from tests.support.engines import engine_on_fakes
from weft.engine.plain_containers import PlainContainers
from weft.errors import Conflict, InvalidArgument, NotFound, OperationFailed
from weft.model.bridge_network import BridgeNetworkSpec
from weft.model.container import Container, ContainerState
from weft.model.container_request import ContainerRequest
from weft.model.endpoint_settings import EndpointSettings
from weft.model.ids import ContainerId
from weft.model.limits import FurtherLimits
from weft.model.plain_container import NamespaceModes, PlainContainer, RestartName, RestartRule
from weft.model.service import ContainerSpec, Resources
from weft.model.start_failure import NOT_FOUND, NOT_RUNNABLE, UNKNOWN
from weft.runtime.fake import FakeImages, FakeRuntime


class Bed:
    """A host with one image, and daemons on it one after the other."""

    def __init__(self) -> None:
        self.images = FakeImages("demo")
        self.runtime = FakeRuntime(self.images, time.time_ns)
        self.boot()

    def boot(self) -> None:
        self.engine = engine_on_fakes("host1", self.runtime, self.images)
        self.plain = PlainContainers(self.engine, "host1")

    async def next_daemon(self) -> None:
        await self.plain.close()
        await self.engine.close()
        self.boot()
        self.engine.resume()
        self.plain.resume()

    async def run(
        self, name: str = "web", restart: RestartName = "no", most: int = 0, **settings: Any
    ) -> ContainerId:
        network = "bridge" if settings.get("networks") else "none"
        settings.setdefault("modes", NamespaceModes(network=network))
        plain = PlainContainer(restart=RestartRule(restart, most), **settings)
        request = ContainerRequest(name=name, spec=ContainerSpec(image="demo"), plain=plain)
        id = await self.plain.create(request)
        await self.plain.start(id)
        return id

    def get(self, id: ContainerId) -> Container:
        return self.runtime.get(id)

    def is_there(self, id: ContainerId) -> bool:
        return self.engine.container(id) is not None

    def starts(self, id: ContainerId) -> int:
        return self.runtime.history.count(("start", id))


def run(test: Callable[[Bed], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def wrapper() -> None:
        async def body() -> None:
            bed = Bed()
            await test(bed)
            await bed.plain.close()
            await bed.engine.close()

        virtual_time.run(body())

    wrapper.__name__ = test.__name__
    return wrapper


@run
async def test_a_container_that_fails_again_and_again_is_restarted_ever_more_slowly(
    bed: Bed,
) -> None:
    id = await bed.run(restart="always")
    loop, moments = asyncio.get_running_loop(), []
    for _ in range(4):
        bed.runtime.die(id, 1)
        begun = loop.time()
        while bed.get(id).state is not ContainerState.RUNNING:
            await asyncio.sleep(0.05)
        moments.append(loop.time() - begun)
    assert moments == sorted(moments)
    assert moments[-1] > 3 * moments[0]
    plain = bed.get(id).config.plain
    assert plain is not None
    assert plain.restart_count == 4
    assert bed.starts(id) == 5


@run
async def test_a_user_who_starts_it_begins_to_count_anew(bed: Bed) -> None:
    id = await bed.run(restart="on-failure", most=1)
    for _ in range(2):
        bed.runtime.die(id, 1)
        await asyncio.sleep(100)
    assert (bed.get(id).state, bed.starts(id)) == (ContainerState.EXITED, 2)
    await bed.plain.start(id)
    bed.runtime.die(id, 1)
    await asyncio.sleep(100)
    assert bed.get(id).state is ContainerState.RUNNING


@run
async def test_a_restart_that_is_pending_is_called_off_by_stop_and_by_remove(bed: Bed) -> None:
    stopped, removed = await bed.run("one", "always"), await bed.run("two", "always")
    for id in (stopped, removed):
        bed.runtime.die(id, 1)
    while not (bed.plain.is_restarting(stopped) and bed.plain.is_restarting(removed)):
        await asyncio.sleep(0)
    await bed.plain.stop(bed.get(stopped))
    await bed.plain.remove(removed, volumes=False)
    await asyncio.sleep(100)
    assert (bed.get(stopped).state, bed.starts(stopped)) == (ContainerState.EXITED, 1)
    assert not bed.is_there(removed)
    assert not bed.plain.is_restarting(stopped)


@run
async def test_a_container_is_restarting_from_the_moment_of_its_end_on(bed: Bed) -> None:
    """Also before its end is dealt with, and whoever calls the restart off then has called it
    off."""
    for how in ("stop", "kill", "remove"):
        id = await bed.run(how, "always")
        once = await bed.run(f"{how}-once")
        bed.runtime.die(id, 1)
        bed.runtime.die(once, 1)
        assert bed.get(id).state is ContainerState.EXITED
        assert (bed.plain.is_restarting(id), bed.plain.is_restarting(once)) == (True, False)
        if how == "stop":
            await bed.plain.stop(bed.get(id))
        elif how == "kill":
            with pytest.raises(Conflict, match="is restarting, wait until the container"):
                await bed.plain.kill(bed.get(id), "SIGHUP")
            await bed.plain.kill(bed.get(id), "SIGKILL")
        else:
            await bed.plain.remove(id, volumes=False)
        assert not bed.plain.is_restarting(id)
        await asyncio.sleep(100)
        assert bed.starts(id) == 1, how
        assert bed.is_there(id) == (how != "remove")


@run
async def test_who_waits_for_a_container_that_waits_is_told_that_its_restart_is_called_off(
    bed: Bed,
) -> None:
    for how in ("stop", "kill", "remove", "fail"):
        id = await bed.run(how, "always")
        bed.runtime.die(id, 3)
        first = await bed.plain.next_end(id)
        assert (first.exit_code, bed.plain.is_restarting(id)) == (3, True)
        second = asyncio.ensure_future(bed.plain.next_end(id))
        await asyncio.sleep(0)
        if how == "stop":
            await bed.plain.stop(bed.get(id))
        elif how == "kill":
            await bed.plain.kill(bed.get(id), "SIGTERM")
        elif how == "remove":
            await bed.plain.remove(id, volumes=False)
        else:
            bed.runtime.fail("start", "no such program")
        async with asyncio.timeout(100):
            assert (await second).state is ContainerState.EXITED, how


@run
async def test_a_container_has_ended_when_it_is_killed(bed: Bed) -> None:
    """What a client asks next, and removes next, has ended; one that the kernel does not end is an
    error, not a request without an end."""
    bed.runtime.kill_latency = 5
    id = await bed.run()
    await bed.plain.kill(bed.get(id), "SIGKILL")
    assert bed.get(id).state is ContainerState.EXITED
    await bed.plain.start(id)
    await bed.plain.kill(bed.get(id), "SIGTERM")
    assert bed.get(id).state is ContainerState.RUNNING, "only SIGKILL is waited for"
    await bed.plain.next_end(id)
    bed.runtime.kill_latency = 500
    await bed.plain.start(id)
    with pytest.raises(OperationFailed, match="did not receive an exit event"):
        await bed.plain.kill(bed.get(id), "SIGKILL")


@run
async def test_the_next_daemon_starts_what_its_policy_says(bed: Bed) -> None:
    """The host loses power. Some were stopped by a user before."""
    stopped = {
        name: await bed.run(f"stopped-{name}", name) for name in ("always", "unless-stopped")
    }
    for id in stopped.values():
        await bed.plain.stop(bed.get(id))
    running = {
        name: await bed.run(name, name) for name in ("no", "always", "unless-stopped", "on-failure")
    }
    created = await bed.plain.create(
        ContainerRequest(
            name="created",
            spec=ContainerSpec(image="demo"),
            plain=PlainContainer(restart=RestartRule("always")),
        )
    )
    await bed.plain.close()
    bed.runtime.lose()
    await bed.next_daemon()
    await asyncio.sleep(100)
    states = {name: bed.get(id).state for name, id in running.items()}
    assert {name for name, state in states.items() if state is ContainerState.RUNNING} == {
        "always", "unless-stopped", "on-failure",
    }  # fmt: skip
    assert bed.get(stopped["always"]).state is ContainerState.RUNNING
    assert bed.get(stopped["unless-stopped"]).state is ContainerState.EXITED
    assert bed.get(created).state is ContainerState.CREATED


@run
async def test_the_next_daemon_follows_what_runs(bed: Bed) -> None:
    again, once = await bed.run("again", "always"), await bed.run("once", auto_remove=True)
    await bed.next_daemon()
    bed.runtime.die(again, 1)
    bed.runtime.die(once, 0)
    await asyncio.sleep(100)
    assert (bed.get(again).state, bed.starts(again)) == (ContainerState.RUNNING, 2)
    assert not bed.is_there(once)


@run
async def test_what_ended_without_a_daemon_is_removed_by_the_next_one(bed: Bed) -> None:
    id = await bed.run(auto_remove=True)
    await bed.plain.close()
    bed.runtime.die(id, 0)
    assert bed.is_there(id)
    await bed.next_daemon()
    await asyncio.sleep(1)
    assert not bed.is_there(id)


@run
async def test_a_restart_by_the_user_keeps_what_is_removed_at_its_end(bed: Bed) -> None:
    id = await bed.run(auto_remove=True)
    await bed.plain.restart(bed.get(id), 0)
    assert bed.get(id).state is ContainerState.RUNNING
    waiting = asyncio.ensure_future(bed.plain.removal(id))
    await asyncio.sleep(0)
    bed.runtime.die(id, 4)
    assert (await waiting).exit_code == 4


@run
async def test_a_start_that_fails_says_why_and_may_be_tried_again(bed: Bed) -> None:
    bed.runtime.fail("start", "no such program", 2)
    with pytest.raises(OperationFailed, match="no such program"):
        await bed.run("web", "always")
    (container,) = bed.runtime.containers()
    assert container.state is ContainerState.CREATED
    await asyncio.sleep(100)
    assert bed.starts(container.id) == 0, "what never ran is not restarted"
    with pytest.raises(OperationFailed, match="no such program"):
        await bed.plain.start(container.id)
    await bed.plain.start(container.id)
    bed.runtime.fail("start", "no such program")
    with pytest.raises(OperationFailed):
        await bed.run("other", auto_remove=True)
    assert [c.config.name for c in bed.runtime.containers()] == ["web"]


@run
async def test_a_start_that_fails_leaves_an_exit_code(bed: Bed) -> None:
    cause = 'exec: "nope": {}'
    for text, code in (
        ("executable file not found in $PATH", NOT_FOUND),
        ("stat /nope: no such file or directory", NOT_FOUND),
        ("permission denied", NOT_RUNNABLE),
        ("is a directory", NOT_RUNNABLE),
    ):
        bed.runtime.fail("start", cause.format(text))
        with pytest.raises(InvalidArgument, match=f"{text[:9]}"):
            await bed.run(f"c{bed.engine.new_id()}")
        container = bed.runtime.containers()[-1]
        assert (container.state, container.exit_code) == (ContainerState.CREATED, code)
        assert container.error == cause.format(text)
    id = await bed.run("web")
    bed.runtime.die(id, 0)
    while bed.get(id).state is ContainerState.RUNNING:
        await asyncio.sleep(0)
    bed.runtime.fail("start", "no memory")
    with pytest.raises(OperationFailed, match="no memory"):
        await bed.plain.start(id)
    assert (bed.get(id).state, bed.get(id).exit_code) == (ContainerState.EXITED, UNKNOWN)
    await bed.plain.start(id)
    assert (bed.get(id).exit_code, bed.get(id).error) == (0, "")


@run
async def test_a_name_that_is_taken_leaves_nothing(bed: Bed) -> None:
    await bed.run("web")
    with pytest.raises(Conflict, match="already in use by container"):
        await bed.run("web")
    assert len(bed.runtime.containers()) == 1


@run
async def test_stop_start_and_ends_at_the_same_time_leave_one_follower(bed: Bed) -> None:
    """Whatever order: in the end the container does what was asked for last."""
    bed.runtime.latency = 0.01
    id = await bed.run(restart="always")
    for _ in range(20):
        container = bed.get(id)
        stopping = asyncio.create_task(bed.plain.stop(container, 0))
        starting = asyncio.create_task(bed.plain.start(id))
        if container.state is ContainerState.RUNNING:
            bed.runtime.die(id, 1)
        await asyncio.wait((stopping, starting))
        await bed.plain.start(id)
        assert bed.get(id).state is ContainerState.RUNNING
    await bed.plain.stop(bed.get(id), 0)
    await asyncio.sleep(100)
    assert bed.get(id).state is ContainerState.EXITED
    await bed.plain.remove(id, volumes=False)
    with pytest.raises(NotFound):
        await bed.plain.start(id)


# --- with networks

ON_BRIDGE = (EndpointSettings(network="bridge"),)


@asynccontextmanager
async def networks(bed: Bed) -> AsyncIterator[None]:
    """The node's own networks work."""
    bed.engine.network.desire_swarm(None)
    bed.engine.resume()
    loop = asyncio.create_task(bed.engine.run())
    try:
        yield
    finally:
        loop.cancel()
        await asyncio.wait((loop,))


def recorded(bed: Bed, id: ContainerId) -> list[str]:
    """The networks that the container is on from its next start on."""
    plain = bed.get(id).config.plain
    assert plain is not None
    return sorted(settings.network for settings in plain.networks)


def with_pids(container: Container) -> tuple[Resources, FurtherLimits]:
    config = container.config
    return msgspec.structs.replace(config.limits, pids=7), config.further


def with_memory(container: Container) -> tuple[Resources, FurtherLimits]:
    config = container.config
    return msgspec.structs.replace(config.limits, memory=2**23), config.further


@run
async def test_a_container_is_restarted_once_its_network_can_be_set_up(bed: Bed) -> None:
    """A member of a swarm may wait for its managers for longer than a container for its network:
    after a loss of power the hosts come back one after the other."""
    async with networks(bed):
        id = await bed.run(restart="always", networks=ON_BRIDGE)
        bed.engine.network.postpone()
        bed.runtime.die(id, 1)
        await asyncio.sleep(300)
        assert bed.get(id).state is ContainerState.EXITED
        bed.engine.network.desire_swarm(None)
        await asyncio.sleep(100)
        assert bed.get(id).state is ContainerState.RUNNING


@run
async def test_a_network_that_does_not_go_holds_up_nobody(bed: Bed) -> None:
    async with networks(bed):
        again = await bed.run("again", restart="always", networks=ON_BRIDGE)
        once = await bed.run("once", auto_remove=True, networks=ON_BRIDGE)
        removed = await bed.run("removed", networks=ON_BRIDGE)
        bed.engine.network.postpone()
        bed.runtime.die(once, 0)
        bed.runtime.die(again, 1)
        await bed.plain.remove(removed, volumes=False)
        await asyncio.sleep(100)
        assert [bed.is_there(id) for id in (again, once, removed)] == [True, False, False]
        await bed.plain.stop(bed.get(again))
        bed.engine.network.desire_swarm(None)
        async with asyncio.timeout(100):
            await bed.plain.start(again)
        assert bed.get(again).state is ContainerState.RUNNING


@run
async def test_changes_at_the_same_time_are_all_kept(bed: Bed) -> None:
    async with networks(bed):
        for name in ("one", "two", "three"):
            await bed.engine.local.create(BridgeNetworkSpec(name=name))
        id = await bed.run(networks=ON_BRIDGE)
        before = bed.get(id)
        await asyncio.gather(
            bed.plain.connect(before, EndpointSettings(network="one")),
            bed.plain.connect(before, EndpointSettings(network="two")),
            bed.plain.disconnect(before, "bridge", force=False),
        )
        assert recorded(bed, id) == ["one", "two"]
        await bed.plain.stop(before, 0)
        ended = bed.get(id)
        await asyncio.gather(
            bed.plain.start(id),
            bed.plain.connect(ended, EndpointSettings(network="three")),
            bed.plain.rename(ended, "other"),
            bed.plain.update(ended, with_pids, None),
            bed.plain.update(ended, with_memory, None),
        )
        config = bed.get(id).config
        assert (recorded(bed, id), config.name) == (["one", "three", "two"], "other")
        assert config.limits == Resources(pids=7, memory=2**23)
        place = bed.engine.local.sandbox(id)
        assert place is not None
        assert (len(place.endpoints), place.name) == (3, "other")
        assert config.sandbox_id == place.id


@run
async def test_names_follow_the_networks_of_a_running_container(bed: Bed) -> None:
    """On a network that a user made its name server is Weft's; and each network has an address.
    Who shares the container's network namespace sees the same."""
    async with networks(bed):
        for name in ("one", "two"):
            await bed.engine.local.create(BridgeNetworkSpec(name=name))
        id = await bed.run(networks=ON_BRIDGE)
        joined = await bed.run("joined", modes=NamespaceModes(network=f"container:{id}"))

        def seen(container: ContainerId) -> tuple[list[str], list[str]]:
            config = bed.get(container).config
            servers = [line for line in config.resolv_conf.splitlines() if "nameserver" in line]
            own = [line.split()[0] for line in config.hosts.splitlines() if id[:12] in line]
            return servers, own

        ours, hosts = ["nameserver 127.0.0.11"], seen(id)[0]
        assert hosts != ours
        for do, network, servers in (
            ("connect", "one", ours),
            ("connect", "two", ours),
            ("disconnect", "bridge", ours),
            ("disconnect", "one", ours),
            ("connect", "bridge", ours),
            ("disconnect", "two", hosts),
        ):
            if do == "connect":
                await bed.plain.connect(bed.get(id), EndpointSettings(network=network))
            else:
                await bed.plain.disconnect(bed.get(id), network, force=False)
            place = bed.engine.local.sandbox(id)
            assert place is not None
            addresses = [str(endpoint.address.ip) for endpoint in place.endpoints]
            assert seen(id) == seen(joined) == (servers, addresses), (do, network)

"""Every file that a member of a swarm reads when it starts, damaged in every way: what it runs goes
on, the swarm is not begun anew, and where it needs somebody the message names the file and says
what to do. On loopback, without a kernel."""

import asyncio
import os
import random
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from tests.support.members import Host, until
from weft.errors import Damaged
from weft.model.container import ContainerState
from weft.model.service import ContainerSpec, ServiceSpec, TaskSpec
from weft.session.identity import IdentityStore
from weft.store.etcd.process import EtcdMember

DAMAGES: Mapping[str, Callable[[bytes], bytes] | None] = {
    "absent": None,
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "garbage": lambda content: random.Random(1).randbytes(len(content)),
}
each_damage = pytest.mark.parametrize("how", DAMAGES)
CREDENTIALS = ("credentials/node.crt", "credentials/node.key", "credentials/root.crt")
AGENTS = ("agent/assignment.msgpack", "agent/tasks.msgpack")


def damage(path: Path, how: str) -> None:
    change = DAMAGES[how]
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))


def contents(directory: Path) -> dict[str, bytes]:
    files = (
        path for path in directory.rglob("*") if path.is_file() and path.parent.name != "agent"
    )
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def running(host: Host) -> set[str]:
    return {each.id for each in host.runtime.containers() if each.state is ContainerState.RUNNING}


async def serve(manager: Host, host: Host) -> set[str]:
    """One task on each node. Gives the containers of this one."""
    spec = ServiceSpec(
        name="web", replicas=None, task=TaskSpec(container=ContainerSpec(image="demo"))
    )
    await manager.manager.swarm.create_service(spec)
    await until(lambda: len(running(host)) == 1)
    await until(lambda: host.up.agent.uplink.connected)
    return running(host)


def play(directory: Path, scene: Callable[[Host, Host], Awaitable[None]]) -> None:
    """A manager alone, and a host that is in no swarm."""

    async def main() -> None:
        hosts = [Host(directory, number, None) for number in (71, 72)]
        try:
            await hosts[0].init()
            await scene(*hosts)
        finally:
            for host in reversed(hosts):
                await host.stop()

    asyncio.run(main())


# --- a manager alone


@each_damage
def test_a_manager_alone_without_its_state_runs_on_and_begins_nothing(
    tmp_path: Path, how: str
) -> None:
    async def scene(manager: Host, other: Host) -> None:
        containers, data = await serve(manager, manager), manager.environment.data
        await manager.stop()
        whole = contents(data)
        damage(data / "store.db", how)
        left = contents(data)
        await manager.resume()
        membership = manager.up.membership
        assert membership.state == "error"
        assert membership.error.startswith(f"cannot open the swarm's state {data / 'store.db'}: ")
        assert "restore a backup" in membership.error
        assert "docker swarm leave --force" in membership.error
        assert manager.up.manager is None
        await until(lambda: running(manager) == containers)
        await manager.stop()
        assert contents(data) == left, "nothing was written"

        (data / "store.db").write_bytes(whole["store.db"])
        await manager.resume()
        assert manager.leads()
        await until(lambda: manager.up.agent.uplink.connected)
        assert running(manager) == containers
        assert manager.up.membership.error == ""

    play(tmp_path, scene)


@each_damage
@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_manager_alone_without_its_credentials_issues_itself_others(
    tmp_path: Path, name: str, how: str
) -> None:
    async def scene(manager: Host, other: Host) -> None:
        containers, data = await serve(manager, manager), manager.environment.data
        await other.join(manager.listen, (await manager.manager.swarm.join_tokens()).worker)
        await manager.stop()
        damage(data / name, how)
        await manager.resume()
        assert manager.leads()
        await until(lambda: manager.up.agent.uplink.connected)
        await until(lambda: other.up.agent.uplink.connected)
        assert running(manager) == containers
        identity = IdentityStore(data)
        found = identity.load()
        assert found is not None
        assert identity.trouble(*found) == ""

    play(tmp_path, scene)


@each_damage
def test_a_manager_alone_without_either_says_both(tmp_path: Path, how: str) -> None:
    async def scene(manager: Host, other: Host) -> None:
        data = manager.environment.data
        await manager.stop()
        for name in ("credentials/node.key", "store.db"):
            damage(data / name, how)
        left = contents(data)
        await manager.resume()
        error = manager.up.membership.error
        assert str(data / "node.key") in error
        assert str(data / "store.db") in error
        await manager.stop()
        assert contents(data) == left

    play(tmp_path, scene)


def test_a_swarm_that_was_lost_is_given_up_when_a_user_says_so(tmp_path: Path) -> None:
    async def scene(manager: Host, other: Host) -> None:
        await manager.stop()
        damage(manager.environment.data / "store.db", "zeros")
        await manager.resume()
        await manager.leave()
        assert not manager.environment.data.exists()
        await manager.init()
        assert manager.leads()

    play(tmp_path, scene)


# --- any node


@each_damage
def test_a_node_without_its_membership_is_no_free_node(tmp_path: Path, how: str) -> None:
    async def scene(manager: Host, other: Host) -> None:
        await other.join(manager.listen, (await manager.manager.swarm.join_tokens()).worker)
        await serve(manager, other)
        for host in (manager, other):
            data = host.environment.data
            await host.stop()
            damage(data / "member.json", how)
            left = contents(data)
            with pytest.raises(Damaged) as said:
                await host.resume()
            assert f"cannot read the membership of this node, {data / 'member.json'}: " in str(
                said.value
            )
            assert "docker swarm leave --force" in str(said.value)
            assert contents(data) == left

    play(tmp_path, scene)


@each_damage
@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_worker_without_its_credentials_runs_on(tmp_path: Path, name: str, how: str) -> None:
    async def scene(manager: Host, worker: Host) -> None:
        await worker.join(manager.listen, (await manager.manager.swarm.join_tokens()).worker)
        containers, data = await serve(manager, worker), worker.environment.data
        await worker.stop()
        whole = (data / name).read_bytes()
        damage(data / name, how)
        left = contents(data)
        await worker.resume()
        membership = worker.up.membership
        assert membership.state == "error"
        assert (
            f"cannot use the credentials of this node, {data / Path(name).name}: "
            in membership.error
        )
        assert "docker swarm leave --force" in membership.error
        await until(lambda: running(worker) == containers)
        await worker.stop()
        assert contents(data) == left

        (data / name).write_bytes(whole)
        await worker.resume()
        await until(lambda: worker.up.agent.uplink.connected)
        assert worker.up.membership.error == ""
        assert running(worker) == containers

    play(tmp_path, scene)


@each_damage
@pytest.mark.parametrize("name", AGENTS)
def test_what_an_agent_knew_comes_back(tmp_path: Path, name: str, how: str) -> None:
    async def scene(manager: Host, worker: Host) -> None:
        await worker.join(manager.listen, (await manager.manager.swarm.join_tokens()).worker)
        await serve(manager, worker)
        await worker.stop()
        damage(worker.environment.data / name, how)
        await worker.resume()
        await until(lambda: worker.up.agent.uplink.connected)
        await until(lambda: len(running(worker)) == 1)
        assert worker.up.membership.error == ""

    play(tmp_path, scene)


# --- one of several managers

SHARED = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("etcd"), reason="needs root and etcd"),
]


ETCD_MENDS = {("member/snap/db", "empty"), ("member/wal", "cut")}
"""It takes the one from its log, and the end of the other from the other member."""


async def two_managers(manager: Host, second: Host) -> EtcdMember:
    """The second's part of the store, which its daemon has not."""
    await second.join(manager.listen, (await manager.manager.swarm.join_tokens()).manager)
    await until(
        lambda: (
            len(manager.manager.swarm.leadership_status.present)
            == len(second.manager.swarm.leadership_status.present)
            == 2
        )
    )
    await serve(manager, second)
    etcd = second.up._host.etcd()
    await second.stop()
    return etcd


async def rest(manager: Host, second: Host, etcd: EtcdMember) -> None:
    await second.stop()
    await etcd.wipe()
    await manager.up._host.etcd().wipe()


@each_damage
@pytest.mark.parametrize("name", ["member/snap/db", "member/wal"])
def test_one_of_two_managers_without_its_part_of_the_store_runs_on(
    tmp_path: Path, name: str, how: str
) -> None:
    async def scene(manager: Host, second: Host) -> None:
        etcd, containers = await two_managers(manager, second), running(second)
        try:
            await etcd.stop()
            part = etcd.settings.data / name
            for path in part.glob("*.wal") if part.is_dir() else [part]:
                damage(path, how)
            if how == "absent":
                shutil.rmtree(etcd.settings.data / "member")
            await second.resume()
            if (name, how) in ETCD_MENDS:
                await until(
                    lambda: second.manager.swarm.state.tables == manager.manager.swarm.state.tables
                )
                await until(lambda: second.manager.is_serving)
                return
            await until(lambda: str(etcd.settings.data) in second.up.membership.error)
            assert "demote this node" in second.up.membership.error
            await until(lambda: running(second) == containers)
            assert not (etcd.settings.data / "member").exists() or how != "absent", (
                "no other was founded"
            )
        finally:
            await rest(manager, second, etcd)

    play(tmp_path, scene)


test_one_of_two_managers_without_its_part_of_the_store_runs_on.pytestmark += SHARED  # type: ignore[attr-defined]


@each_damage
@pytest.mark.parametrize("name", ["revoked.crl", "last-state"])
def test_what_one_of_two_managers_can_make_anew_it_makes_anew(
    tmp_path: Path, name: str, how: str
) -> None:
    async def scene(manager: Host, second: Host) -> None:
        etcd = await two_managers(manager, second)
        try:
            await etcd.stop()
            damage(etcd.settings.swarm / name, how)
            await second.resume()
            await until(lambda: second.manager.is_serving)
            await until(
                lambda: second.manager.swarm.state.tables == manager.manager.swarm.state.tables
            )
        finally:
            await rest(manager, second, etcd)

    play(tmp_path, scene)


test_what_one_of_two_managers_can_make_anew_it_makes_anew.pytestmark += SHARED  # type: ignore[attr-defined]

"""A swarm whose state is in an etcd that somebody else runs: real, on loopback, with client
certificates. Managers without a kernel."""

import asyncio
import os
import shutil
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.certified import free_port
from tests.support.members import Host, until
from weft.daemon.swarm_node import SwarmNode
from weft.errors import (
    FailedPrecondition,
    Forbidden,
    InvalidArgument,
    OperationFailed,
    Unauthorized,
    Unavailable,
)
from weft.model.ids import ClusterId, NodeId
from weft.model.meta import SECOND
from weft.model.network import NetworkSpec
from weft.model.node import Node, NodeSpec, NodeState, Role
from weft.model.secret import DataSpec
from weft.pki import authority, unlock_key
from weft.pki.sealing import SealingKey
from weft.store.etcd.base import after
from weft.store.etcd.external import FLAGS, ExternalEtcd
from weft.system.tls_files import TlsFiles

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("etcd"), reason="needs root and etcd"),
]
LARGE = FLAGS.split()


class Etcd:
    """An operator's. Its certificates have nothing to do with a swarm's."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        """`port`: of one that there is already."""
        self.directory = directory
        self.port = port or free_port()
        if not port:
            self._certify()

    def _certify(self) -> None:
        key, now = ec.generate_private_key(ec.SECP256R1()), time.time_ns()
        root = authority.root(key, now, 1)
        certificate = authority.issue(
            root,
            authority.request(key),
            authority.NodeCertificate(
                node=NodeId("etcd"),
                role="manager",
                cluster=ClusterId("operator"),
                begin=now,
                lifetime=3600 * SECOND,
                serial=2,
                addresses=(IPv4Address("127.0.0.1"),),
            ),
        )
        texts = {
            "ca.pem": root.certificate,
            "cert.pem": certificate,
            "key.pem": authority.private_pem(key),
        }
        for name, text in texts.items():
            (self.directory / name).write_text(text)

    @property
    def files(self) -> TlsFiles:
        ca, certificate, key = (self.directory / name for name in ("ca.pem", "cert.pem", "key.pem"))
        return TlsFiles(ca=ca, certificate=certificate, key=key)

    def at(self, prefix: str = "/swarms/one/") -> ExternalEtcd:
        """Behind an endpoint where nobody is."""
        return ExternalEtcd(
            endpoints=("127.0.0.1:1", f"127.0.0.1:{self.port}"), files=self.files, prefix=prefix
        )

    @asynccontextmanager
    async def running(self, flags: Sequence[str] = LARGE) -> AsyncIterator["Etcd"]:
        client, peer = f"https://127.0.0.1:{self.port}", f"http://127.0.0.1:{free_port()}"
        process = await asyncio.create_subprocess_exec(
            "etcd",
            "--name=m1",
            "--data-dir=data",
            "--logger=zap",
            "--log-level=error",
            "--client-cert-auth",
            "--cert-file=cert.pem",
            "--key-file=key.pem",
            "--trusted-ca-file=ca.pem",
            *flags,
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=m1={peer}",
            cwd=self.directory,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        kv = self.at().client()
        try:
            await until(kv.status, 20)
            yield self
        finally:
            await kv.close()
            process.kill()
            await process.wait()

    async def keys(self) -> list[str]:
        kv = self.at().client()
        try:
            return [pair.key for pair in (await kv.range("/", after("/"))).pairs]
        finally:
            await kv.close()


def play(directory: Path, scene: Callable[[Etcd, Callable[..., Host]], Awaitable[None]]) -> None:
    async def main() -> None:
        hosts: list[Host] = []
        etcd = Etcd(directory)

        def host(number: int, where: ExternalEtcd | None = None) -> Host:
            hosts.append(Host(directory, number, where or etcd.at()))
            return hosts[-1]

        async with etcd.running():
            try:
                await scene(etcd, host)
            finally:
                for each in hosts:
                    await each.stop()

    asyncio.run(main())


def node(asked: Host, of: Host) -> Node:
    return asked.manager.swarm.state.nodes[of.up.member.node]


async def two(host: Callable[..., Host]) -> tuple[Host, Host]:
    first, second = host(11), host(12)
    await first.init()
    await second.join(first.listen, (await first.manager.swarm.join_tokens()).manager)
    await until(
        lambda: (
            second.up.manager is not None and node(first, second).manager_address == second.listen
        )
    )
    await until(lambda: node(second, second).status.state is NodeState.READY)
    return first, second


def test_two_managers_share_it_and_the_other_leads_when_one_is_gone(tmp_path: Path) -> None:
    async def scene(etcd: Etcd, host: Callable[..., Host]) -> None:
        first, second = await two(host)
        assert first.leads()
        assert not second.leads()
        made = await first.manager.swarm.create_network(NetworkSpec(name="kept"))
        await until(lambda: made.id in second.manager.swarm.state.networks)
        await first.stop()
        await until(second.leads, 10)
        await second.manager.swarm.create_network(NetworkSpec(name="more"))
        await first.resume()
        await until(lambda: first.up.manager is not None)
        assert sorted(n.spec.name for n in first.manager.swarm.state.networks.values()) == [
            "ingress",
            "kept",
            "more",
        ]
        assert all(key.startswith("/swarms/one/") for key in await etcd.keys())

    play(tmp_path, scene)


def test_a_worker_is_promoted_and_a_manager_is_demoted(tmp_path: Path) -> None:
    async def scene(etcd: Etcd, host: Callable[..., Host]) -> None:
        first, second = host(11), host(12)
        await first.init()
        await second.join(first.listen, (await first.manager.swarm.join_tokens()).worker)
        await until(lambda: node(first, second).status.state is NodeState.READY)
        await set_role(first, second, "manager")
        await until(
            lambda: (
                second.up.manager is not None
                and node(first, second).manager_address == second.listen
            )
        )
        assert second.up.member.store == "external"
        await until(lambda: len(second.manager.swarm.leadership_status.present) == 2)
        await set_role(second, first, "worker")
        await until(lambda: first.up.manager is None and not node(second, first).manager_address)
        assert second.leads()
        await until(lambda: (first.up.member.store, first.up.is_manager) == ("none", False))
        await until(lambda: node(second, first).status.manager == second.up.member.node)

    play(tmp_path, scene)


async def set_role(asked: Host, whose: Host, role: Role) -> None:
    found = node(asked, whose)
    await asked.manager.swarm.update_node(found.id, found.meta.version, NodeSpec(role=role))


def test_the_other_leads_when_one_is_killed(tmp_path: Path) -> None:
    """That one is a process of its own, and has no time to give up what it has."""

    async def scene(etcd: Etcd, host: Callable[..., Host]) -> None:
        words = (str(tmp_path), str(etcd.port))
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, *words, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(20):
                address, token = (await process.stdout.readline()).decode().split()
            second = host(12)
            await second.join(address, token)
            await until(lambda: len(second.manager.swarm.leadership_status.present) == 2)
            assert not second.leads()
        finally:
            process.kill()
            await process.wait()
        await until(second.leads, 10)
        await second.manager.swarm.create_network(NetworkSpec(name="more"))

    play(tmp_path, scene)


def test_managers_are_locked_and_go_on_with_the_key(tmp_path: Path) -> None:
    """All of them at once, after a power failure: what the external etcd has cannot be read without
    their files."""

    async def scene(etcd: Etcd, host: Callable[..., Host]) -> None:
        first, second = await two(host)
        await first.manager.swarm.create_data("secret", DataSpec(name="token"), b"deep dark secret")
        await auto_lock(first, True)
        key = await first.manager.swarm.unlock_key()
        for each in (first, second):
            await until(lambda it=each: b"weft-locked" in private_key(it))
        for each in (first, second):
            await each.stop()
        for each in (first, second):
            await each.resume()
            assert each.up.is_locked
            with pytest.raises(Unauthorized):
                await each.up.unlock(SealingKey(bytes(32)))
            assert each.up.manager is None
        await second.up.unlock(unlock_key.parse(key))
        await until(second.leads)
        await first.up.unlock(unlock_key.parse(key))
        await until(lambda: len(second.manager.swarm.leadership_status.present) == 2)
        assert await first.manager.swarm.unlock_key() == key
        [secret] = first.manager.swarm.state.secrets.values()
        assert first.manager._vault.opened(secret) == b"deep dark secret"
        await auto_lock(second, False)
        await until(lambda: b"weft-locked" not in private_key(first))
        await first.stop()
        await first.resume()
        await until(lambda: first.up.manager is not None)

    play(tmp_path, scene)


async def auto_lock(asked: Host, value: bool) -> None:
    swarm = asked.manager.swarm
    spec = msgspec.structs.replace(swarm.cluster.spec, auto_lock=value)
    await swarm.update_cluster(swarm.cluster.meta.version, spec, False, False)


def private_key(host: Host) -> bytes:
    return (host.environment.data / "credentials" / "node.key").read_bytes()


def test_who_leaves_takes_himself_out_and_the_last_one_everything(tmp_path: Path) -> None:
    async def scene(etcd: Etcd, host: Callable[..., Host]) -> None:
        first, second = await two(host)
        other = host(13, etcd.at("/swarms/other/"))
        await other.init()
        left = node(second, first).id
        await first.leave()
        await until(lambda: second.manager.swarm.state.nodes[left].role == "worker")
        await until(second.leads)
        await second.leave()
        assert {key.split("/")[2] for key in await etcd.keys()} == {"other"}
        await first.init()

    play(tmp_path, scene)


def test_one_swarm_at_a_prefix(tmp_path: Path) -> None:
    async def scene(etcd: Etcd, host: Callable[..., Host]) -> None:
        await host(11).init()
        before = await etcd.keys()
        with pytest.raises(
            FailedPrecondition, match=r"there is one at etcd://.*/swarms/one/ already"
        ):
            await host(12).init()
        assert set(before) <= set(await etcd.keys())

    play(tmp_path, scene)


def test_what_could_not_begin_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scene(etcd: Etcd, host: Callable[..., Host]) -> None:
        first = host(11)
        server = await asyncio.start_server(lambda *_: None, *first.listen.split(":"))
        async with server:
            with pytest.raises(OperationFailed):
                await first.init()
        assert await etcd.keys() == []
        await first.init()

    play(tmp_path, scene)


def test_a_daemon_with_another_store_than_its_swarm_s(tmp_path: Path) -> None:
    async def scene(etcd: Etcd, host: Callable[..., Host]) -> None:
        first = host(11)
        await first.init()
        token = (await first.manager.swarm.join_tokens()).manager
        second = host(12, etcd.at("/nothing/"))
        await second.join(first.listen, token)
        await until(lambda: "there is none; swarm" in second.up.membership.error)
        third = Host(tmp_path, 13, None)
        try:
            await third.join(first.listen, token)
            await until(lambda: "set store in its configuration" in third.up.membership.error)
        finally:
            await third.stop()
        await first.stop()
        with pytest.raises(FailedPrecondition, match="in an etcd elsewhere: set store"):
            await Host(tmp_path, 11, None).resume()
        await (await etcd.at("/foreign/").begin(time.time_ns)).close()
        foreign = host(11, etcd.at("/foreign/"))
        foreign.member = await SwarmNode.resume(foreign.environment)
        assert "it has the state of no swarm" in foreign.up.membership.error

    play(tmp_path, scene)


def test_a_manager_with_a_store_of_its_own_cannot_change(tmp_path: Path) -> None:
    async def scene(etcd: Etcd, host: Callable[..., Host]) -> None:
        own = Host(tmp_path, 11, None)
        await own.init()
        await own.stop()
        with pytest.raises(
            FailedPrecondition, match="cannot use store etcd://.*only from the swarm's beginning"
        ):
            await host(11).resume()

    play(tmp_path, scene)


@pytest.mark.parametrize("flags", [(), LARGE[:1], LARGE[1:]])
def test_an_etcd_that_takes_too_little_at_once_is_refused(
    tmp_path: Path, flags: Sequence[str]
) -> None:
    async def main() -> None:
        etcd = Etcd(tmp_path)
        async with etcd.running(flags):
            with pytest.raises(OperationFailed, match=f"start etcd with {FLAGS}"):
                await Host(tmp_path, 11, etcd.at()).init()
            assert await etcd.keys() == []

    asyncio.run(main())


def test_a_manager_that_begins_while_it_is_out_of_reach_shows_what_it_knew(tmp_path: Path) -> None:
    async def main() -> None:
        etcd = Etcd(tmp_path)
        first = Host(tmp_path, 11, etcd.at())
        async with etcd.running():
            await first.init()
            await first.manager.swarm.create_network(NetworkSpec(name="known"))
            known = dict(first.manager.swarm.state.networks)
            await first.stop()
        try:
            await first.resume()
            await until(lambda: first.manager.swarm.state.networks == known)
            assert not first.manager.is_serving
            with pytest.raises(Unavailable, match="cannot reach the store"):
                await first.manager.swarm.create_network(NetworkSpec(name="refused"))
            async with etcd.running():
                await until(first.leads)
                await until(lambda: first.manager.swarm.create_network(NetworkSpec(name="more")))
                names = {
                    network.spec.name for network in first.manager.swarm.state.networks.values()
                }
                assert names == {network.spec.name for network in known.values()} | {"more"}
                await first.leave()
                assert not list(first.environment.data.parent.glob("swarm/*"))
        finally:
            await first.stop()

    asyncio.run(main())


def test_without_a_certificate_or_with_another_s(tmp_path: Path) -> None:
    async def scene(etcd: Etcd, host: Callable[..., Host]) -> None:
        stranger = tmp_path / "stranger"
        stranger.mkdir()
        foreign = Etcd(stranger).files
        nobody = ExternalEtcd(endpoints=etcd.at().endpoints)
        theirs = ExternalEtcd(endpoints=etcd.at().endpoints, files=foreign)
        mixed = TlsFiles(ca=etcd.files.ca, certificate=foreign.certificate, key=foreign.key)
        for where in (nobody, theirs, ExternalEtcd(endpoints=etcd.at().endpoints, files=mixed)):
            with pytest.raises((Unavailable, Forbidden)):
                await host(11, where).init()

    play(tmp_path, scene)


def test_files_of_no_use_are_named(tmp_path: Path) -> None:
    etcd = Etcd(tmp_path)
    (tmp_path / "empty").write_text("")
    (tmp_path / "other").mkdir()
    foreign = Etcd(tmp_path / "other").files
    for files, words in (
        (
            TlsFiles(ca=tmp_path / "none", certificate=etcd.files.certificate, key=etcd.files.key),
            "cannot read .*/none",
        ),
        (
            TlsFiles(ca=tmp_path / "empty", certificate=etcd.files.certificate, key=etcd.files.key),
            "cannot use store-cacert",
        ),
        (
            TlsFiles(ca=etcd.files.ca, certificate=etcd.files.certificate, key=foreign.key),
            "key values mismatch",
        ),
    ):
        with pytest.raises(InvalidArgument, match=words):
            ExternalEtcd(endpoints=("127.0.0.1:1",), files=files).context()
    assert isinstance(etcd.at().context(), ssl.SSLContext)


async def lead(directory: Path, port: int) -> None:
    """What the process does that is to be killed."""
    first = Host(directory, 11, Etcd(directory, port).at())
    await first.init()
    print(first.listen, (await first.manager.swarm.join_tokens()).manager, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(lead(Path(sys.argv[1]), int(sys.argv[2])))

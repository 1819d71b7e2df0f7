"""What the store expects of etcd, asked of the real one and of the one in memory."""

import asyncio
import os
import shutil
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import virtual_time
from weft.errors import FailedPrecondition, NotFound, OperationFailed, Unavailable
from weft.model.ids import ClusterId, NodeId
from weft.model.meta import SECOND
from weft.pki import authority
from weft.store.etcd.base import (
    Answer,
    Batch,
    Compacted,
    Compare,
    Delete,
    Kv,
    Pace,
    Read,
    Write,
    after,
)  # fmt: skip
from weft.store.etcd.client import GatewayClient
from weft.store.etcd.fake import FakeEtcd
from weft.store.etcd.process import EtcdMember, MemberSettings

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("etcd"), reason="needs root and etcd"),
]
Ask = Callable[[Callable[[Kv], Awaitable[None]]], None]
PATIENT = Pace(election=5.0)
"""How fast etcd answers is not asked here: other tests may keep the disk busy for seconds."""


@pytest.fixture(params=["fake", "real", "remote"])
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Ask:
    def with_fake(main: Callable[[Kv], Awaitable[None]]) -> None:
        async def body() -> None:
            await main(FakeEtcd(["m1"]).client("m1"))

        virtual_time.run(body())

    def with_real(main: Callable[[Kv], Awaitable[None]]) -> None:
        asyncio.run(on_a_member(tmp_path, main))

    def with_remote(main: Callable[[Kv], Awaitable[None]]) -> None:
        asyncio.run(on_somebody_elses(tmp_path, main))

    return {"fake": with_fake, "real": with_real, "remote": with_remote}[request.param]


def certify(directory: Path) -> None:
    key, now = ec.generate_private_key(ec.SECP256R1()), time.time_ns()
    root = authority.root(key, now, 1)
    address = IPv4Address("127.0.0.1")
    certificate = authority.issue(
        root,
        authority.request(key),
        authority.NodeCertificate(
            node=NodeId("m1"),
            role="manager",
            cluster=ClusterId("c"),
            begin=now,
            lifetime=3600 * SECOND,
            serial=2,
            addresses=(address,),
        ),
    )
    for file, text in (
        ("node.crt", certificate),
        ("node.key", authority.private_pem(key)),
        ("root.crt", root.certificate),
    ):
        (directory / file).write_text(text)


async def on_somebody_elses(directory: Path, main: Callable[[Kv], Awaitable[None]]) -> None:
    """At the second of its endpoints, by https and with a certificate."""
    certify(directory)
    client_url, peer_url = "https://127.0.0.1:23790", "http://127.0.0.1:23800"
    process = await asyncio.create_subprocess_exec(
        "etcd",
        "--name=m1",
        "--data-dir=data",
        "--logger=zap",
        "--log-level=error",
        "--client-cert-auth",
        "--cert-file=node.crt",
        "--key-file=node.key",
        "--trusted-ca-file=root.crt",
        f"--listen-client-urls={client_url}",
        f"--advertise-client-urls={client_url}",
        f"--listen-peer-urls={peer_url}",
        f"--initial-advertise-peer-urls={peer_url}",
        f"--initial-cluster=m1={peer_url}",
        cwd=directory,
    )
    context = ssl.create_default_context(cafile=str(directory / "root.crt"))
    context.load_cert_chain(directory / "node.crt", directory / "node.key")
    client = GatewayClient.remote(["127.0.0.1:1", "127.0.0.1:23790"], context, PATIENT)
    try:
        async with asyncio.timeout(20):
            while True:
                with suppress(Unavailable):
                    await client.status()
                    break
                await asyncio.sleep(0.05)
        await main(client)
    finally:
        await client.close()
        process.kill()
        await process.wait()


async def on_a_member(directory: Path, main: Callable[[Kv], Awaitable[None]]) -> None:
    certify(directory)
    member = EtcdMember(
        MemberSettings(
            name="m1", address="127.0.0.1", peer_port=23800, swarm=directory, run=directory / "run"
        )
    )
    client = member.client()
    client.pace = PATIENT
    try:
        await member.start()
        await member.ready()
        await main(client)
    finally:
        await client.close()
        await member.wipe()


def test_keys_are_read_in_order_in_pages_and_as_they_were(ask: Ask) -> None:
    async def main(kv: Kv) -> None:
        first = (await kv.txn([], [Write(f"a/{name}", name.encode()) for name in "cab"])).revision
        await kv.txn([], [Write("a/b", b"\x00\xff"), Write("b", b"other")])
        page = await kv.range("a/", after("a/"), limit=2)
        assert [(pair.key, pair.value) for pair in page.pairs] == [
            ("a/a", b"a"),
            ("a/b", b"\x00\xff"),
        ]
        assert (page.more, page.revision) == (True, first + 1)
        assert [(pair.create_revision, pair.mod_revision) for pair in page.pairs] == [
            (first, first),
            (first, first + 1),
        ]
        rest = await kv.range("a/b\0", after("a/"), limit=2, serializable=True)
        assert ([pair.key for pair in rest.pairs], rest.more) == (["a/c"], False)
        assert [pair.value for pair in (await kv.range("a/b", revision=first)).pairs] == [b"b"]
        assert (await kv.range("nothing")).pairs == ()
        with pytest.raises(Unavailable):
            await kv.range("a/b", revision=first + 99)
        await kv.compact(first + 1)
        with pytest.raises(Compacted):
            await kv.compact(first + 1)
        with pytest.raises(Compacted):
            await kv.range("a/b", revision=first)
        assert len((await kv.range("a/", after("a/"))).pairs) == 3

    ask(main)


def test_a_transaction_is_all_or_nothing(ask: Ask) -> None:
    async def main(kv: Kv) -> None:
        made = await kv.txn([Compare("a", 0)], [Write("a", b"1"), Write("b")], [Read("a")])
        assert made == Answer(True, made.revision)
        lost = await kv.txn(
            [Compare("b", made.revision), Compare("a", 0)],
            [Write("b", b"2")],
            [Read("a"), Read("none")],
        )
        assert (lost.succeeded, lost.revision) == (False, made.revision)
        assert [[pair.value for pair in found] for found in lost.reads] == [[b"1"], []]
        doubled: tuple[list[Write | Delete], ...] = (
            [Write("c"), Write("c")],
            [Write("c"), Delete("b", "d")],
        )
        for twice in doubled:
            with pytest.raises(OperationFailed, match="duplicate key"):
                await kv.txn([], twice)
        with pytest.raises(NotFound):
            await kv.txn([], [Write("c"), Write("d", lease=7)])
        assert [pair.key for pair in (await kv.range("a", "z")).pairs] == ["a", "b"]
        checked = await kv.txn([Compare("a", made.revision)], [], [])
        assert checked == Answer(True, made.revision)
        assert (await kv.txn([], [Delete("nothing")])).revision == made.revision
        gone = await kv.txn([Compare("a", made.revision)], [Delete("a", "z")])
        assert gone.revision == made.revision + 1
        assert (await kv.txn([Compare("a", 0)], [Write("a")])).succeeded
        again = (await kv.range("a")).pairs[0]
        assert again.create_revision == again.mod_revision == made.revision + 2

    ask(main)


def test_a_watch_brings_each_transaction_once_whole_and_in_order(ask: Ask) -> None:
    async def main(kv: Kv) -> None:
        first = (await kv.txn([], [Write("a/1", b"x"), Write("a/2"), Write("b")])).revision
        async with aclosing(kv.watch("a/", after("a/"), first)) as batches:
            assert await anext(batches) == Batch(())
            await kv.txn([], [Write("b")])
            await kv.txn([], [Write("a/1", b"y"), Delete("a/2")])
            changes = []
            async for batch in batches:
                changes += [
                    (c.key, c.value, c.create_revision, c.mod_revision) for c in batch.changes
                ]
                if len(changes) == 4:
                    break
        assert changes == [
            ("a/1", b"x", first, first), ("a/2", b"", first, first),
            ("a/1", b"y", first, first + 2), ("a/2", None, 0, first + 2),
        ]  # fmt: skip
        await kv.compact(first + 2)
        with pytest.raises(Compacted):
            async with aclosing(kv.watch("a/", after("a/"), first)) as batches:
                async for batch in batches:
                    assert not batch.changes

    ask(main)


def test_keys_live_as_long_as_their_lease(ask: Ask) -> None:
    async def main(kv: Kv) -> None:
        lease, other = await kv.grant(2), await kv.grant(60)
        written = await kv.txn(
            [],
            [Write("mine", lease=lease), Write("moved", lease=lease), Write("other", lease=other)],
        )
        await kv.txn([], [Write("moved", lease=other)])
        assert await kv.keep_alive(lease) == 2
        async with aclosing(kv.watch("a", "z", written.revision + 2)) as batches:
            async with asyncio.timeout(10):
                gone: list[str] = []
                async for batch in batches:
                    gone += [change.key for change in batch.changes if change.value is None]
                    if gone:
                        break
        assert gone == ["mine"]
        with pytest.raises(NotFound):
            await kv.keep_alive(lease)
        await kv.revoke(other)
        await kv.revoke(other)
        assert (await kv.range("a", "z")).pairs == ()

    ask(main)


def test_there_is_room_and_more_of_it_afterwards(ask: Ask) -> None:
    async def main(kv: Kv) -> None:
        for _ in range(40):
            written = await kv.txn([], [Write("a", bytes(100_000))])
        assert not (await kv.status()).is_full
        assert await kv.alarms() == frozenset()
        before = (await kv.status()).size
        await kv.compact(written.revision)
        await kv.defragment()
        await kv.disarm((await kv.status()).member)
        assert (await kv.status()).size <= before / 4
        assert (await kv.range("a")).pairs[0].value == bytes(100_000)

    ask(main)


def test_a_closed_client_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        client = GatewayClient.local(tmp_path / "nothing")
        with pytest.raises(Unavailable):
            await client.status()
        await client.close()
        with pytest.raises(Unavailable, match="stopping"):
            await client.status()
        with pytest.raises(Unavailable, match="stopping"):
            await anext(client.watch("a", "b", 1))

    asyncio.run(main())


def test_members_come_and_go_in_order(ask: Ask) -> None:
    async def main(kv: Kv) -> None:
        (own,) = await kv.members()
        status = await kv.status()
        assert (status.member, status.leader, own.name, own.is_learner) == (
            own.id,
            own.id,
            "m1",
            False,
        )
        learner = await kv.add_learner("https://127.0.0.2:23800")
        assert (learner.name, learner.is_learner) == ("", True)
        assert {each.id for each in await kv.members()} == {own.id, learner.id}
        for url in learner.peer_urls[0], "https://127.0.0.3:23800":
            with pytest.raises(FailedPrecondition):
                await kv.add_learner(url)
        for member in learner, own:
            with pytest.raises(FailedPrecondition):
                await kv.promote(member.id)
        await kv.remove_member(learner.id)
        for missing in (kv.remove_member(learner.id), kv.promote(learner.id)):
            with pytest.raises(NotFound):
                await missing
        assert await kv.members() == (own,)

    ask(main)

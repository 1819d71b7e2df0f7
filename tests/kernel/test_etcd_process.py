"""A manager's own member of the real etcd as a process: how it is started, found again and stopped,
and whom its port hears."""

import asyncio
import os
import random
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import aiohttp
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.kernel.etcd_members import Cluster, put, run, until
from tests.support.etcd_cluster import PORT, certify
from weft.errors import OperationFailed, Unavailable
from weft.model.cluster import RootCa
from weft.model.ids import NetworkId
from weft.model.network import Network, NetworkSpec
from weft.model.node import Role
from weft.model.state import KINDS, Put
from weft.pki import authority
from weft.store.etcd.base import Pace
from weft.store.etcd.process import EtcdMember

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("etcd"), reason="needs root and etcd"),
]


def test_a_member_outlives_who_started_it_and_is_found_again(tmp_path: Path) -> None:
    async def main(cluster: Cluster) -> None:
        member = cluster.members["m1"]
        assert member._process is not None
        pid = member._process.pid
        await member.close()
        again = cluster.members["m1"] = EtcdMember(member.settings)
        await again.start()
        assert again._process is not None
        assert again._process.pid == pid
        await again.close()
        again.settings.record.unlink()  # as if it had been killed before it wrote that
        await again.start()
        assert again._process.pid == pid
        again._process.kill(signal.SIGKILL)
        await until(lambda: again._process is not None and again._process.pid != pid)
        await again.ready()
        before = again._process.pid
        await again.restart()
        await again.ready()
        assert again._process.pid != before
        before = again._process.pid
        await again.close()
        slow = msgspec.structs.replace(member.settings, pace=Pace(2.5))
        again = cluster.members["m1"] = EtcdMember(slow)
        await again.start()
        await again.ready()
        assert again._process is not None
        assert again._process.pid != before, "it is started anew for another pace"
        flags = Path(f"/proc/{again._process.pid}/cmdline").read_text().split("\0")
        assert {"--heartbeat-interval=250", "--election-timeout=2500"} <= set(flags)
        assert again.has_data
        assert len((await cluster.store("m1")).state.tables) == len(KINDS)
        for path, mode in (
            (again.settings.data, 0o700),
            (again.settings.run, 0o700),
            (again.settings.log, 0o600),
        ):
            assert path.stat().st_mode & 0o777 == mode

    run(tmp_path, main, members=1)


def test_a_member_that_cannot_start_says_why_and_is_not_tried_without_pause(tmp_path: Path) -> None:
    async def body() -> None:
        cluster = Cluster(tmp_path)
        member = cluster.make("m1", 1)
        (member.settings.swarm / "node.key").write_text("nonsense")
        await member.start()
        with pytest.raises(OperationFailed, match="cannot start etcd: it ended: .*PEM"):
            await member.ready()
        pids = set()
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            pids |= {member._process.pid} if member._process else set()
            await asyncio.sleep(0.01)
        assert 1 <= len(pids) <= 4
        await cluster.close()

    asyncio.run(body())


def test_a_cluster_that_is_founded_again_is_another_one(tmp_path: Path) -> None:
    """What is left of the earlier one may still speak to its address, and must find a stranger
    there."""

    async def main(cluster: Cluster) -> None:
        member = cluster.members["m1"]
        client = member.client()
        cluster.stack.push_async_callback(client.close)
        before = (await client.status()).member
        await member.wipe()
        await member.start()
        await member.ready()
        assert (await client.status()).member != before

    run(tmp_path, main)


def context_of(swarm: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(swarm / "root.crt"))
    context.load_cert_chain(swarm / "node.crt", swarm / "node.key")
    return context


def test_a_full_disk_stops_the_member_with_pauses_and_it_comes_back_with_all_it_acknowledged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = tmp_path / "m1" / "swarm"

    async def main(cluster: Cluster) -> None:
        store = await cluster.store("m1")
        filler, acknowledged = disk / "filler", []
        with suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        for number in range(2000):
            large = NetworkSpec(name=f"n{number}", labels={"x": "y" * 50_000})
            try:
                await store.commit([Put(Network(id=NetworkId(f"id-n{number}"), spec=large))])
            except (Unavailable, OperationFailed):
                break
            acknowledged.append(f"id-n{number}")
        await until(lambda: caplog.text.count("etcd.ended") >= 3)
        assert "no space left on device" in caplog.text
        assert not store.is_healthy
        filler.unlink()
        await until(lambda: store.is_healthy, 40)
        assert list(store.state.networks)[: len(acknowledged)] == acknowledged
        await put(store, "after")

    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", disk], check=True)
    try:
        run(tmp_path, main, members=1)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_only_managers_of_this_swarm_are_heard_on_the_peer_port(tmp_path: Path) -> None:
    async def main(cluster: Cluster) -> None:
        other = authority.root(ec.generate_private_key(ec.SECP256R1()), time.time_ns(), 1)
        url = f"{cluster.members['m1'].settings.peer_url}/members"
        heard: dict[str, Sequence[bool]] = {}
        certified: tuple[tuple[str, RootCa, Role], ...] = (
            ("manager", cluster.root, "manager"),
            ("worker", cluster.root, "worker"),
            ("alien", other, "manager"),
        )
        for who, root, role in certified:
            directory = tmp_path / who
            directory.mkdir()
            certify(directory, root, who, role, "127.0.0.9")
            (directory / "root.crt").write_text(cluster.root.certificate)
            heard[who] = [await answers(url, context_of(directory))]
        nobody = ssl.create_default_context(cafile=str(tmp_path / "worker" / "root.crt"))
        heard["nobody"] = [await answers(url, nobody)]
        assert heard == {"manager": [True], "worker": [False], "alien": [False], "nobody": [False]}
        assert cluster.members["m1"].is_running

    run(tmp_path, main, members=1)


def test_what_strangers_send_to_the_peer_port_does_no_harm(tmp_path: Path) -> None:
    async def main(cluster: Cluster) -> None:
        settings, store = cluster.members["m1"].settings, await cluster.store("m1")
        process = cluster.members["m1"]._process
        assert process is not None
        pid = process.pid
        randomness = random.Random(1)
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + randomness.randbytes(500)
        frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9) + randomness.randbytes(4000)
        strange = [
            b"",
            b"GET /members HTTP/1.1\r\n\r\n",
            randomness.randbytes(70_000),
            hello,
            frames,
        ]
        # Without a certificate, and with a manager's.
        for context in (
            None,
            context_of(settings.swarm),
        ):
            for sent in strange * 4:
                await send(settings.address, context, sent)
        held = [await asyncio.open_connection(settings.address, PORT) for _ in range(500)]
        url = f"{settings.peer_url}/members"
        for arguments in (
            ["--http2"],
            ["--http1.1"],
            ["--http2-prior-knowledge"],
            ["-X", "POST", "--data-binary", "@/bin/true"],
        ):
            certificates = ["--cacert", "root.crt", "--cert", "node.crt", "--key", "node.key"]
            for identity in ([*certificates], ["--insecure"]):
                await curl(
                    settings.swarm,
                    [*arguments, *identity, url, f"{settings.peer_url}/raft/stream/message/1"],
                )
        await put(store, "after")
        for _, writer in held:
            writer.close()
        assert cluster.members["m1"]._process is process
        assert process.pid == pid
        assert cluster.members["m1"].is_running

    run(tmp_path, main, members=1)


async def send(address: str, context: ssl.SSLContext | None, what: bytes) -> None:
    """And waits for what it says to that."""
    reader, writer = await asyncio.open_connection(address, PORT, ssl=context)
    try:
        writer.write(what)
        writer.write_eof() if context is None else None
        async with asyncio.timeout(0.3):
            await reader.read()
    except (OSError, TimeoutError):
        pass
    finally:
        writer.close()


async def curl(directory: Path, arguments: Sequence[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        "curl",
        "-s",
        "-m",
        "1",
        "-o",
        "/dev/null",
        *arguments,
        cwd=directory,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await process.wait()


async def answers(url: str, context: ssl.SSLContext) -> bool:
    try:
        async with aiohttp.ClientSession() as http, http.get(url, ssl=context) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False

"""Strangers at a manager's port, from a host of their own with many addresses: three hosts as
namespaces on one bridge.

`tests/sim/test_floods.py` has more variants, on loopback. What is counted is what got through,
never time.
"""

import asyncio
import gc
import itertools
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.support.certified import Swarm, swarm
from weft.errors import Unavailable
from weft.linux import netns
from weft.model.node import NodeDescription
from weft.pki.certificate import holder
from weft.session import tls
from weft.session.client import Connector
from weft.session.identity import Credentials, CredentialSource
from weft.session.messages import Hello, Welcome

pytestmark = [
    pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.filterwarnings("ignore:unclosed (<socket|transport):ResourceWarning"),
]  # fmt: skip
"""A loop ends here with its last session, whose TLS is still saying goodbye."""

NETNS = Path("/run/netns")
MANAGER, NODE, STRANGER = "10.77.5.1", "10.77.5.2", "10.77.5.3"
SOURCES = [f"10.77.5.{number}" for number in range(100, 132)]
"""More addresses of the strangers' host."""
ENOUGH = 2500
"""Connections: more than all queues and places hold."""
FLOOD = """
import itertools, random, select, socket, sys, time
address, port, says, slowly = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3]), sys.argv[4] == "slowly"
sources, opened = sys.argv[5:], []
for number in itertools.count(1):
    one = socket.socket()
    one.settimeout(5)
    try:
        one.bind((random.choice(sources), 0))
        one.connect((address, port))
        one.sendall(says[:1] if slowly else says)
    except OSError:
        pass
    opened.append([one, 1])
    if slowly:
        some = random.choice(opened)
        try:
            some[0].sendall(says[some[1]:some[1] + 1])
        except OSError:
            pass
        some[1] += 1
    if len(opened) > 900:
        opened.pop(0)[0].close()
    if number % 100 == 0:
        print(number, flush=True)
    time.sleep(0.0005)
"""
"""Argv: the manager's address and port, what is said (hex), whether a byte at a time, addresses to
come from."""


def sh(command: str) -> None:
    subprocess.run(command, shell=True, check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[dict[str, Path]]:
    """Namespace files by address."""
    tag = f"flood{os.getpid()}"
    names = {address: f"{tag}-{number}" for number, address in enumerate((MANAGER, NODE, STRANGER))}
    try:
        sh(
            f"ip netns add {tag}-hub && ip -n {tag}-hub link add br0 type bridge && ip -n {tag}-hub"
            " link set br0 up"
        )
        for number, (address, name) in enumerate(names.items()):
            sh(f"ip netns add {name} && ip -n {name} link set lo up")
            sh(f"ip -n {name} link add eth0 type veth peer name p{number} netns {tag}-hub")
            sh(f"ip -n {tag}-hub link set p{number} master br0 up")
            sh(f"ip -n {name} addr add {address}/24 dev eth0 && ip -n {name} link set eth0 up")
        for source in SOURCES:
            sh(f"ip -n {names[STRANGER]} addr add {source}/24 dev eth0")
        yield {address: NETNS / name for address, name in names.items()}
    finally:
        for name in (f"{tag}-hub", *names.values()):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class Manager:
    """In a namespace, in a thread of its own."""

    def __init__(self, namespace: Path) -> None:
        self.address = ""
        self.credentials: Credentials
        """Of a node that has no session."""
        self._target: Swarm
        self._loop: asyncio.AbstractEventLoop
        self._ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(
            target=netns.run_in, args=(namespace, lambda: on_uvloop(self._serve()))
        )
        self._thread.start()
        assert self._ready.wait(60)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with (
            swarm(time.time_ns, workers=0) as self._target,
            self._target.listen(host=MANAGER),
        ):
            insider = await self._target.join()
            await insider.stop()
            self.address, self.credentials = (
                self._target.address,
                insider.credential_source.credentials,
            )
            self._ready.set()
            await asyncio.to_thread(self._stop.wait)
            for member in self._target.members:
                await member.stop()

    def until_known(self, address: str) -> None:
        """To be a node's."""
        manager = self._target.manager
        seen = self._target.until(lambda: manager.knows(address))
        asyncio.run_coroutine_threadsafe(seen, self._loop).result()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


def on_uvloop(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


async def sessions(manager: str, credentials: Credentials, count: int) -> int:
    """One after the other; gives how many attempts they took."""
    node = holder(credentials.certificate).node
    hello = Hello(node=node, description=NodeDescription(hostname="h"), data_path_address=NODE)
    connect, attempts = (
        Connector(CredentialSource(credentials, lambda _: None), lambda: [manager]),
        itertools.count(1),
    )
    attempt = 0
    for _ in range(count):
        answer = None
        while answer is None:
            attempt = next(attempts)
            with suppress(Unavailable):
                session = await connect()
                await session.send(hello)
                answer = await session.receive()
                await session.close("done")
        assert isinstance(answer, Welcome)
    return attempt


def client_hello() -> bytes:
    """The first message of TLS, as a client sends it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        tls.unverified_context().wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


@contextmanager
def flood(host: Path, manager: str, says: bytes, slowly: bool) -> Iterator[Callable[[int], None]]:
    """Gives what waits until it has made that many connections more."""
    address, _, port = manager.rpartition(":")
    how = "slowly" if slowly else "at once"
    argv = [
        "ip",
        "netns",
        "exec",
        host.name,
        sys.executable,
        "-c",
        FLOOD,
        address,
        port,
        says.hex(),
        how,
    ]
    with subprocess.Popen(
        [*argv, STRANGER, *SOURCES], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = process.stdout

        def more(count: int) -> None:
            for _ in range(count // 100):
                assert lines.readline(), "it was going on all the while"

        try:
            yield more
        finally:
            process.kill()


HELLO = client_hello()
KINDS = {
    "silent": (b"", False), "half a hello": (HELLO[:100], False), "half-open TLS": (HELLO, False), "slow": (HELLO, True),
    "no TLS": (b"GET / HTTP/1.1\r\n\r\n", False),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_gets_in_again_and_again_while_another_host_floods_the_port(
    hosts: dict[str, Path], kind: str
) -> None:
    manager = Manager(hosts[MANAGER])

    def attempts(count: int) -> int:
        return netns.run_in(
            hosts[NODE], lambda: asyncio.run(sessions(manager.address, manager.credentials, count))
        )

    try:
        assert attempts(1) == 1
        manager.until_known(NODE)
        with flood(hosts[STRANGER], manager.address, *KINDS[kind]) as more:
            more(ENOUGH)
            assert attempts(20) <= 40, (
                "one that the machine was too busy for is no wonder; a stranger needs hundreds"
            )
            more(ENOUGH)
            assert attempts(5) <= 10
    finally:
        manager.end()
        gc.collect()

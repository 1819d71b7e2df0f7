"""Three hosts as namespaces with real plans and kernels, a client outside, and servers in sandboxes
(`Bed`); and how they are asked: sockets are opened in a namespace and used from here."""

import asyncio
import base64
import contextlib
import functools
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from tests.support.swarms import Swarm
from weft.linux import netns
from weft.model.codec import encode
from weft.model.ids import TaskId

CLIENT = "10.59.72.100"
HOSTS = ["10.59.72.11", "10.59.72.12", "10.59.72.13"]
TIMEOUT = 3.0
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0
"""Not in the socket module."""
FRESH_PORTS = itertools.count(22000)
"""A UDP port used twice within 30 s is one flow, and stays with its task: the kernel's random
choice does that now and then."""


def run(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stderr}{done.stdout}"
    return done.stdout


class Servers(threading.Thread):
    """Servers of all sandboxes, on one loop: TCP says who asks and then echoes, UDP says who
    asks."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.loop = asyncio.new_event_loop()
        self._open: list[asyncio.Server | asyncio.BaseTransport] = []
        self.start()

    def run(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    def add(self, path: Path, name: str, tcp: list[int], udp: list[int]) -> None:
        asyncio.run_coroutine_threadsafe(self._add(path, name, tcp, udp), self.loop).result(10)

    async def _add(self, path: Path, name: str, tcp: list[int], udp: list[int]) -> None:
        for port in tcp:
            listener = netns.run_in(
                path, functools.partial(bound, socket.SOCK_STREAM, "0.0.0.0", port)
            )
            server = await asyncio.start_server(functools.partial(self._talk, name), sock=listener)
            self._open.append(server)
        for port in udp:
            datagrams = netns.run_in(
                path, functools.partial(bound, socket.SOCK_DGRAM, "0.0.0.0", port)
            )
            datagrams.setblocking(False)
            transport, _ = await self.loop.create_datagram_endpoint(
                lambda: Answerer(name), sock=datagrams
            )
            self._open.append(transport)

    @staticmethod
    async def _talk(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        writer.write(json.dumps({"name": name, "peer": peer[0], "port": peer[1]}).encode() + b"\n")
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    def close(self) -> None:
        async def end() -> None:
            for opened in self._open:
                opened.close()
            talks = asyncio.all_tasks() - {asyncio.current_task()}
            for talk in talks:
                talk.cancel()
            await asyncio.gather(*talks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.join(10)


class Answerer(asyncio.DatagramProtocol):
    """Answers with its name, the asker, and as much padding as the question had."""

    def __init__(self, name: str) -> None:
        self.name = name

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        text = json.dumps(
            {"name": self.name, "peer": peer[0], "port": peer[1], "length": len(data)}
        ).encode()
        self.transport.sendto(text.ljust(len(data)), peer)


def bound(kind: int, address: str, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, kind)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind((address, port))
    if kind == socket.SOCK_STREAM:
        opened.listen(64)
    return opened


class Bed:
    """The underlay, the client, the hosts and their processes."""

    def __init__(self, swarm: Swarm, stack: contextlib.ExitStack) -> None:
        self.swarm = swarm
        self.prefix = f"wfdp{os.getpid()}"
        self.root = Path(tempfile.mkdtemp(prefix="weft-datapath-"))
        stack.callback(shutil.rmtree, self.root)
        self.stack = stack
        self._space("net")
        run("ip", "-n", self.name("net"), "link", "add", "weft0", "type", "bridge")
        run("ip", "-n", self.name("net"), "link", "set", "weft0", "up")
        self._attach("client", f"{CLIENT}/24")
        for i, address in enumerate(HOSTS, 1):
            self._attach(f"node{i}", f"{address}/24")
            run("ip", "-n", self.name(f"node{i}"), "route", "add", "default", "via", "10.59.72.254")
        self.processes = [self._host(i) for i in (1, 2, 3)]
        self.servers = Servers()
        stack.callback(self.servers.close)

    def name(self, what: str) -> str:
        return f"{self.prefix}-{what}"

    def path(self, what: str) -> Path:
        return Path("/run/netns") / self.name(what)

    def sandbox(self, task: TaskId) -> Path:
        host = self.swarm.nodes.index(self.swarm.tasks[task].node) + 1
        return self.directory(host) / self.swarm.sandbox(task).key

    def directory(self, host: int) -> Path:
        return self.root / f"node{host}"

    def apply(self) -> list[list[str]]:
        """Bring every host to what the swarm says; the operations that it took."""
        done = []
        for host, process in enumerate(self.processes, 1):
            assert process.stdin is not None
            assert process.stdout is not None
            value = (
                self.swarm.assignment(host),
                self.swarm.facts(host),
                self.swarm.residents(host),
            )
            process.stdin.write(base64.b64encode(encode(value)).decode() + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert not answer["error"], answer["error"]
            assert not answer["left"], "\n".join(answer["left"])
            done.append(answer["done"])
        return done

    def inside(self, where: str | Path, *words: str, check: bool = True) -> str:
        path = self.path(where) if isinstance(where, str) else where
        return run("nsenter", f"--net={path}", *words, check=check)

    def _space(self, what: str) -> None:
        run("ip", "netns", "add", self.name(what))
        self.stack.callback(run, "ip", "netns", "delete", self.name(what))
        run("ip", "-n", self.name(what), "link", "set", "lo", "up")

    def _attach(self, what: str, address: str) -> None:
        self._space(what)
        run(
            "ip",
            "-n",
            self.name("net"),
            "link",
            "add",
            what,
            "type",
            "veth",
            "peer",
            "name",
            "ens160",
            "netns",
            self.name(what),
        )
        run("ip", "-n", self.name("net"), "link", "set", what, "master", "weft0", "up")
        run("ip", "-n", self.name(what), "address", "add", address, "dev", "ens160")
        run("ip", "-n", self.name(what), "link", "set", "ens160", "up")

    def _host(self, number: int) -> "subprocess.Popen[str]":
        directory = self.directory(number)
        directory.mkdir()
        script = Path(__file__).with_name("datapath_host.py")
        process = subprocess.Popen(
            [
                "nsenter",
                f"--net={self.path(f'node{number}')}",
                sys.executable,
                str(script),
                str(directory),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.stack.callback(self._end, process, directory)
        return process

    @staticmethod
    def _end(process: "subprocess.Popen[str]", directory: Path) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        for file in directory.iterdir():
            netns.remove(file)


def tasks(bed: Bed, service: str) -> list[TaskId]:
    return [t.id for t in bed.swarm.tasks.values() if t.service_name == service]


class Said(dict[str, Any]):
    """What a server answered."""


def connect(
    path: Path, address: str, port: int, source: tuple[str, int] | None = None
) -> socket.socket:
    def opened() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.settimeout(TIMEOUT)
        try:
            if source is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(source)
            sock.connect((address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    return netns.run_in(path, opened)


def hello(sock: socket.socket) -> Said:
    data = b""
    while not data.endswith(b"\n"):
        chunk = sock.recv(4096)
        assert chunk, "the server hung up"
        data += chunk
    return Said(json.loads(data))


def ask(path: Path, address: str, port: int, source: tuple[str, int] | None = None) -> Said:
    with connect(path, address, port, source) as sock:
        return hello(sock)


def echoes(sock: socket.socket, size: int = 10) -> bool:
    sock.sendall(b"x" * size)
    left = size
    while left:
        left -= len(sock.recv(65536)) or size
    return True


def ask_udp(
    path: Path, address: str, port: int, size: int = 10, source: tuple[str, int] | None = None
) -> Said:
    """Without path MTU discovery: datagrams that are too long for a link are fragmented there."""

    def opened() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        return sock

    with netns.run_in(path, opened) as sock:
        sock.settimeout(TIMEOUT)
        sock.bind(source or ("0.0.0.0", next(FRESH_PORTS)))
        sock.connect((address, port))
        sock.send(b"?" * size)
        return Said(json.loads(sock.recv(65536)))


def own_address(bed: Bed, task: TaskId, network: str) -> str:
    attachments = bed.swarm.tasks[task].attachments
    return next(
        str(a.address.ip) for a in attachments if bed.swarm.definitions[a.network].name == network
    )

"""The API on TCP as the stock docker command sees it: mutual TLS, streams that end one direction first, and who is refused."""

import asyncio
import hashlib
import json
import os
import pty
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from weft.api.backend import InitRequest
from weft.api.server import ApiServer
from weft.api.tls import MAX_UNAUTHENTICATED, TlsFiles, load
from weft.errors import InvalidArgument
from weft.testing.fake_node import IMAGE, FakeNode

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")
DEADLINE = 60
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def openssl(*argv: str | Path) -> None:
    subprocess.run(["openssl", *argv], check=True, capture_output=True)


def make_ca(directory: Path) -> Path:
    directory.mkdir()
    openssl(
        "req",
        "-x509",
        *CURVE,
        "-keyout",
        directory / "ca-key.pem",
        "-out",
        directory / "ca.pem",
        "-days",
        "2",
        "-subj",
        "/CN=ca",
    )
    return directory


def issue(ca: Path, name: str, extensions: str) -> None:
    """`name`.pem and `name`-key.pem, beside the CA."""
    (ca / "extensions").write_text(extensions)
    openssl("req", "-new", *CURVE, "-keyout", ca / f"{name}-key.pem", "-out", ca / "csr", "-subj", f"/CN={name}")
    openssl(
        "x509", "-req", "-in", ca / "csr", "-CA", ca / "ca.pem", "-CAkey", ca / "ca-key.pem", "-CAcreateserial", "-days", "2",
        "-extfile", ca / "extensions", "-out", ca / f"{name}.pem",
    )  # fmt: skip


def make_identity(directory: Path) -> Path:
    ca = make_ca(directory)
    issue(ca, "server", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth")
    issue(ca, "cert", "extendedKeyUsage=clientAuth")
    (ca / "cert-key.pem").rename(ca / "key.pem")
    return ca


def files(directory: Path) -> TlsFiles:
    return TlsFiles(ca=directory / "ca.pem", certificate=directory / "server.pem", key=directory / "server-key.pem")


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_identity(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_identity(tmp_path_factory.mktemp("tls") / "theirs")


class Daemon:
    """A server on an event loop of its own, in a thread."""

    def __init__(self, identity: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.identity = identity
        self._runner = asyncio.Runner(loop_factory=new_loop)
        self._loop = self._runner.get_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._runner.run, args=(self._serve(),))
        self._thread.start()
        assert self._ready.wait(DEADLINE)

    async def _serve(self) -> None:
        self.node = FakeNode()
        await self.node.init(InitRequest())
        server = ApiServer(self.node)
        self.port = await server.start_tls("127.0.0.1", 0, files(self.identity))
        self._ready.set()
        await self._stop.wait()
        await server.close()
        await self.node.close()

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE)
        self._runner.close()

    def command(self, *argv: str, as_: Path | None = None) -> list[str]:
        shown = as_ or self.identity
        return [
            "docker", "--tlsverify", "--tlscacert", str(self.identity / "ca.pem"), "--tlscert", str(shown / "cert.pem"),
            "--tlskey", str(shown / "key.pem"), "-H", f"tcp://127.0.0.1:{self.port}", *argv,
        ]  # fmt: skip

    def run(self, *argv: str, stdin: bytes = b"", as_: Path | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(self.command(*argv, as_=as_), input=stdin, capture_output=True, timeout=DEADLINE, check=False)

    def ok(self, *argv: str) -> str:
        done = self.run(*argv)
        assert done.returncode == 0, f"docker {' '.join(argv)}: {done.stderr.decode()}"
        return done.stdout.decode()

    def container(self, script: str = "") -> str:
        command = ["sh", "-c", script] if script else []
        self.ok("service", "create", "-d", "--no-resolve-image", "--name", "web", IMAGE, *command)
        return self.ok("ps", "-aq", "--no-trunc", "--filter", "label=com.docker.swarm.service.name=web").split()[0]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def daemon(request: pytest.FixtureRequest, identity: Path) -> Iterator[Daemon]:
    daemon = Daemon(identity, request.param)
    yield daemon
    daemon.close()


def test_version(daemon: Daemon) -> None:
    assert json.loads(daemon.ok("version", "--format", "json"))["Server"]["ApiVersion"] == "1.47"


def test_exec_answers_a_client_that_sends_nothing(daemon: Daemon) -> None:
    done = daemon.run("exec", daemon.container(), "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)


def test_exec_carries_20_megabytes_both_ways(daemon: Daemon) -> None:
    data = os.urandom(20 * 2**20)
    done = daemon.run("exec", "-i", daemon.container(), "cat", stdin=data)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_exec_with_a_terminal(daemon: Daemon) -> None:
    container = daemon.container()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        daemon.command("exec", "-it", container, "sh", "-c", "tty >/dev/null && read line && echo got $line; exit 9"),
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, b"hello\n")
    seen = b""
    while b"got hello" not in seen:
        seen += os.read(ours, 4096)
    assert process.wait(DEADLINE) == 9
    os.close(ours)


def test_logs_and_events_are_followed(daemon: Daemon) -> None:
    container = daemon.container("echo first; echo second; exec sleep 60")
    for argv, word in ((("logs", "-f", container), b"second"), (("events", "--since", "1"), b"create")):
        process = subprocess.Popen(daemon.command(*argv), stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert any(word in line for line in process.stdout)
        process.terminate()
        process.wait(DEADLINE)
        process.stdout.close()


def test_others_are_refused(daemon: Daemon, stranger: Path) -> None:
    foreign = daemon.run("version", as_=stranger)
    assert foreign.returncode == 1
    assert b"tls: unknown certificate authority" in foreign.stderr or b"bad certificate" in foreign.stderr
    none = daemon.run("version", as_=Path("/nowhere"))
    assert none.returncode == 1
    url = f"https://127.0.0.1:{daemon.port}/version"
    bare = subprocess.run(["curl", "-s", "--cacert", daemon.identity / "ca.pem", url], capture_output=True, check=False)
    assert bare.returncode != 0
    assert not bare.stdout
    with socket.create_connection(("127.0.0.1", daemon.port), DEADLINE) as plain:
        plain.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        plain.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: plain.recv(4096), b""))
    assert b"HTTP" not in answer
    daemon.ok("version")


def test_a_silent_crowd_keeps_nobody_out(daemon: Daemon) -> None:
    crowd = [socket.create_connection(("127.0.0.1", daemon.port), DEADLINE) for _ in range(2 * MAX_UNAUTHENTICATED)]
    try:
        daemon.ok("version")
        assert crowd[0].recv(1) == b"", "the oldest gave way"
    finally:
        for one in crowd:
            one.close()
    daemon.ok("version")


def test_certificates_that_were_replaced_count_at_once(tmp_path: Path, stranger: Path) -> None:
    served = make_identity(tmp_path / "served")
    daemon = Daemon(served, uvloop.new_event_loop)
    try:
        daemon.ok("version")
        for name in ("ca.pem", "server.pem", "server-key.pem"):
            shutil.copy(stranger / name, served / name)
        assert daemon.run("version").returncode == 1, "a certificate of the old CA is still accepted"
        assert daemon.run("version", as_=stranger).returncode == 0
        (served / "server-key.pem").write_text("half of a k")
        assert daemon.run("version", as_=stranger).returncode == 0, "files that do not fit ended the service"
    finally:
        daemon.close()


def test_files_of_no_use_are_named(tmp_path: Path, stranger: Path) -> None:
    ours = make_identity(tmp_path / "own")
    with pytest.raises(InvalidArgument, match=r"cannot read .*/none.pem: No such file"):
        load(TlsFiles(ca=ours / "none.pem", certificate=ours / "server.pem", key=ours / "server-key.pem"))
    with pytest.raises(InvalidArgument, match="cannot use tlscacert"):
        load(TlsFiles(ca=ours / "extensions", certificate=ours / "server.pem", key=ours / "server-key.pem"))
    with pytest.raises(InvalidArgument, match="key values mismatch"):
        load(TlsFiles(ca=ours / "ca.pem", certificate=ours / "server.pem", key=stranger / "server-key.pem"))


def test_the_swarm_s_settings(daemon: Daemon) -> None:
    daemon.ok("swarm", "update", "--cert-expiry", "72h", "--dispatcher-heartbeat", "9s", "--task-history-limit", "4")
    spec = json.loads(daemon.ok("info", "--format", "{{json .Swarm.Cluster.Spec}}"))
    assert spec["CAConfig"]["NodeCertExpiry"] == 72 * 3600 * 10**9
    assert spec["Dispatcher"]["HeartbeatPeriod"] == 9 * 10**9
    assert spec["Orchestration"]["TaskHistoryRetentionLimit"] == 4
    assert b"AutoLockManagers is not supported" in daemon.run("swarm", "update", "--autolock").stderr
    assert (
        b"ExternalCAs is not supported" in daemon.run("swarm", "update", "--external-ca", "protocol=cfssl,url=https://x").stderr
    )
    assert b"the Raft log is etcd's" in daemon.run("swarm", "update", "--max-snapshots", "2").stderr

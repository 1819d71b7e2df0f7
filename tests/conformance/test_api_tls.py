"""The API on TCP as the stock docker command sees it: mutual TLS, streams that end one direction
first, and who is refused."""

import asyncio
import hashlib
import json
import os
import pty
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import uvloop

from tests.support.api_daemon import DEADLINE, ApiDaemon
from weft.api.server import ApiServer
from weft.api.tls import DOOR, TlsListener, server_context
from weft.errors import InvalidArgument
from weft.model.membership import InitRequest
from weft.system.tls_files import TlsFiles

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")
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
    openssl(
        "req",
        "-new",
        *CURVE,
        "-keyout",
        ca / f"{name}-key.pem",
        "-out",
        ca / "csr",
        "-subj",
        f"/CN={name}",
    )
    openssl(
        "x509",
        "-req",
        "-in",
        ca / "csr",
        "-CA",
        ca / "ca.pem",
        "-CAkey",
        ca / "ca-key.pem",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        ca / "extensions",
        "-out",
        ca / f"{name}.pem",
    )


def make_identity(directory: Path) -> Path:
    ca = make_ca(directory)
    issue(ca, "server", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth")
    issue(ca, "cert", "extendedKeyUsage=clientAuth")
    (ca / "cert-key.pem").rename(ca / "key.pem")
    return ca


def files(directory: Path) -> TlsFiles:
    return TlsFiles(
        ca=directory / "ca.pem",
        certificate=directory / "server.pem",
        key=directory / "server-key.pem",
    )


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_identity(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_identity(tmp_path_factory.mktemp("tls") / "theirs")


class Daemon(ApiDaemon):
    def __init__(self, identity: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.identity = self.shown = identity
        """The CA that the command trusts, and the certificate that it shows."""
        super().__init__(new_loop)

    async def listen(self, server: ApiServer) -> None:
        await self.node.init(InitRequest())
        self.port = await server.start_tls("127.0.0.1", 0, files(self.identity))

    @property
    def client(self) -> list[str]:
        return [
            "docker", "--tlsverify", "--tlscacert", str(self.identity / "ca.pem"), "--tlscert", str(self.shown / "cert.pem"),
            "--tlskey", str(self.shown / "key.pem"), "-H", f"tcp://127.0.0.1:{self.port}",
        ]  # fmt: skip

    def version_as(self, identity: Path) -> subprocess.CompletedProcess[bytes]:
        before, self.shown = self.shown, identity
        try:
            return self.run("version")
        finally:
            self.shown = before


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def daemon(request: pytest.FixtureRequest, identity: Path) -> Iterator[Daemon]:
    daemon = Daemon(identity, request.param)
    yield daemon
    daemon.close()


def test_version(daemon: Daemon) -> None:
    assert json.loads(daemon.ok("version", "--format", "json"))["Server"]["ApiVersion"] == "1.51"


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
        daemon.command(
            "exec",
            "-it",
            container,
            "sh",
            "-c",
            "tty >/dev/null && read line && echo got $line; exit 9",
        ),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, b"hello\n")
    seen = b""
    while b"got hello" not in seen:
        seen += os.read(ours, 4096)
    assert process.wait(DEADLINE) == 9
    os.close(ours)


def test_logs_and_events_are_followed(daemon: Daemon) -> None:
    container = daemon.container(script="echo first; echo second; exec sleep 60")
    for argv, word in (
        (("logs", "-f", container), b"second"),
        (("events", "--since", "1"), b"create"),
    ):
        process = subprocess.Popen(daemon.command(*argv), stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert any(word in line for line in process.stdout)
        process.terminate()
        process.wait(DEADLINE)
        process.stdout.close()


class Talker(asyncio.Protocol):
    """Says more than the connection takes."""

    transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(bytes(16 << 20))


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_close_leaves_no_connection_open(
    new_loop: Callable[[], asyncio.AbstractEventLoop], identity: Path
) -> None:
    talker = Talker()

    async def run() -> None:
        listener = TlsListener(files(identity), lambda: talker)
        port = await listener.start("127.0.0.1", 0)
        trusted = ssl.create_default_context(cafile=str(identity / "ca.pem"))
        trusted.load_cert_chain(identity / "cert.pem", identity / "key.pem")
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusted)
        await reader.readexactly(1)
        await listener.close()
        assert talker.transport is not None
        assert talker.transport.is_closing()
        writer.transport.abort()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())


def test_others_are_refused(daemon: Daemon, stranger: Path) -> None:
    foreign = daemon.version_as(stranger)
    assert foreign.returncode == 1
    assert (
        b"tls: unknown certificate authority" in foreign.stderr
        or b"bad certificate" in foreign.stderr
    )
    none = daemon.version_as(Path("/nowhere"))
    assert none.returncode == 1
    url = f"https://127.0.0.1:{daemon.port}/version"
    bare = subprocess.run(
        ["curl", "-s", "--cacert", daemon.identity / "ca.pem", url],
        capture_output=True,
        check=False,
    )
    assert bare.returncode != 0
    assert not bare.stdout
    with socket.create_connection(("127.0.0.1", daemon.port), DEADLINE) as plain:
        plain.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        plain.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: plain.recv(4096), b""))
    assert b"HTTP" not in answer
    daemon.ok("version")


def test_a_silent_crowd_keeps_nobody_out(daemon: Daemon) -> None:
    crowd = [
        socket.create_connection(("127.0.0.1", daemon.port), DEADLINE)
        for _ in range(2 * DOOR.crowd.strangers)
    ]
    try:
        daemon.ok("version")
        with pytest.raises(ConnectionResetError):  # the oldest gave way
            crowd[0].recv(1)
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
        assert daemon.run("version").returncode == 1, (
            "a certificate of the old CA is still accepted"
        )
        assert daemon.version_as(stranger).returncode == 0
        (served / "server-key.pem").write_text("half of a k")
        assert daemon.version_as(stranger).returncode == 0, (
            "files that do not fit ended the service"
        )
    finally:
        daemon.close()


def test_files_of_no_use_are_named(tmp_path: Path, stranger: Path) -> None:
    ours = make_identity(tmp_path / "own")
    with pytest.raises(InvalidArgument, match=r"cannot read .*/none.pem: No such file"):
        server_context(
            TlsFiles(
                ca=ours / "none.pem", certificate=ours / "server.pem", key=ours / "server-key.pem"
            )
        )
    with pytest.raises(InvalidArgument, match="cannot use tlscacert"):
        server_context(
            TlsFiles(
                ca=ours / "extensions", certificate=ours / "server.pem", key=ours / "server-key.pem"
            )
        )
    with pytest.raises(InvalidArgument, match="key values mismatch"):
        server_context(
            TlsFiles(
                ca=ours / "ca.pem", certificate=ours / "server.pem", key=stranger / "server-key.pem"
            )
        )


def test_the_swarm_s_settings(daemon: Daemon) -> None:
    daemon.ok(
        "swarm",
        "update",
        "--cert-expiry",
        "72h",
        "--dispatcher-heartbeat",
        "9s",
        "--task-history-limit",
        "4",
    )
    spec = json.loads(daemon.ok("info", "--format", "{{json .Swarm.Cluster.Spec}}"))
    assert spec["CAConfig"]["NodeCertExpiry"] == 72 * 3600 * 10**9
    assert spec["Dispatcher"]["HeartbeatPeriod"] == 9 * 10**9
    assert spec["Orchestration"]["TaskHistoryRetentionLimit"] == 4
    assert (
        b"ExternalCAs is not supported"
        in daemon.run("swarm", "update", "--external-ca", "protocol=cfssl,url=https://x").stderr
    )
    daemon.ok("swarm", "update", "--max-snapshots", "2", "--snapshot-interval", "77")
    daemon.ok("swarm", "update", "--dispatcher-heartbeat", "8s")
    raft = json.loads(daemon.ok("info", "--format", "{{json .Swarm.Cluster.Spec.Raft}}"))
    assert (raft["KeepOldSnapshots"], raft["SnapshotInterval"]) == (2, 77)

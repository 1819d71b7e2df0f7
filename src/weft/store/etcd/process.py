"""The etcd member beside a manager: a process in its own session, which outlives the daemon. The
next daemon finds it again.

    <data root>/swarm/etcd/      its data; only its owner can read it
    <run dir>/etcd/              localhost:2379   the socket of its JSON gateway
                                 member.json      the identity of the process
                                 log, log.old     its output, bounded

Whoever can open the socket controls the whole swarm, keys included: etcd asks for no password
there, so the directory is the owner's alone. Members speak to each other by mutual TLS with the
nodes' certificates, and only to managers, except those whose certificate is in the list of `<data
root>/swarm/revoked.crl` (`refuse`). etcd reads that list, the certificate and the key anew for each
connection, but the root only when it starts (`restart`). etcd does not check established
connections again, and does not check the list for connections that it opens itself.

A member that ends is started again. The pauses grow while it does not stay up: a full disk, for
example, ends it each time. A member that the others have removed ends by itself with exit code 0,
and would do so each time: it is left alone then (`removed`)."""

import asyncio
import logging
import os
import secrets
import shutil
import signal
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from weft.errors import InvalidArgument, OperationFailed, Unavailable, WeftError, cause_of
from weft.model.cluster import PEER_PORT
from weft.pki.revocation import revocation_list, revoked_serials
from weft.store.etcd.base import USUAL, Pace
from weft.store.etcd.client import GatewayClient
from weft.system import scopes
from weft.system.files import replace_file
from weft.system.process import Process, ProcessId, spawn

log = logging.getLogger(__name__)

SOCKET = "localhost:2379"
"""For `unix://localhost:2379` etcd 3.4 makes a socket of that name in its working directory; etcd
takes no paths."""
_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_STAYED_UP = 60.0
"""Seconds of running after which the pauses begin anew."""
_PATIENCE = 10.0
_CONNECT = 0.5
_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""
_LOG_LIMIT = 4 << 20
_LOOK_AT_LOG = 10.0
_TAIL, _WORDS = 8192, 300
QUOTA = 2 << 30
"""Bytes of a member's database. `space.py` handles a database that reaches them."""
_FLAGS = (
    "--pre-vote", "--strict-reconfig-check",
    "--auto-compaction-mode=periodic", "--auto-compaction-retention=1h",
    "--max-txn-ops=100000", "--max-request-bytes=67108864", "--snapshot-count=10000", "--logger=zap", "--log-level=warn",
    "--peer-client-cert-auth", "--peer-cert-allowed-hostname=swarm-manager", "--experimental-peer-skip-client-san-verification",
    f"--listen-client-urls=unix://{SOCKET}", f"--advertise-client-urls=unix://{SOCKET}",
)  # fmt: skip


class MemberSettings(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """The node's id."""
    address: str
    """The IP address at which the other members reach this one."""
    listen: str = ""
    """The IP address to listen at, if `address` is not this host's."""
    peer_port: int = PEER_PORT
    swarm: Path
    """`<data root>/swarm`, with `node.crt`, `node.key` and `root.crt`."""
    run: Path
    """`<run dir>/etcd`."""
    quota: int = QUOTA
    pace: Pace = USUAL

    @property
    def peer_url(self) -> str:
        return f"https://{self.address}:{self.peer_port}"

    @property
    def data(self) -> Path:
        return self.swarm / "etcd"

    @property
    def revoked(self) -> Path:
        return self.swarm / "revoked.crl"

    @property
    def socket(self) -> Path:
        return self.run / SOCKET

    @property
    def record(self) -> Path:
        return self.run / "member.json"

    @property
    def log(self) -> Path:
        return self.run / "log"


class MemberRemoved(OperationFailed):
    """The other members have removed this member: its data is useless now."""


class MemberEnded(OperationFailed):
    """The process has ended by itself; the message has its reason."""


class EtcdMember:
    def __init__(self, settings: MemberSettings) -> None:
        self.settings = settings
        self.removed = asyncio.Event()
        """Set when the process has ended because the other members have removed it."""
        self._process: Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._peers: Sequence[tuple[str, str]] = ()

    @property
    def has_data(self) -> bool:
        """Whether the member has data: then it needs no peers to start."""
        return (self.settings.data / "member" / "wal").exists()

    @property
    def is_running(self) -> bool:
        return self._process is not None and not self._process.has_ended

    async def start(self, peers: Sequence[tuple[str, str]] = ()) -> None:
        """Takes over the process of an earlier daemon or starts a new one, and keeps it running.
        `peers` are `MemberGrant.peers`, for the first start of a member that joins others. Without
        peers and without data the member founds a cluster. Raises `OperationFailed`."""
        self._prepare()
        self._peers = peers
        self._process = self._find()
        if self._process is not None and not self._is_as_now(self._process):
            log.info(
                "etcd.outdated pid=%d cause=it was started with other flags", self._process.pid
            )
            self._process.close()
            await self._end()
            self._process = None
        if self._process is None:
            self._process = self._spawn()
            await scopes.move("etcd", self._process.pid)
        else:
            log.info("etcd.found pid=%d", self._process.pid)
        self._supervisor = asyncio.create_task(self._supervise(self._process))

    async def start_alone(self) -> None:
        """Starts as the only member, with all that this member knows: the others are lost for good.
        Raises `OperationFailed`, `Unavailable`.

        etcd discards the end of its log that it does not know to be committed. It may already have
        applied some of those entries: a commit reaches the disk only with the next entry. So future
        members must get the state of this one, not its log. Therefore the member makes a snapshot
        and is started again, and then has no older log."""
        self._prepare()
        await self._end()
        self._process = self._spawn("--force-new-cluster", "--snapshot-count=1")
        try:
            await self.ready()
            await self._snapshot()
        finally:
            await self.stop()
        await self.start()

    async def ready(self, seconds: float = 30.0) -> None:
        """Waits until the member answers: after an election, or after hearing from the others.
        Raises `MemberRemoved`, `OperationFailed` with etcd's own reason if the process ends
        instead, `Unavailable`."""
        client = self.client()
        try:
            async with asyncio.timeout(self.settings.pace.of(seconds)):
                while True:
                    with suppress(WeftError):
                        await client.status()
                        return
                    if self.removed.is_set():
                        raise MemberRemoved("cannot start etcd: the other managers have removed it")
                    if not self.is_running:
                        raise MemberEnded(f"cannot start etcd: it ended: {self.last_words()}")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise Unavailable(
                f"cannot start etcd: no answer in {seconds:g} s; see {self.settings.log}"
            ) from None
        finally:
            await client.close()

    async def _snapshot(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                while not any(self.settings.data.glob("member/snap/*.snap")):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise OperationFailed(
                f"cannot start etcd: it makes no snapshot; see {self.settings.log}"
            ) from None

    def client(self) -> GatewayClient:
        return GatewayClient.local(self.settings.socket, self.settings.pace)

    def refuse(self, serials: Iterable[str]) -> bool:
        """Makes the member refuse these certificates, and no others, from now on. Gives whether
        that changed anything. Established connections go on. Raises `OperationFailed`."""
        wanted, path = frozenset(serials), self.settings.revoked
        if self._refused() == wanted:
            return False
        swarm = self.settings.swarm
        try:
            certificate, key = ((swarm / name).read_text() for name in ("node.crt", "node.key"))
            replace_file(path, revocation_list(wanted, certificate, key, time.time_ns()))
        except (OSError, InvalidArgument) as error:
            raise OperationFailed(f"cannot write {path}: {error}") from error
        return True

    def _refused(self) -> frozenset[str] | None:
        """None if there is no readable list: etcd refuses everybody then."""
        try:
            return revoked_serials(self.settings.revoked.read_bytes())
        except (OSError, InvalidArgument):
            return None

    async def restart(self) -> None:
        """Restarts the member, which then uses the present root certificate."""
        await self.stop()
        await self.start(self._peers)

    async def stop(self) -> None:
        await self.close()
        await self._end()

    async def wipe(self) -> None:
        """Stops the member and removes all its data."""
        await self.stop()
        shutil.rmtree(self.settings.data, ignore_errors=True)
        shutil.rmtree(self.settings.run, ignore_errors=True)
        self.settings.revoked.unlink(missing_ok=True)

    async def close(self) -> None:
        """Stops supervising the process, which lives on."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        if self._process is not None:
            self._process.close()
            self._process = None

    def last_words(self) -> str:
        """The end of the member's log, for people."""
        try:
            with open(self.settings.log, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return "it said nothing"
        return _cause(lines)

    # --- the process

    def _prepare(self) -> None:
        if self._supervisor is not None:
            raise OperationFailed("cannot start etcd: it is running")
        try:
            for directory in (self.settings.data, self.settings.run):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                directory.chmod(0o700)  # for a directory that existed
        except OSError as error:
            raise OperationFailed(
                f"cannot start etcd: {error.filename}: {cause_of(error)}"
            ) from error

    def _is_as_now(self, process: Process) -> bool:
        """Whether the process has the flags that a new one would be started with."""
        try:
            found = set(Path(f"/proc/{process.pid}/cmdline").read_text().split("\0"))
        except OSError:
            return False
        return found.issuperset((*_FLAGS, *self._pace_flags, self._crl_flag))

    @property
    def _pace_flags(self) -> tuple[str, str]:
        """etcd's documentation wants an election to take ten heartbeats or more."""
        election = round(self.settings.pace.election * 1000)
        return f"--heartbeat-interval={election // 10}", f"--election-timeout={election}"

    @property
    def _crl_flag(self) -> str:
        return f"--peer-crl-file={self.settings.revoked}"

    def _find(self) -> Process | None:
        """The process in the record; or, if a daemon was killed before writing the record, the
        process that owns the socket."""
        process = self._recorded()
        if process is None and (process := self._listening()) is not None:
            self._write_record(process)
        return process

    def _recorded(self) -> Process | None:
        try:
            identity = msgspec.json.decode(self.settings.record.read_bytes(), type=ProcessId)
            process = Process(identity.pid)
        except (OSError, msgspec.MsgspecError):
            return None
        if identity.lives and not process.has_ended:  # the descriptor is held now, so it stays true
            return process
        process.close()
        return None

    def _listening(self) -> Process | None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_CONNECT)
            try:
                connection.connect(str(self.settings.socket))
                credentials = connection.getsockopt(
                    socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
                )
                process = Process(_CREDENTIALS.unpack(credentials)[0])
            except OSError:
                return None
        if process.has_ended:
            process.close()
            return None
        return process

    def _spawn(self, *flags: str) -> Process:
        if shutil.which("etcd") is None:
            raise OperationFailed(
                "cannot run etcd: not found in $PATH; install the package etcd-server"
            )
        self._bound_log()
        if self._refused() is None:  # without a readable list etcd refuses everybody
            with suppress(OperationFailed):  # a damaged key, a full disk: etcd will report it
                self.refuse(())
        # Left by a killed process; etcd would take the socket for another's.
        self.settings.socket.unlink(missing_ok=True)
        mode = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            output = os.open(self.settings.log, mode, 0o600)
        except OSError as error:
            raise OperationFailed(
                f"cannot run etcd: {self.settings.log}: {cause_of(error)}"
            ) from error
        environment = {"PATH": os.environ.get("PATH", os.defpath)}  # etcd takes flags from ETCD_…
        try:
            argv = [
                "env",
                f"--chdir={self.settings.run}",
                "etcd",
                *_FLAGS,
                *self._pace_flags,
                *self._own_flags(),
                *flags,
            ]
            process = spawn(argv, {1: output, 2: output}, environment)
        finally:
            os.close(output)
        self._write_record(process)
        log.info("etcd.started pid=%d", process.pid)
        return process

    def _own_flags(self) -> list[str]:
        own, swarm = self.settings, self.settings.swarm
        peers = self._peers or [(own.name, own.peer_url)]
        return [
            f"--name={own.name}",
            f"--data-dir={own.data}",
            f"--quota-backend-bytes={own.quota}",
            f"--listen-peer-urls=https://{own.listen or own.address}:{own.peer_port}",
            f"--initial-advertise-peer-urls={own.peer_url}",
            f"--initial-cluster={','.join(f'{name}={url}' for name, url in peers)}",
            # etcd makes ids of it: members of an earlier cluster become strangers
            f"--initial-cluster-token={secrets.token_hex(16)}",
            f"--initial-cluster-state={'existing' if self._peers else 'new'}",
            f"--peer-cert-file={swarm / 'node.crt'}",
            f"--peer-key-file={swarm / 'node.key'}",
            f"--peer-trusted-ca-file={swarm / 'root.crt'}",
            self._crl_flag,
        ]

    def _write_record(self, process: Process) -> None:
        """Writes the record, or ends the process: without a record the next daemon would start a
        second one, which could not open the data."""
        try:
            replace_file(
                self.settings.record, msgspec.json.encode(ProcessId.of(process.pid)), durable=False
            )
        except OSError as error:
            process.kill_and_reap()
            process.close()
            raise OperationFailed(
                f"cannot run etcd: {self.settings.record}: {cause_of(error)}"
            ) from error

    async def _end(self) -> None:
        process = self._find()
        if process is None:
            return
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                process.kill(number)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PATIENCE):
                        await process.wait()
                        log.info("etcd.stopped pid=%d", process.pid)
                        return
            raise OperationFailed(f"cannot stop etcd: process {process.pid} does not end")
        finally:
            process.close()

    async def _supervise(self, process: Process | None) -> None:
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            if process is not None:
                code = await self._watch(process)
                self._process = None
                process.close()
                if code == 0:
                    log.warning("etcd.removed pid=%d", process.pid)
                    self.removed.set()
                    return
                log.error(
                    "etcd.ended pid=%d code=%d cause=%s", process.pid, code, self.last_words()
                )
            failures = 0 if loop.time() - began > _STAYED_UP else failures
            await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
            failures += 1
            try:
                process = self._process = self._find() or self._spawn()
                await scopes.move("etcd", process.pid)
            except OperationFailed as error:
                log.error("etcd.start.failed cause=%s", error)
                process = self._process = None

    async def _watch(self, process: Process) -> int:
        """Waits for the process and gives its exit code; keeps its log small until then."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AT_LOG):
                    return await process.wait()
            self._bound_log()

    def _bound_log(self) -> None:
        """Moves the end of a large log to `log.old`. etcd appends, so a truncated log stays
        short."""
        with suppress(OSError):
            if self.settings.log.stat().st_size > _LOG_LIMIT:
                with open(self.settings.log, "rb+") as file:
                    file.seek(-_LOG_LIMIT // 4, os.SEEK_END)
                    replace_file(self.settings.log.with_suffix(".old"), file.read(), durable=False)
                    file.truncate(0)


def _cause(lines: Sequence[str]) -> str:
    """The last message about a failure, else the last message."""
    said = [_message(line) for line in lines]
    return next(
        (text for is_bad, text in reversed(said) if is_bad),
        said[-1][1] if said else "it said nothing",
    )


def _message(line: str) -> tuple[bool, str]:
    """(whether the line is about a failure, its text). Lines that are not JSON are Go's own."""
    try:
        fields = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError:
        return line.startswith("panic: "), line[:_WORDS]
    text = f"{fields.get('msg', '')}: {fields.get('error', '')}".rstrip(": ")
    return fields.get("level") in ("error", "fatal", "panic"), text[:_WORDS]

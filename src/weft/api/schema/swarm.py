"""The swarm: requests to create, join and change one, and its JSON.

Raft's settings for snapshots are kept and shown, and have no effect: with several managers etcd
keeps the Raft log and its settings. Its ticks are shown with Docker's values, because clients send
back the settings that they were shown; any other value is refused, as Docker cannot change them
either.
"""

import re
from ipaddress import IPv4Network
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, field
from msgspec.structs import replace

from weft.api.schema.common import FEW, Count, Json, Wire, omit_empty, parse_address, rfc3339
from weft.api.schema.tls import swarm_tls
from weft.control.requests.validation import MAX_POOLS
from weft.errors import InvalidArgument, Unsupported, clip
from weft.model.cluster import Cluster, ClusterSpec, JoinTokens, RaftSettings, RootCa
from weft.model.membership import InitRequest, JoinRequest
from weft.model.numbers import decimal

TICKS = {"ElectionTick": 10, "HeartbeatTick": 1}
DEFAULT_PORT = 2377
MAX_HOST = 253
"""Characters of a host name (RFC 1035 section 2.3.4)."""
_HOST = re.compile(r"[A-Za-z0-9.-]+")
_NAME = re.compile(r"[A-Za-z0-9._@-]+")
"""Matches an address or the name of an interface."""


class OrchestrationWire(Wire, frozen=True):
    history: Count | None = field(name="TaskHistoryRetentionLimit", default=None)


class DispatcherWire(Wire, frozen=True):
    heartbeat_period: Count = 0


class CaWire(Wire, frozen=True):
    expiry: Count = field(name="NodeCertExpiry", default=0)
    external: tuple[dict[str, Any], ...] = field(name="ExternalCAs", default=())
    certificate: str = field(name="SigningCACert", default="")
    key: str = field(name="SigningCAKey", default="")
    force_rotate: Count = 0


class EncryptionWire(Wire, frozen=True):
    auto_lock: bool = field(name="AutoLockManagers", default=False)


class RaftWire(Wire, frozen=True):
    snapshot_interval: Count = 0
    keep_old_snapshots: Count | None = None
    log_entries_for_slow_followers: Count = 0
    election_tick: Count = 0
    heartbeat_tick: Count = 0


class SpecWire(Wire, frozen=True):
    lacks: ClassVar[tuple[str, ...]] = ("TaskDefaults",)

    name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    orchestration: OrchestrationWire = OrchestrationWire()
    raft: RaftWire = RaftWire()
    dispatcher: DispatcherWire = DispatcherWire()
    ca: CaWire = field(name="CAConfig", default=CaWire())
    encryption: EncryptionWire = field(name="EncryptionConfig", default=EncryptionWire())


class InitWire(Wire, frozen=True):
    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    data_path_port: Count = 0
    default_addr_pool: Annotated[tuple[str, ...], Meta(max_length=MAX_POOLS)] = ()
    subnet_size: Count = 0
    force_new_cluster: bool = False
    auto_lock_managers: bool = False
    availability: Literal["", "active", "pause", "drain"] = ""
    spec: SpecWire = SpecWire()


class JoinWire(Wire, frozen=True):
    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    remote_addrs: Annotated[tuple[str, ...], FEW] = ()
    join_token: str = ""
    availability: Literal["", "active", "pause", "drain"] = ""


class UnlockWire(Wire, frozen=True):
    unlock_key: str = ""


# --- JSON -> model


def init_from(wire: InitWire) -> InitRequest:
    if root_from(wire.spec.ca) is not None:
        raise Unsupported(
            "CAConfig.SigningCACert is not supported by Weft when a swarm begins: rotate its CA"
            " afterwards"
        )
    pools = tuple(
        parse_address(text, IPv4Network, "DefaultAddrPool") for text in wire.default_addr_pool
    )
    spec = spec_from(wire.spec, ClusterSpec())
    return InitRequest(
        force_new_cluster=wire.force_new_cluster,
        listen_address=_listen_address(wire.listen_addr),
        advertise_address=wire.advertise_addr,
        data_path_address=wire.data_path_addr,
        data_path_port=wire.data_path_port,
        availability=wire.availability or "active",
        default_pool=pools,
        subnet_size=wire.subnet_size,
        spec=replace(spec, auto_lock=spec.auto_lock or wire.auto_lock_managers),
    )


def join_from(wire: JoinWire) -> JoinRequest:
    if not wire.join_token:
        raise InvalidArgument("invalid join token: it is empty")
    if not wire.remote_addrs:
        raise InvalidArgument("at least 1 RemoteAddr is required to join")
    return JoinRequest(
        listen_address=_listen_address(wire.listen_addr),
        advertise_address=wire.advertise_addr,
        data_path_address=wire.data_path_addr,
        remote_addresses=tuple(_remote_address(text) for text in wire.remote_addrs),
        token=wire.join_token,
        availability=wire.availability or "active",
    )


def _listen_address(text: str) -> str:
    """`host:port`; an absent part gets Docker's default. The host may be the name of an
    interface."""
    host, port = _host_and_port(text)
    if port is None or len(host) > MAX_HOST or (host and not _NAME.fullmatch(host)):
        raise InvalidArgument(
            f"invalid ListenAddr: {clip(text)!r} is not an address or interface (with optional port"
            " number)"
        )
    return f"{host or '0.0.0.0'}:{port}"


def _remote_address(text: str) -> str:
    host, port = _host_and_port(text)
    if port is None or len(host) > MAX_HOST or not _HOST.fullmatch(host):
        raise InvalidArgument(
            f"invalid RemoteAddrs: {clip(text)!r} is not a host (with optional port number)"
        )
    return f"{host}:{port}"


def _host_and_port(text: str) -> tuple[str, int | None]:
    """The port is None if it is not a valid port number."""
    host, colon, digits = text.rpartition(":")
    if not colon:
        return text, DEFAULT_PORT
    port = decimal(digits, 65535)
    return host, port or None


def spec_from(wire: SpecWire, current: ClusterSpec) -> ClusterSpec:
    """Fields that are absent or zero keep their value from `current`, but for
    `EncryptionConfig.AutoLockManagers`, as in Docker Swarm."""
    if wire.name not in ("", "default"):
        raise InvalidArgument(f'invalid Name: {wire.name!r} (swarm spec must be named "default")')
    if wire.ca.external:
        raise Unsupported(
            "CAConfig.ExternalCAs is not supported by Weft: bring a signing certificate and its key"
        )
    history = wire.orchestration.history
    return replace(
        current,
        labels=wire.labels,
        task_history=current.task_history if history is None else history,
        heartbeat=wire.dispatcher.heartbeat_period or current.heartbeat,
        certificate_expiry=wire.ca.expiry or current.certificate_expiry,
        raft=_raft_from(wire.raft, current.raft),
        force_rotate=wire.ca.force_rotate or current.force_rotate,
        auto_lock=wire.encryption.auto_lock,
    )


def _raft_from(wire: RaftWire, current: RaftSettings) -> RaftSettings:
    for name, value in (
        ("ElectionTick", wire.election_tick),
        ("HeartbeatTick", wire.heartbeat_tick),
    ):
        if value not in (0, TICKS[name]):
            raise Unsupported(
                f"Raft.{name}: {value} is not supported by Weft: the Raft log is etcd's, and so are"
                " its ticks"
            )
    kept = wire.keep_old_snapshots
    return RaftSettings(
        wire.snapshot_interval or current.snapshot_interval,
        current.old_snapshots if kept is None else kept,
        wire.log_entries_for_slow_followers or current.entries_for_slow_followers,
    )


def root_from(wire: CaWire) -> RootCa | None:
    """The root that the user provides. Raises `InvalidArgument` if certificate or key is
    missing."""
    if wire.key and not wire.certificate:
        raise InvalidArgument(
            "if a signing CA key is provided, the signing CA cert must also be provided"
        )
    if wire.certificate and not wire.key:
        raise InvalidArgument(
            "if a signing CA cert is provided, its key must be too: external CAs are not supported"
        )
    return RootCa(wire.certificate, wire.key) if wire.certificate else None


# --- model -> JSON


def cluster_info_json(cluster: Cluster) -> Json:
    """The swarm's JSON without the join tokens, as in `docker info`."""
    spec = cluster.spec
    return {
        "ID": cluster.id,
        "Version": {"Index": cluster.meta.version},
        "CreatedAt": rfc3339(cluster.meta.created_at),
        "UpdatedAt": rfc3339(cluster.meta.updated_at),
        "Spec": {
            "Name": spec.name,
            "Labels": spec.labels,
            "Orchestration": {"TaskHistoryRetentionLimit": spec.task_history},
            "Raft": {
                "SnapshotInterval": spec.raft.snapshot_interval,
                "KeepOldSnapshots": spec.raft.old_snapshots,
                "LogEntriesForSlowFollowers": spec.raft.entries_for_slow_followers,
                **TICKS,
            },
            "Dispatcher": {"HeartbeatPeriod": spec.heartbeat},
            "CAConfig": (
                {"NodeCertExpiry": spec.certificate_expiry}
                | omit_empty({"ForceRotate": spec.force_rotate})
            ),
            "TaskDefaults": {},
            "EncryptionConfig": {"AutoLockManagers": spec.auto_lock},
        },
        "TLSInfo": swarm_tls(cluster),
        "RootRotationInProgress": cluster.rotation is not None,
        "DataPathPort": cluster.data_path_port,
        "DefaultAddrPool": [str(pool) for pool in cluster.default_pool],
        "SubnetSize": cluster.subnet_size,
    }


def cluster_json(cluster: Cluster, tokens: JoinTokens) -> Json:
    """`tokens`: the cluster's, in clear."""
    shown = {"Worker": tokens.worker, "Manager": tokens.manager}
    return cluster_info_json(cluster) | {"JoinTokens": shown}

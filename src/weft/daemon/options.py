"""What a daemon is started with, whether from the command line, a file or a test."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from weft.model.generic import GenericResource
from weft.model.registry import USUAL, RegistrySettings
from weft.store.etcd.base import USUAL as USUAL_PACE
from weft.store.etcd.base import Pace
from weft.store.etcd.external import ExternalEtcd
from weft.system import journal as logs
from weft.system.tls_files import TlsFiles

SWARM = "swarm"
"""The directory of the swarm's files, below the data root."""


@dataclass(frozen=True)
class TcpHost:
    address: str
    port: int


@dataclass(frozen=True)
class MetricsAddress:
    """Where Prometheus may read metrics, and nothing else."""

    host: TcpHost
    files: TlsFiles


@dataclass(frozen=True, kw_only=True)
class DaemonOptions:
    data_root: Path = Path("/var/lib/weft")
    run_dir: Path = Path("/run/weft")
    netns_dir: Path = Path("/run/docker/netns")
    socket: Path = Path("/var/run/docker.sock")
    log_level: str = "info"
    log_format: logs.Format = "text"
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the engine: constraints on `engine.labels.*` refer to them."""
    generic: tuple[GenericResource, ...] = ()
    """Generic resources of the node."""
    sockets: tuple[Path, ...] = ()
    """Sockets besides `socket`."""
    tcp: tuple[TcpHost, ...] = ()
    tls: TlsFiles | None = None
    """Keys and certificates for `tcp`; without them there is no API on TCP."""
    metrics: MetricsAddress | None = None
    pace: Pace = USUAL_PACE
    """How slow etcd may be."""
    store: ExternalEtcd | None = None
    """The external etcd, if any."""
    registries: RegistrySettings = USUAL

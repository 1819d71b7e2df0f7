"""The node on which a manager runs, as the manager needs it, and paths of the manager's files."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from weft.control.allocator.ports import NO_PORTS, OwnPorts
from weft.daemon.locked_files import LockedFiles
from weft.daemon.sealing_key_file import SealingKeyFile
from weft.errors import OperationFailed
from weft.linux import host
from weft.session.identity import CredentialSource, Member
from weft.session.tls import IsRevoked, none_known
from weft.store.etcd.base import USUAL, Pace
from weft.store.etcd.external import ExternalEtcd
from weft.store.etcd.process import EtcdMember, MemberSettings
from weft.store.kept import KeptState

DATABASE = "store.db"
LAST_STATE = "last-state"
NO_ETCD = "etcd is not installed on this host (Debian's package etcd-server)"


@dataclass(frozen=True, kw_only=True)
class ManagerHost:
    member: Callable[[], Member]
    credential_source: CredentialSource
    data: Path
    """`<data root>/swarm`."""
    run: Path
    """`<run directory>`: the etcd member's socket, and files that a reboot may remove."""
    routes: Callable[[], Sequence[IPv4Network]]
    own_ports: OwnPorts = field(default_factory=lambda: NO_PORTS)
    """Ports on which the host listens besides the swarm's ports."""
    files: LockedFiles
    """Those that autolock locks."""
    sealing_keys: SealingKeyFile
    """The keys that seal secrets."""
    is_revoked: IsRevoked = none_known
    """Whether a manager's certificate was revoked, as this node knows."""
    pace: Pace = USUAL
    """Of this host's etcd member."""
    external_etcd: ExternalEtcd | None = None
    """Set if managers have their store in an external etcd and not on their own hosts."""

    @property
    def database(self) -> Path:
        return self.data / DATABASE

    @property
    def kept(self) -> KeptState:
        """The last state that this manager knew of a shared or external store."""
        return KeptState(self.data / LAST_STATE)

    @property
    def settings(self) -> MemberSettings:
        own = self.member()
        listen = "" if host.is_local(own.advertise_address) else str(own.data_path_address)
        return MemberSettings(
            name=own.node,
            address=str(own.advertise_address),
            listen=listen,
            swarm=self.data,
            run=self.run / "etcd",
            pace=self.pace,
        )

    @property
    def manager_address(self) -> str:
        return (
            f"{self.member().advertise_address}:{self.member().listen_address.rpartition(':')[2]}"
        )

    @property
    def own_door(self) -> str:
        """The address at which this host's own agent reaches its manager. The advertised address
        may be a router's, which the host need not reach."""
        own = self.member()
        address, _, port = own.listen_address.rpartition(":")
        if not IPv4Address(address).is_unspecified:
            return own.listen_address
        return (
            self.manager_address
            if host.is_local(own.advertise_address)
            else f"{own.data_path_address}:{port}"
        )

    @property
    def has_part(self) -> bool:
        """Whether this host has an etcd member's data, which may be obsolete."""
        return self.settings.data.exists()

    def etcd(self) -> EtcdMember:
        """This host's etcd member. Raises `OperationFailed` if etcd is not installed."""
        if shutil.which("etcd") is None:
            raise OperationFailed(f"cannot be one of several managers: {NO_ETCD}")
        return EtcdMember(self.settings)

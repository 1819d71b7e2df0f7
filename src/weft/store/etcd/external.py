"""An external etcd, in place of etcd members beside the managers: its address, and how a swarm's
state is created, opened and erased there.

Managers come and go without a change of etcd's members, and need no quorum among themselves: quorum
is etcd's affair. Whoever can read the prefix has the swarm's keys, so only an etcd on this host may
be used without mutual TLS."""

import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from weft.errors import Damaged, FailedPrecondition, NotFound, OperationFailed, Unavailable
from weft.model.ids import ClusterId
from weft.model.meta import Nanoseconds
from weft.model.state import ClusterState
from weft.store.etcd import migrate
from weft.store.etcd.base import USUAL, Compare, Delete, Kv, Pace, after
from weft.store.etcd.client import GatewayClient
from weft.store.etcd.engine import EtcdStore
from weft.store.etcd.rows import PREFIX
from weft.store.kept import Kept
from weft.system.tls_files import TlsFiles, load

log = logging.getLogger(__name__)

LEAST_OPERATIONS = 10_000
LEAST_BYTES = 16 << 20
"""The least that one transaction must be able to hold: all tasks of a large service that lose their
hosts at once."""
FLAGS = "--max-txn-ops=100000 --max-request-bytes=67108864"
"""The flags that our own members are started with."""


@dataclass(frozen=True, kw_only=True)
class ExternalEtcd:
    endpoints: tuple[str, ...]
    """`host:port`."""
    files: TlsFiles | None = None
    """The managers' certificate and key, by which etcd knows them. None means plain HTTP."""
    prefix: str = PREFIX
    """The prefix of all keys; begins and ends with a slash."""
    pace: Pace = USUAL

    def __str__(self) -> str:
        return f"etcd://{','.join(self.endpoints)}{self.prefix}"

    def context(self) -> ssl.SSLContext | None:
        """The TLS context; None means plain HTTP. Raises `InvalidArgument`, naming the file, if a
        file cannot be read or used."""
        return (
            load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), self.files, "store-")
            if self.files is not None
            else None
        )

    def client(self) -> GatewayClient:
        return GatewayClient.remote(self.endpoints, self.context(), self.pace)

    async def begin(self, clock: Callable[[], Nanoseconds]) -> EtcdStore:
        """Creates a store without a swarm. Raises `FailedPrecondition` if there is a swarm."""
        kv = self.client()
        try:
            await self._check_limits(kv)
            with suppress(FailedPrecondition):  # there is a store, perhaps from an earlier attempt
                await migrate.copy(ClusterState(), kv, self.prefix)
            store = await EtcdStore.open(kv, clock, self.prefix)
        except BaseException:
            await kv.close()
            raise
        if store.state.cluster is None:
            return store
        await store.close()
        raise FailedPrecondition(
            f"cannot create swarm: there is one at {self} already; join it, or use another"
            f" store-prefix, or erase that one: etcdctl del --prefix {self.prefix}"
        )

    async def open(
        self, clock: Callable[[], Nanoseconds], cluster: ClusterId, kept: Kept | None = None
    ) -> EtcdStore:
        """Opens the swarm's store; shows `kept` if etcd does not answer. Raises
        `FailedPrecondition` if the swarm's state is not there."""
        kv = self.client()
        try:
            try:
                await self._check_limits(kv)
                return await EtcdStore.open(kv, clock, self.prefix, cluster=cluster)
            except Unavailable as cause:
                if kept is None:
                    raise
                log.warning("store.silent store=%s cause=%s", self, cause)
                return EtcdStore.show(kv, clock, kept, cluster, self.prefix)
        except BaseException as error:
            await kv.close()
            if isinstance(error, NotFound):
                why = f"there is none; swarm {cluster} has its state elsewhere"
            elif isinstance(error, Damaged):
                why = f"{error}, and not of {cluster}"
            else:
                raise
            raise FailedPrecondition(f"cannot open store {self}: {why}") from None

    async def erase(self) -> None:
        """Erases the swarm, and all that is kept with it."""
        kv = self.client()
        try:
            await kv.txn([], [Delete(self.prefix, after(self.prefix))])
        finally:
            await kv.close()

    async def _check_limits(self, kv: Kv) -> None:
        """Probes etcd's limits with requests that write nothing. Raises `OperationFailed`."""
        try:
            await kv.txn([Compare(self.prefix, 0)] * LEAST_OPERATIONS, [])
            await kv.range("x" * LEAST_BYTES, serializable=True)
        except OperationFailed as error:
            raise OperationFailed(f"cannot use {self}: start etcd with {FLAGS}: {error}") from error

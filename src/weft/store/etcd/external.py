"""An etcd that somebody else runs, in place of members beside the managers: where it is, and how a
swarm's state is begun, opened and erased there.

Managers come and go without a change of its members, and a majority of them is not needed: that is
etcd's affair. Whoever can read the prefix has the swarm's keys, so without mutual TLS only this
host itself may be asked.
"""

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
from weft.store.etcd.base import Compare, Delete, Kv, after
from weft.store.etcd.client import GatewayClient
from weft.store.etcd.engine import EtcdStore
from weft.store.etcd.rows import PREFIX
from weft.store.kept import Kept
from weft.system.tls_files import TlsFiles, load

log = logging.getLogger(__name__)

LEAST_OPERATIONS = 10_000
LEAST_BYTES = 16 << 20
"""What one transaction must be able to hold: the tasks of a large service that lose their hosts at
once."""
FLAGS = "--max-txn-ops=100000 --max-request-bytes=67108864"
"""What our own members are started with."""


@dataclass(frozen=True, kw_only=True)
class ExternalEtcd:
    endpoints: tuple[str, ...]
    """`host:port`."""
    files: TlsFiles | None = None
    """The managers' own, by which etcd knows them. None speaks plain HTTP."""
    prefix: str = PREFIX
    """Of all keys; begins and ends with a slash."""

    def __str__(self) -> str:
        return f"etcd://{','.join(self.endpoints)}{self.prefix}"

    def context(self) -> ssl.SSLContext | None:
        """Raises `InvalidArgument`, naming the file, if one cannot be read or used."""
        return (
            load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), self.files, "store-")
            if self.files is not None
            else None
        )

    def client(self) -> GatewayClient:
        return GatewayClient.remote(self.endpoints, self.context())

    async def begin(self, clock: Callable[[], Nanoseconds]) -> EtcdStore:
        """A store without a swarm. Raises `FailedPrecondition` if there is a swarm."""
        kv = self.client()
        try:
            await self._check_limits(kv)
            with suppress(
                FailedPrecondition
            ):  # there is a store; it may be what an attempt like this one left
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
        """The swarm's; `kept` is shown if etcd does not answer. Raises `FailedPrecondition` if the
        swarm's state is not there."""
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
        """The swarm, and all that is kept with it."""
        kv = self.client()
        try:
            await kv.txn([], [Delete(self.prefix, after(self.prefix))])
        finally:
            await kv.close()

    async def _check_limits(self, kv: Kv) -> None:
        """By what etcd refuses unseen; nothing is written. Raises `OperationFailed`."""
        try:
            await kv.txn([Compare(self.prefix, 0)] * LEAST_OPERATIONS, [])
            await kv.range("x" * LEAST_BYTES, serializable=True)
        except OperationFailed as error:
            raise OperationFailed(f"cannot use {self}: start etcd with {FLAGS}: {error}") from error

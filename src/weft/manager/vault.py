"""Seals and opens secrets with the swarm's sealing key, and sees to it that this manager has the
key.

The key is on the disks of the managers and nowhere else; the state only names it. The leader makes
the key once; it writes its own file first, then the name into the state. A manager that reads a
name whose key it lacks (a new one, or one whose file was lost) asks the other managers over mutual
TLS. They give it to managers only. A key that no manager has any more is not replaced while
something is sealed under it, as the keys of the certificate authority and the join tokens are
(`pki/stored_secrets.py`)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from weakref import WeakValueDictionary

import msgspec

from weft.errors import OperationFailed, Unavailable, WeftError
from weft.manager.transaction import transact
from weft.model.cluster import Cluster, JoinTokens, RootCa
from weft.model.ids import NodeId
from weft.model.secret import Config, Payload, Sealed, Secret
from weft.model.state import Change, ClusterState, Kind, Put
from weft.pki import sealing, stored_secrets
from weft.pki.sealing import KEY_BYTES, NONCE_BYTES, SealingKey
from weft.store.base import Leadership, Store

log = logging.getLogger(__name__)

FIRST_RETRY, LAST_RETRY = 0.5, 30.0
"""Seconds between attempts to get the key."""
PATIENCE = 5.0
"""Seconds that a request waits for a key that this manager is about to have."""
_KINDS: tuple[Kind, ...] = ("cluster",)

AskKeys = Callable[[str], Awaitable[Sequence[SealingKey]]]
"""Asks the manager at `host:port` for all sealing keys that it has. Raises `WeftError`."""


class SealingKeys(Protocol):
    """The keys on this manager's disk."""

    def read(self) -> tuple[SealingKey, ...]:
        """Raises `OperationFailed`."""
        ...

    def add(self, key: SealingKey) -> None:
        """The key is on the disk when this returns. Raises `OperationFailed`."""
        ...


class KeysInMemory:
    """`SealingKeys` without a disk."""

    def __init__(self) -> None:
        self._keys: tuple[SealingKey, ...] = ()

    def read(self) -> tuple[SealingKey, ...]:
        return self._keys

    def add(self, key: SealingKey) -> None:
        self._keys = (*self._keys, key)


async def no_other(manager: str) -> Sequence[SealingKey]:
    """The `AskKeys` of a manager that has no connections."""
    raise Unavailable(f"cannot ask manager {manager} for the sealing key")


class VaultPorts(Protocol):
    """The part of `ManagerPorts` that a vault needs."""

    @property
    def entropy(self) -> Callable[[int], bytes]: ...

    @property
    def sealing_keys(self) -> SealingKeys: ...

    @property
    def ask_keys(self) -> AskKeys: ...


class Vault:
    def __init__(
        self, own: NodeId, store: Store, leadership: Leadership, ports: VaultPorts
    ) -> None:
        self._own, self._store, self._leadership = own, store, leadership
        self._ports = ports
        self._keys = _read(ports.sealing_keys)
        self._complete = asyncio.Event()
        """Set while this manager has the key that the state names."""
        self._opened_anew: Callable[[], None] = lambda: None
        self._payloads: WeakValueDictionary[str, Payload] = WeakValueDictionary()
        """Those in the assignment of some node."""
        self._closed: set[str] = set()
        """Secrets of which the log says that they cannot be opened."""

    def on_key(self, act: Callable[[], None]) -> None:
        """`act` is called when this manager has got a key: more secrets can be opened then."""
        self._opened_anew = act

    # --- for those who seal and open

    async def seal(self, id: str, data: bytes, purpose: str = "seal the secret") -> Sealed:
        """Raises `Unavailable` if this manager does not get the key in time."""
        await self.completed(purpose)
        return sealing.seal(self._current(), id, data, self._ports.entropy(NONCE_BYTES))

    async def completed(self, purpose: str) -> None:
        """Waits for the key. Raises `Unavailable` if this manager does not get it in time.
        `purpose`: what it cannot do then."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._complete.wait()
        except TimeoutError:
            raise Unavailable(
                f"cannot {purpose}: this manager does not have the swarm's sealing key; it is asking"
                " the other managers"
            ) from None

    def key(self, id: str) -> SealingKey | None:
        """None if it is not here."""
        return self._keys.get(id)

    def opened(self, secret: Secret) -> bytes:
        """Raises `OperationFailed` if the key is not here, or the secret was tampered with."""
        return self.open(secret.id, secret.sealed)

    def open(self, id: str, sealed: Sealed) -> bytes:
        """`id`: as given to `seal`. Raises as `opened`."""
        key = self._keys.get(sealed.key)
        if key is None:
            raise OperationFailed(
                f"cannot open secret {id}: this manager does not have its sealing key"
            )
        return sealing.opened(key, id, sealed)

    def payload(self, found: Secret | Config) -> Payload | None:
        """See `control.assignments.assignment.PayloadOf`. The log names a secret that cannot be
        opened."""
        if (known := self._payloads.get(found.id)) is not None:
            return known
        try:
            data = found.data if isinstance(found, Config) else self.opened(found)
        except OperationFailed as error:
            if found.id not in self._closed:
                self._closed.add(found.id)
                log.error("secret.closed secret=%s name=%s cause=%s", found.id, found.name, error)
            return None
        payload = Payload(id=found.id, data=data, templated=found.spec.templated)
        self._payloads[found.id] = payload
        return payload

    # --- the cluster's own secrets

    def sealed(self, changes: Sequence[Change]) -> list[Change]:
        """The changes, with the secrets of the cluster sealed if this manager has the key; if not,
        the leader seals them later."""
        return [
            Put(self._sealed_cluster(change.object))
            if isinstance(change, Put) and isinstance(change.object, Cluster)
            else change
            for change in changes
        ]

    def _sealed_cluster(self, cluster: Cluster) -> Cluster:
        key = self._keys.get(cluster.sealing_key)
        if key is None or not stored_secrets.has_clear(cluster):
            return cluster
        return stored_secrets.sealed(cluster, key, self._ports.entropy)

    def opened_root(self, root: RootCa) -> RootCa:
        """Raises `Unavailable` if this manager does not have the key, `OperationFailed`."""
        return stored_secrets.opened_root(root, self._keys.get)

    def opened_tokens(self, cluster: Cluster) -> JoinTokens:
        """Raises as `opened_root`."""
        return stored_secrets.opened_tokens(cluster, self._keys.get)

    @property
    def keys(self) -> tuple[SealingKey, ...]:
        """All keys that this manager has, for another manager."""
        return tuple(self._keys.values())

    def _current(self) -> SealingKey:
        cluster = self._store.state.cluster
        return self._keys[cluster.sealing_key if cluster is not None else ""]

    # --- how the key comes here

    async def run(self) -> None:
        """Runs until cancelled, on every manager."""
        changes, pause = self._store.subscribe(_KINDS), FIRST_RETRY
        try:
            while True:
                self._look()
                if self._complete.is_set():
                    pause = FIRST_RETRY
                    await changes.next()
                    continue
                try:
                    await self._get(may_replace=pause >= LAST_RETRY)
                except WeftError as error:
                    log.warning("sealing_key.missing cause=%s", error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LAST_RETRY)
        finally:
            changes.close()

    def _look(self) -> None:
        cluster = self._store.state.cluster
        if cluster is not None and cluster.sealing_key in self._keys:
            self._complete.set()
        else:
            self._complete.clear()

    async def _get(self, may_replace: bool) -> None:
        """`may_replace`: others had time to answer, so a key that nobody has is lost."""
        await self._store.sync()
        cluster = self._store.state.cluster
        leads = self._leadership.leadership_status.leader == self._own
        if cluster is not None and cluster.sealing_key:
            try:
                await self._fetch(cluster.sealing_key)
            except Unavailable:
                if not (leads and may_replace) or _needs_key(self._store.state):
                    raise
                await self._make()
        elif leads:
            await self._make()
        else:
            raise Unavailable("the leader has not made one yet")

    async def _make(self) -> None:
        """Names a key that this manager has, if there is one: a manager of an earlier version has
        dropped the name."""
        if not self._keys:
            self._keep(SealingKey(self._ports.entropy(KEY_BYTES)))
        key = next(reversed(self._keys.values()))
        await transact(self._store, lambda state: _named(state, key.id))
        log.info("sealing_key.named id=%s", key.id)

    async def _fetch(self, id: str) -> None:
        """Asks the other managers, one after the other."""
        causes = []
        for node in self._store.state.nodes.values():
            if node.id == self._own or not node.manager_address:
                continue
            try:
                keys = await self._ports.ask_keys(node.manager_address)
            except WeftError as error:
                causes.append(str(error))
                continue
            for key in keys:
                if key.id not in self._keys:
                    self._keep(key)
                    log.info("sealing_key.received id=%s from=%s", key.id, node.id)
            if id in self._keys:
                return
            causes.append(f"manager {node.id} does not have it")
        raise Unavailable("; ".join(causes) or "there is no other manager to ask")

    def _keep(self, key: SealingKey) -> None:
        self._ports.sealing_keys.add(key)
        self._keys[key.id] = key
        self._closed.clear()
        self._opened_anew()


def _read(disk: SealingKeys) -> dict[str, SealingKey]:
    """Without the keys a manager still does all else; a damaged file stays for an operator."""
    try:
        return {key.id: key for key in disk.read()}
    except OperationFailed as error:
        log.error("sealing_key.unreadable cause=%s", error)
        return {}


def _named(state: ClusterState, id: str) -> list[Change]:
    """Nothing if another leader was faster: then its key counts. A name is replaced only while
    nothing is sealed."""
    cluster = state.cluster
    if cluster is None or (cluster.sealing_key and _needs_key(state)):
        return []
    return [Put(msgspec.structs.replace(cluster, sealing_key=id))]


def _needs_key(state: ClusterState) -> bool:
    """Whether something is sealed, so that the key must not be replaced."""
    cluster = state.cluster
    if cluster is None:
        return bool(state.secrets)
    return (
        bool(state.secrets) or cluster.unlock_key is not None or stored_secrets.has_sealed(cluster)
    )

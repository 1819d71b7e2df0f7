"""The unlock key of a swarm whose managers lock their files (`docker swarm update --autolock`).

The key is in the state, sealed under the swarm's sealing key: a copy of the store does not show it.
Every manager watches it, and sees to it that its own files are locked under that key, or under
none. It follows only what a quorum says is so now: a manager that was away does not lock its files
under a key that has been replaced."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from weft.errors import OperationFailed, Unavailable, WeftError
from weft.manager.transaction import transact
from weft.manager.vault import Vault
from weft.model.cluster import Cluster
from weft.model.ids import ClusterId
from weft.model.secret import Sealed
from weft.model.state import Change, ClusterState, Kind, Put, cluster_of
from weft.pki import sealing, unlock_key
from weft.pki.sealing import KEY_BYTES, SealingKey
from weft.store.base import Store

log = logging.getLogger(__name__)

RETRY = 1.0
"""Seconds before a manager that could not lock its files tries again."""
_KINDS: tuple[Kind, ...] = ("cluster",)


class Locked(Protocol):
    """The files on this manager's disk."""

    def hold(self, unlock: SealingKey | None) -> None:
        """Locks them under that key, or unlocks them; they are so on the disk when this returns.
        Raises `OperationFailed`."""
        ...


class NoFiles:
    """`Locked` without a disk. `unlock`: the key that was given last."""

    unlock: SealingKey | None = None

    def hold(self, unlock: SealingKey | None) -> None:
        self.unlock = unlock


class Autolock:
    def __init__(
        self, store: Store, vault: Vault, files: Locked, entropy: Callable[[int], bytes]
    ) -> None:
        self._store, self._vault = store, vault
        self._files, self._entropy = files, entropy
        self._followed: Cluster | None = None
        """As it was when the files were last seen to."""

    async def new_key(self) -> Sealed:
        """Raises `Unavailable` if this manager does not get the sealing key in time."""
        cluster = cluster_of(self._store.state)
        return await self._vault.seal(
            _context(cluster.id), self._entropy(KEY_BYTES), "make an unlock key"
        )

    async def begin(self) -> None:
        """Turns the lock on in a new swarm. Raises `Unavailable`."""
        key = await self.new_key()

        def decide(state: ClusterState) -> list[Change]:
            cluster = cluster_of(state)
            spec = msgspec.structs.replace(cluster.spec, auto_lock=True)
            return [Put(msgspec.structs.replace(cluster, spec=spec, unlock_key=key))]

        await transact(self._store, decide)

    async def shown(self) -> str:
        """The key as users see it; empty if there is none. Raises `Unavailable`,
        `OperationFailed`."""
        cluster = cluster_of(self._store.state)
        if cluster.unlock_key is None:
            return ""
        await self._vault.completed("show the unlock key")
        key = self._opened(cluster)
        return unlock_key.text(key) if key is not None else ""

    async def run(self) -> None:
        """Runs until cancelled, on every manager."""
        changes = self._store.subscribe(_KINDS)
        told = ""
        try:
            while True:
                try:
                    await self._follow()
                    told = ""
                except WeftError as error:
                    if str(error) != told:
                        log.warning("lock.postponed cause=%s", error)
                    told = str(error)
                    await asyncio.sleep(RETRY)
                else:
                    await changes.next()
        finally:
            changes.close()

    async def _follow(self) -> None:
        """Most changes of the cluster are none of the key, and cost nothing."""
        now, followed = self._store.state.cluster, self._followed
        if now is not None and followed is not None and now.unlock_key == followed.unlock_key:
            return
        await self._store.sync()
        cluster = self._store.state.cluster
        if cluster is not None:
            self._files.hold(self._opened(cluster))
            self._followed = cluster

    def _opened(self, cluster: Cluster) -> SealingKey | None:
        if cluster.unlock_key is None:
            return None
        key = self._vault.key(cluster.unlock_key.key)
        if key is None:
            raise Unavailable(
                "cannot read the swarm's unlock key: this manager does not have the sealing key"
            )
        try:
            return SealingKey(sealing.opened(key, _context(cluster.id), cluster.unlock_key))
        except OperationFailed:
            raise OperationFailed(
                "cannot read the swarm's unlock key: it was changed in the store. Make a new one:"
                " docker swarm unlock-key --rotate"
            ) from None


def _context(cluster: ClusterId) -> str:
    """No secret has this id."""
    return f"unlock key of {cluster}"

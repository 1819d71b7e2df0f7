"""Secrets and configs, as users ask for them: a secret is sealed before it is written."""

import hmac

from weft.control.requests import secrets
from weft.manager.transaction import transact
from weft.manager.vault import Vault
from weft.model.ids import ConfigId, SecretId
from weft.model.secret import Config, DataKind, DataSpec, Secret
from weft.store.base import Store


async def create(
    store: Store, vault: Vault, kind: DataKind, id: str, spec: DataSpec, data: bytes
) -> None:
    """See `api.backend.Swarm.create_data`."""
    secrets.validate(kind, spec, data)
    await store.sync()
    if kind == "config":
        await transact(
            store, lambda state: secrets.config_creation(state, ConfigId(id), spec, data)
        )
        return
    sealed = await vault.seal(id, data)
    await transact(store, lambda state: secrets.secret_creation(state, SecretId(id), spec, sealed))


async def update(
    store: Store,
    vault: Vault,
    found: tuple[DataKind, str],
    version: int,
    spec: DataSpec,
    data: bytes,
) -> None:
    """See `api.backend.Swarm.update_data`."""
    kind, id = found

    def is_same(current: Secret | Config) -> bool:
        if not data:
            return True
        held = current.data if isinstance(current, Config) else vault.opened(current)
        return hmac.compare_digest(held, data)

    await store.sync()
    await transact(store, lambda state: secrets.update(state, kind, id, version, spec, is_same))


async def remove(store: Store, kind: DataKind, id: str) -> None:
    await store.sync()
    await transact(store, lambda state: secrets.removal(state, kind, id))

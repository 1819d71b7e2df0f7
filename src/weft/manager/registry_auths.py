"""The credentials of services for their registries: sealed when a user gives them, opened for the
nodes with a task of the service.

They are sealed for one service and one registry. So whoever can write the store cannot have them
sent to another service's nodes, or to another registry."""

import logging
from weakref import WeakValueDictionary

from weft.errors import OperationFailed
from weft.manager.vault import Vault
from weft.model.codec import decode, encode
from weft.model.ids import ServiceId
from weft.model.registry import PullAuth, RegistryAuth, SealedAuth, registry_of
from weft.model.service import Service

log = logging.getLogger(__name__)


class RegistryAuths:
    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._open: WeakValueDictionary[SealedAuth, PullAuth] = WeakValueDictionary()
        """Those in the assignment of some node."""
        self._closed: set[SealedAuth] = set()
        """Those of which the log says that they cannot be opened."""

    async def seal(self, service: ServiceId, image: str, auth: RegistryAuth) -> SealedAuth | None:
        """For the registry that has the image; None for empty credentials. Raises `Unavailable` if
        this manager does not get the sealing key in time, `InvalidArgument` for the image."""
        if auth.is_empty:
            return None
        registry = registry_of(image)
        return SealedAuth(registry, await self._vault.seal(_id(service, registry), encode(auth)))

    def opened(self, service: Service) -> PullAuth | None:
        """None if the service has none, or this manager cannot open them; the log says so."""
        sealed = service.registry_auth
        if sealed is None:
            return None
        known = self._open.get(sealed)
        if known is not None and known.service == service.id:
            return known
        try:
            data = self._vault.open(_id(service.id, sealed.registry), sealed.sealed)
        except OperationFailed as error:
            if sealed not in self._closed:
                self._closed.add(sealed)
                log.error("registry_auth.closed service=%s cause=%s", service.id, error)
            return None
        auth = decode(data, RegistryAuth)
        found = PullAuth(service=service.id, registry=sealed.registry, auth=auth)
        self._open[sealed] = found
        return found


def _id(service: ServiceId, registry: str) -> str:
    """No secret has such an id: it has spaces."""
    return f"registry credentials of service {service} for {registry}"

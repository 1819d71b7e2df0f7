"""This node's own containers on networks of the swarm: asks for their places, and gives them up.

    place    a manager grants it ─▶ this node knows the network ─▶ the book has it, on disk
    end      the kernel has forgotten the sandbox's port ─▶ the managers may give the address again

A place belongs to a request until the request is decided; after that to the container that has it
in the book, or to nobody. So wherever a daemon is killed, the next one finds what it holds, and
gives up the rest."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from weft.engine.attacher import Attacher, Granted
from weft.engine.local_book import LocalBook
from weft.engine.network import NetworkLoop
from weft.errors import (
    Conflict,
    FailedPrecondition,
    Forbidden,
    InvalidArgument,
    NotFound,
    OperationFailed,
    Unavailable,
    Unsupported,
    WeftError,
)
from weft.model.assignment import NetworkView
from weft.model.attached import AttachedContainer, AttachmentWanted
from weft.model.endpoint_settings import EndpointSettings
from weft.model.ids import AttachmentId, NetworkId
from weft.model.local_sandbox import LocalSandbox
from weft.model.network_lookup import NOT_FOUND, find_network

KINDS: Mapping[type[WeftError], str] = MappingProxyType(
    {
        NotFound: "rpc error: code = NotFound desc = ",
        Forbidden: "rpc error: code = PermissionDenied desc = ",
        InvalidArgument: "",
        Conflict: "",
        FailedPrecondition: "",
        Unavailable: "",
    }
)
"""How Docker begins the text of an error of a manager, where it has a fixed text."""
TOO_EARLY = "Could not attach to network {}: the daemon has not found its swarm yet"


class LocalOverlays:
    def __init__(self, book: LocalBook, loop: NetworkLoop) -> None:
        self._book = book
        self._loop = loop
        self.attacher: Attacher | None = None
        """None while the node is in no swarm, and for a moment after the daemon's start."""

    # --- what there is

    def held(self) -> dict[AttachmentId, LocalSandbox]:
        """The containers that have places, by the place."""
        places = self._book.sandboxes.values()
        return {endpoint.attachment: place for place in places for endpoint in place.overlays}

    def views(self, place: LocalSandbox) -> list[NetworkView]:
        """The container's networks of the swarm, as far as this node knows them."""
        known = self._known()
        return [known[e.network] for e in place.overlays if e.network in known]

    def name_of(self, reference: str) -> str | None:
        """The name of a network of the swarm that this node knows. `reference`: name, id or the
        beginning of an id. Raises `InvalidArgument` for an ambiguous one."""
        try:
            return find_network([v.definition for v in self._known().values()], reference).name
        except NotFound:
            return None

    def _known(self) -> Mapping[NetworkId, NetworkView]:
        part = self._loop.swarm
        return {} if part is None else part.overlays.networks

    # --- places

    async def grant(self, place: LocalSandbox, wanted: EndpointSettings) -> Granted:
        """A place for the container, until `decided`. Raises a `WeftError` with Docker's
        text."""
        attacher = self.attacher
        if attacher is None and not self._loop.knows_swarm:
            raise Unavailable(TOO_EARLY.format(wanted.network))
        if attacher is None:
            raise NotFound(NOT_FOUND.format(wanted.network))
        if wanted.mac:
            raise Unsupported(
                f"cannot connect container {place.name} to network {wanted.network}: MAC address"
                f" {wanted.mac} is not supported by Weft on networks of the swarm"
            )
        if wanted.ipv6_address is not None:
            raise Unsupported(
                f"cannot connect container {place.name} to network {wanted.network}: IPv6 address"
                f" {wanted.ipv6_address} is not supported by Weft on networks of the swarm"
            )
        container = AttachedContainer(
            container=place.container,
            name=place.name,
            hostname=place.hostname,
            aliases=wanted.aliases,
        )
        request = AttachmentWanted(
            network=wanted.network, address=wanted.address, container=container
        )
        try:
            return await attacher.attach(request)
        except WeftError as error:
            raise _could_not_attach(wanted.network, error) from error

    def with_place(
        self, place: LocalSandbox, wanted: EndpointSettings, granted: Granted
    ) -> LocalSandbox:
        """Raises a `WeftError`."""
        taken = tuple(self.attacher.sandboxes()) if self.attacher is not None else ()
        return self._book.with_overlay(place, wanted, granted, taken)

    def hold(self, ids: Iterable[AttachmentId]) -> None:
        """Their containers are about to lose these places."""
        if self.attacher is not None:
            self.attacher.hold(ids)

    def decided(self, ids: Iterable[AttachmentId]) -> None:
        """See `Attacher.decided`."""
        if self.attacher is not None:
            self.attacher.decided(ids)

    def renamed(self) -> None:
        if self.attacher is not None:
            self.attacher.look()


def _could_not_attach(network: str, error: WeftError) -> WeftError:
    """The error of the same kind, with the beginning that it has in Docker."""
    kind = next((kind for kind in KINDS if isinstance(error, kind)), OperationFailed)
    return kind(f"Could not attach to network {network}: {KINDS.get(kind, '')}{error}")

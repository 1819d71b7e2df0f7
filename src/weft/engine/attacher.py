"""The interface between this node's own containers and the swarm, for containers on its networks.
The agent of a member of a swarm implements it."""

from collections.abc import Iterable
from ipaddress import IPv4Interface
from typing import Protocol

import msgspec

from weft.model.attached import AttachmentWanted
from weft.model.ids import AttachmentId, NetworkId
from weft.model.sandbox import Sandbox


class Granted(msgspec.Struct, frozen=True):
    """A container's place on a network of the swarm."""

    id: AttachmentId
    network: NetworkId
    name: str
    """The network's."""
    address: IPv4Interface


class Attacher(Protocol):
    async def attach(self, wanted: AttachmentWanted) -> Granted:
        """Asks a manager for a place. Returns when this node knows the network and may carry its
        traffic. The place is the caller's until `decided`. Raises a `WeftError`."""
        ...

    def hold(self, ids: Iterable[AttachmentId]) -> None:
        """These places are being given up: they are the caller's until `decided`."""
        ...

    def decided(self, ids: Iterable[AttachmentId]) -> None:
        """From now on these places are those of the containers that have them, or nobody's. The
        managers are told of the latter."""
        ...

    def look(self) -> None:
        """A container that has places has another name."""
        ...

    def sandboxes(self) -> Iterable[Sandbox]:
        """Of the swarm's tasks: their ports on bridges and addresses are taken."""
        ...

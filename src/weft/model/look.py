"""A look at all nodes at once, as the manager passes it on: `weft flows`, `weft top`."""

import msgspec

from weft.model.flows import FlowsFrame
from weft.model.top import TopFrame


class LookBegun(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The first event."""

    nodes: tuple[tuple[str, str, tuple[str, ...]], ...]
    """Id, hostname and addresses of each node of the swarm."""
    service: str = ""
    """Name of the service that was asked for."""


class NodeSaid(msgspec.Struct, frozen=True, tag=True):
    node: str
    """Its id."""
    frame: FlowsFrame | TopFrame


class NodeSilent(msgspec.Struct, frozen=True, tag=True):
    """The node says nothing, or no more; in a look that goes on it may come back."""

    node: str
    cause: str


class NodeDone(msgspec.Struct, frozen=True, tag=True):
    """The node has said all."""

    node: str


class LookFailed(msgspec.Struct, frozen=True, tag=True):
    """The last event, if the manager cannot go on."""

    cause: str


LookEvent = LookBegun | NodeSaid | NodeSilent | NodeDone | LookFailed

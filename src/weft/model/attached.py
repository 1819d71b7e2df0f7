"""Plain containers on overlays: what a node asks a manager for when one of its own containers is to
be on a network of the swarm, and what it gets.

A task without a service stands for each such place (`Task.attached`), so that the address, the
names and the network's way to the node are those of any task. The node chooses the task's id, so
that a request whose answer was lost can be made again.
"""

from ipaddress import IPv4Address, IPv4Interface

import msgspec

from weft.model.ids import ContainerId, NetworkId


class AttachedContainer(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """What a network is told of a container that was attached to it."""

    container: ContainerId
    name: str
    hostname: str = ""
    aliases: tuple[str, ...] = ()
    """On this network, as the user gave them."""


class AttachmentGrant(msgspec.Struct, frozen=True, kw_only=True):
    """A manager's answer: the container's place on the network."""

    network: NetworkId
    name: str
    """The network's."""
    address: IPv4Interface


class AttachmentWanted(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    network: str
    """Name, id or the beginning of an id, as the user wrote it."""
    address: IPv4Address | None = None
    """None: a free address of the network."""
    container: AttachedContainer

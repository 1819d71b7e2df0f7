"""The next step towards what a node's certificate says that it is. Pure: one value in, one step
out.

    certificate   state is kept   manager runs            next step
    ------------  --------------  ----------------------  --------------------------------------------------
    worker        anywhere        or something is left    LEAVE     close it, forget the state
    worker        nowhere         no, nothing is left     NOTHING
    manager       -               with a removed part     LEAVE     its part of the store is of no use any more
    manager       alone           no                      OPEN_ALONE
    manager       alone           yes, others are wanted  MOVE      copy the state to a store that can be shared
    manager       nowhere         no                      JOIN      be given a part of the managers' store
    manager       shared          no                      OPEN_SHARED
    manager       external        no                      OPEN_EXTERNAL
    manager       -               yes                     NOTHING

A node whose files are damaged goes on as it is for as long as it is to be a manager: somebody has
to decide.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from weft.model.node import Role

StoreKind = Literal["none", "alone", "shared", "external"]


class Step(Enum):
    NOTHING = "nothing"
    OPEN_ALONE = "open alone"
    OPEN_SHARED = "open shared"
    OPEN_EXTERNAL = "open external"
    JOIN = "join"
    MOVE = "move"
    LEAVE = "leave"


@dataclass(frozen=True, kw_only=True)
class RoleFacts:
    """All that the next step depends on."""

    role: Role
    """By the certificate."""
    store: StoreKind
    """Where this node keeps the swarm's state, as its disk says."""
    external: bool = False
    """The daemon is configured with an external etcd."""
    running: StoreKind = "none"
    """The store of the manager that runs on this host."""
    removed: bool = False
    """The other managers have taken this host's etcd member out, or the swarm has gone on without
    it."""
    others_wanted: bool = False
    """Another node is to be a manager."""
    leftovers: bool = False
    """There are files of a store on the disk."""
    damaged: bool = False


def next_step(now: RoleFacts) -> Step:
    if now.role == "worker":
        is_clean = now.store == now.running == "none" and not now.leftovers
        return Step.NOTHING if is_clean else Step.LEAVE
    if now.damaged:
        return Step.NOTHING
    if now.removed:
        return Step.LEAVE
    if now.running == "none":
        return _opening(now)
    return Step.MOVE if now.running == "alone" and now.others_wanted else Step.NOTHING


def _opening(now: RoleFacts) -> Step:
    if now.store == "alone":
        return Step.OPEN_ALONE
    if now.external:
        return Step.OPEN_EXTERNAL
    return Step.JOIN if now.store == "none" else Step.OPEN_SHARED

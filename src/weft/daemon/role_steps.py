"""The next step towards the role in a node's certificate. A pure function: one value in, one step
out.

    certificate   state is kept   manager runs            next step
    ------------  --------------  ----------------------  --------------------------------------------------
    worker        anywhere        or something is left    LEAVE     close it, erase the state
    worker        nowhere         no, nothing is left     NOTHING
    manager       -               its member was removed  LEAVE     its etcd member is of no use
    manager       alone           no                      OPEN_ALONE
    manager       alone           yes, others are wanted  MOVE      copy the state to a store that can be shared
    manager       nowhere         no                      JOIN      get an etcd member
    manager       shared          no                      OPEN_SHARED
    manager       external        no                      OPEN_EXTERNAL
    manager       -               yes                     NOTHING

A node with damaged files takes no step as long as it is to be a manager: an operator has to decide.
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
    """All facts on which the next step depends."""

    role: Role
    """The role in the certificate."""
    store: StoreKind
    """The store of the swarm's state, as recorded on this node's disk."""
    external: bool = False
    """Whether the daemon is configured with an external etcd."""
    running: StoreKind = "none"
    """The store of the manager that runs on this host."""
    removed: bool = False
    """Whether the other managers have removed this host's etcd member, or the swarm has gone on
    without this manager."""
    others_wanted: bool = False
    """Whether another node is to be a manager."""
    leftovers: bool = False
    """Whether there are files of a store on the disk."""
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

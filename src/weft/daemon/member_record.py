"""What this node remembers of its membership, in memory and in `member.json`: its role, its store,
the managers, and the epoch of the cluster."""

import logging
from typing import Any

import msgspec

from weft.daemon.role_steps import StoreKind
from weft.errors import OperationFailed
from weft.model.ids import NodeId
from weft.model.node import Role
from weft.session.base import SessionClosed
from weft.session.identity import IdentityStore, Member

log = logging.getLogger(__name__)

Managers = tuple[tuple[NodeId, str], ...]
"""(id, host:port)"""


class MemberRecord:
    """`manager_parts.Memory`."""

    def __init__(self, identity: IdentityStore, member: Member) -> None:
        self.member = member
        self._identity = identity
        self._is_kept = True
        """Whether the disk has the present `member`."""

    def keep_store(self, store: StoreKind) -> None:
        self._save(store=store)

    def keep_role(self, role: Role) -> None:
        self._keep(role=role)

    # --- the managers

    def remember_managers(self, managers: Managers) -> None:
        if managers and (managers != self.member.managers or not self._is_kept):
            self._keep(managers=managers)

    def manager_addresses(self, own_door: str) -> list[str]:
        """The managers' addresses. Each node starts at another one, so that sessions are spread
        over the managers. `own_door`: where this host reaches its own manager."""
        own = self.member.node
        addresses = [own_door if node == own else address for node, address in self.member.managers]
        first = int(own[-4:], 36) % len(addresses) if addresses else 0
        return addresses[first:] + addresses[:first]

    def other_managers(self) -> list[str]:
        return [address for node, address in self.member.managers if node != self.member.node]

    # --- the epoch

    def check_epoch(self, epoch: int) -> None:
        """Raises `SessionClosed` if the epoch is that of a manager without which the swarm has gone
        on."""
        if epoch < self.member.epoch:
            raise SessionClosed(
                f"the manager is of epoch {epoch} of the cluster, which was begun anew since: it is"
                f" {self.member.epoch}"
            )
        self.know_epoch(epoch)

    def know_epoch(self, epoch: int) -> None:
        """Records a later epoch; the node's agent then ignores managers of an earlier one."""
        if epoch > self.member.epoch:
            self._keep(epoch=epoch)

    # ---

    def _save(self, **fields: Any) -> None:
        self.member = msgspec.structs.replace(self.member, **fields)
        self._identity.save_member(self.member)

    def _keep(self, **fields: Any) -> None:
        """Like `_save`, for facts that managers report: they take effect even if the disk cannot be
        written."""
        try:
            self._save(**fields)
            self._is_kept = True
        except OperationFailed as error:
            self._is_kept = False
            log.error("member.not_kept cause=%s", error)

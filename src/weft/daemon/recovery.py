"""Recovery of a membership whose files are damaged. The host repairs what it can; the rest stays as
it is until an operator decides.

    mended   repairs the node's credentials
    forget   removes everything, because a user has said so
    undo     removes the remains of a failed creation of a swarm
"""

import logging
from pathlib import Path

from weft.daemon.opening import reissued
from weft.daemon.sealing_key_file import SEALING_KEYS, SealingKeyFile
from weft.errors import WeftError
from weft.session.identity import Credentials, IdentityStore, Member
from weft.store.etcd.external import ExternalEtcd
from weft.store.etcd.process import EtcdMember, MemberSettings

log = logging.getLogger(__name__)

REJOIN = (
    "Its containers and networks go on as they are. Stop the daemon and restore the file, or take"
    " the node out of the swarm and in again: docker swarm leave --force, docker node rm at a"
    " manager, docker swarm join"
)


async def mended(
    identity: IdentityStore, member: Member, credentials: Credentials, trouble: str
) -> tuple[Credentials, str]:
    """Credentials, and why they are unusable, if they are. The swarm's only manager, which has the
    key of the CA, issues itself new ones."""
    advice = REJOIN
    is_locked = identity.is_locked(credentials)
    if (member.role, member.store) == ("manager", "alone") and not is_locked:
        try:
            sealing_keys = SealingKeyFile(identity.directory / SEALING_KEYS, identity.lock)
            issued = await reissued(identity.directory, member, sealing_keys)
        except WeftError as error:
            advice = str(error)
        else:
            identity.save_credentials(issued)
            log.warning("credentials.self_issued node=%s cause=%s", member.node, trouble)
            return issued, ""
    trouble = f"cannot use the credentials of this node, {trouble}. {advice}"
    log.error("credentials.damaged node=%s cause=%s", member.node, trouble)
    return credentials, trouble


async def forget(data: Path, run: Path) -> None:
    """Removes the rest of an unreadable membership: `<data root>/swarm`, and an etcd member that
    runs. Containers stay; the caller removes the networks of the former swarm."""
    await EtcdMember(MemberSettings(name="", address="", swarm=data, run=run / "etcd")).wipe()
    IdentityStore(data, run).erase()


async def undo(identity: IdentityStore, store: ExternalEtcd | None) -> None:
    """`store`: the external etcd, if this node has created a swarm in it."""
    identity.erase()
    if store is not None:
        await erase(store)


async def erase(store: ExternalEtcd) -> None:
    try:
        await store.erase()
    except WeftError as cause:
        log.warning("store.not_erased store=%s cause=%s", store, cause)

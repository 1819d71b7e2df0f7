"""What is done about a membership whose files are damaged: mended where the host has all that it
takes, else left as it is until somebody decides.

    mended   the node's credentials
    forget   everything, because a user has said so
    undo     what a swarm's beginning has left that failed
"""

import logging
from pathlib import Path

from weft.daemon.running_manager import reissued
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
    """Credentials, and why they are of no use. The swarm's only manager, which has the key of its
    CA, issues itself others."""
    advice = REJOIN
    if (member.role, member.store) == ("manager", "alone"):
        try:
            issued = await reissued(identity.directory, member)
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
    """Takes away what is left of a membership that cannot be read: `<data root>/swarm`, and a
    member of etcd that runs. Containers stay; the networks of what was the swarm's go when the node
    is a member of another one."""
    await EtcdMember(MemberSettings(name="", address="", swarm=data, run=run / "etcd")).wipe()
    IdentityStore(data).erase()


async def undo(identity: IdentityStore, store: ExternalEtcd | None) -> None:
    """`store`: it has a swarm, and this node made it."""
    identity.erase()
    if store is not None:
        await erase(store)


async def erase(store: ExternalEtcd) -> None:
    try:
        await store.erase()
    except WeftError as cause:
        log.warning("store.not_erased store=%s cause=%s", store, cause)

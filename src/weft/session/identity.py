"""The files of a swarm's member: its identity, its certificate and key, and the managers that it
knows.

`<data root>/swarm/` is readable by root only. `member.json` is written last: a directory without it
is left from a join that did not finish.

    credentials -> credentials.x7f2/     replaced as one: no certificate is ever beside the key of
                                         another one
    node.crt -> credentials/node.crt     the certificate, and behind it the chain to the root (PEM)
    node.key -> credentials/node.key
    root.crt -> credentials/root.crt

A manager's etcd member reads the files by the names on the left. While a manager's files are locked
(`node_lock.py`), `credentials/node.key` is, and `node.key` leads to a copy in memory that is not.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from weft.errors import Damaged, OperationFailed, WeftError, cause_of
from weft.model import codec
from weft.model.ids import ClusterId, NodeId
from weft.model.node import Role
from weft.pki.certificate import fingerprint, has_key, holder
from weft.pki.sealing import SealingKey
from weft.session.node_lock import NodeLock
from weft.system.files import replace_file, sync_directory

CERTIFICATE, KEY, ROOT = "node.crt", "node.key", "root.crt"
CURRENT = "credentials"
AGENT = "agent"
"""The directory of the agent's state: only a member of a swarm has one."""
LOST = (
    "cannot read the membership of this node, {path}: {cause}. Nothing was changed in {directory}."
    " Stop the daemon and restore the file, or give this membership up: docker swarm leave --force"
)


class Credentials(msgspec.Struct, frozen=True):
    """PEM texts. The key is secret."""

    certificate: str
    """The node's own certificate; behind it the chain to the root, if the root did not sign it."""
    key: str
    root: str

    def __repr__(self) -> str:
        return "Credentials(…)"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    node: NodeId
    cluster: ClusterId
    role: Role
    advertise_address: IPv4Address
    data_path_address: IPv4Address
    listen_address: str
    """`host:port`, where a manager listens for sessions."""
    managers: tuple[tuple[NodeId, str], ...]
    """(id, host:port)."""
    store: Literal["none", "alone", "shared", "external"] = "none"
    """Where this node keeps the swarm's state: nowhere, in a database of its own, in its etcd
    member, in an external etcd."""
    epoch: int = 0
    """The latest epoch of the cluster that a manager has named."""


class IdentityStore:
    """The directory of one node's membership."""

    def __init__(self, directory: Path, run: Path | None = None) -> None:
        """`run`: a directory in memory, which a membership with locked files needs."""
        self.directory = directory
        self.lock = NodeLock(directory, run or directory / "run", os.urandom)

    def load(self) -> tuple[Member, Credentials] | None:
        """None if this node is not part of a swarm. Raises `Damaged` if it was part of one but
        cannot tell which. The credentials may be unusable, see `trouble`, or locked."""
        path = self.directory / "member.json"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            if not (self.directory / AGENT).exists():
                return None
            raise Damaged(
                LOST.format(path=path, cause="it is missing", directory=self.directory)
            ) from None
        except OSError as error:
            # Also for a failing disk: the node's own containers must not go down with the swarm.
            raise Damaged(
                LOST.format(path=path, cause=cause_of(error), directory=self.directory)
            ) from error
        try:
            member = msgspec.json.decode(content, type=Member, dec_hook=codec.decode_hook)
        except (msgspec.DecodeError, ValueError) as error:
            raise Damaged(LOST.format(path=path, cause=error, directory=self.directory)) from error
        # Earlier versions had no directory for the credentials: the files were here.
        place = self.directory / CURRENT if (self.directory / CURRENT).exists() else self.directory
        return member, Credentials(*(_text(place / name) for name in (CERTIFICATE, KEY, ROOT)))

    def trouble(self, member: Member, credentials: Credentials) -> str:
        """Which file is unusable and why; empty if all files are usable. Only the managers can say
        whether they accept the content."""
        try:
            name = CERTIFICATE
            who = holder(credentials.certificate)
            if (who.node, who.cluster) != (member.node, member.cluster):
                return f"{self.directory / name}: it is of node {who.node} of swarm {who.cluster}"
            name = ROOT
            fingerprint(credentials.root)
            name = KEY
            if not self.is_locked(credentials) and not has_key(
                credentials.certificate, credentials.key
            ):
                return f"{self.directory / name}: it does not belong to the certificate"
        except (WeftError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            return f"{self.directory / name}: {error}"
        return ""

    def is_locked(self, credentials: Credentials) -> bool:
        """Whether the key is as a locked file has it."""
        return self.lock.is_locked(credentials.key)

    def unlocked(self, credentials: Credentials, unlock: SealingKey) -> Credentials:
        """Unlocks this node's files, and the key in the credentials. Raises `Unauthorized` if
        `unlock` is not the right key, `Damaged`."""
        self.lock.unlock(unlock)
        key = self.lock.opened(KEY, credentials.key.encode()).decode(errors="replace")
        return msgspec.structs.replace(credentials, key=key)

    def save(self, member: Member, credentials: Credentials) -> None:
        self.save_credentials(credentials)
        self.save_member(member)

    def save_member(self, member: Member) -> None:
        try:
            replace_file(
                self.directory / "member.json",
                msgspec.json.encode(member, enc_hook=codec.encode_hook),
            )
        except OSError as error:
            raise OperationFailed(
                f"cannot write {self.directory / 'member.json'}: {cause_of(error)}"
            ) from error

    def save_credentials(self, credentials: Credentials) -> None:
        """All or nothing. The files are on the disk when this returns. Only a manager's key is
        ever locked."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            place = Path(tempfile.mkdtemp(dir=self.directory, prefix=f"{CURRENT}."))
            key, links = self._key_file(credentials)
            texts = {
                CERTIFICATE: credentials.certificate.encode(),
                KEY: key,
                ROOT: credentials.root.encode(),
            }
            for name, text in texts.items():
                replace_file(place / name, text)
            self._link(CURRENT, place.name)
            for name in texts:
                self._link(name, links.get(name, f"{CURRENT}/{name}"))
            sync_directory(self.directory)
            for old in self.directory.glob(f"{CURRENT}.*"):
                if old != place:
                    shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise OperationFailed(
                f"cannot write credentials in {self.directory}: {cause_of(error)}"
            ) from error

    def _key_file(self, credentials: Credentials) -> tuple[bytes, dict[str, str]]:
        """The content of the key's file; and, if that is locked, where etcd finds the key."""
        key, lock = credentials.key.encode(), self.lock
        if not lock.is_on or holder(credentials.certificate).role != "manager":
            return key, {}
        lock.etcd_key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(lock.etcd_key, key, durable=False)
        return lock.locked(KEY, key), {KEY: str(lock.etcd_key)}

    def erase(self) -> None:
        self.lock.etcd_key.unlink(missing_ok=True)
        (self.directory / "member.json").unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _link(self, name: str, target: str) -> None:
        """The link replaces whatever has the name."""
        path, temporary = self.directory / name, self.directory / f".{name}.new"
        if not (path.is_symlink() and os.readlink(path) == target):
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
            os.replace(temporary, path)


def _text(path: Path) -> str:
    """Empty if the file cannot be read: `trouble` then finds it unusable."""
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


class CredentialSource:
    """The credentials of this node as they are now. Code that opens a connection takes the newest;
    code that must act on new ones subscribes."""

    def __init__(self, credentials: Credentials, save: Callable[[Credentials], None]) -> None:
        """`save`: `IdentityStore.save_credentials`."""
        self._credentials = credentials
        self._save = save
        self._listeners: list[Callable[[Credentials], None]] = []

    @property
    def credentials(self) -> Credentials:
        return self._credentials

    def replace(self, credentials: Credentials) -> None:
        """Saves to disk first. Raises `OperationFailed`, and then nothing has changed."""
        self._save(credentials)
        self._credentials = credentials
        for listener in tuple(self._listeners):
            listener(credentials)

    def save_again(self) -> None:
        """Raises `OperationFailed`."""
        self._save(self._credentials)

    def subscribe(self, listener: Callable[[Credentials], None]) -> Callable[[], None]:
        """Calls `listener` with all new credentials, until the returned function is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())

"""What a member of a swarm keeps on disk: who it is, its certificate and key, and the managers it knows.

`<data root>/swarm/` is readable by root only. `member.json` is written last: a directory without it is a join that did not finish.
"""

import os
import shutil
import tempfile
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from weft.errors import OperationFailed
from weft.model import codec
from weft.model.ids import ClusterId, NodeId
from weft.model.node import Role


class Credentials(msgspec.Struct, frozen=True):
    """PEM texts. The key is secret."""

    certificate: str
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


class IdentityStore:
    """The directory of one node's membership."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self) -> tuple[Member, Credentials] | None:
        """None if this node is not part of a swarm. Raises `OperationFailed` if what is there cannot be read."""
        if not (self.directory / "member.json").exists():
            return None
        try:
            member = msgspec.json.decode(self._read("member.json"), type=Member, dec_hook=codec.decode_hook)
            return member, Credentials(self._read("node.crt"), self._read("node.key"), self._read("root.crt"))
        except (OSError, msgspec.DecodeError) as error:
            raise OperationFailed(f"cannot read swarm membership in {self.directory}: {error}") from error

    def save(self, member: Member, credentials: Credentials) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write("node.crt", credentials.certificate)
        self._write("node.key", credentials.key)
        self._write("root.crt", credentials.root)
        self.save_member(member)

    def save_member(self, member: Member) -> None:
        self._write("member.json", msgspec.json.encode(member, enc_hook=codec.encode_hook).decode())

    def erase(self) -> None:
        (self.directory / "member.json").unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _read(self, name: str) -> str:
        return (self.directory / name).read_text()

    def _write(self, name: str, text: str) -> None:
        """Atomically, mode 0600, on the disk when it returns."""
        try:
            handle, temporary = tempfile.mkstemp(dir=self.directory, prefix=f".{name}.")
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.directory / name)
        except OSError as error:
            raise OperationFailed(f"cannot write {self.directory / name}: {error.strerror}") from error


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())

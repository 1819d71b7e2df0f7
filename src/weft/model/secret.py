"""Secrets and configs: data that users store in the swarm and that tasks see as files.

The two are the same thing but for who may read the data. A secret is stored sealed
(`pki/sealing.py`), is shown to nobody, and leaves the managers only for nodes whose tasks need it;
a config is stored and shown as it is. The data of neither ever changes: only labels can be
updated, and a service gets other data by a reference to another object.
"""

import posixpath
from typing import Literal

import msgspec

from weft.model.ids import ConfigId, SecretId
from weft.model.meta import Meta

DataKind = Literal["secret", "config"]


class DataSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """All of a secret or config that users may see, but for a config's data."""

    name: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    templated: bool = False
    """The data is a template, expanded for each task (`--template-driver golang`)."""


class DataReference(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A secret or config that a service's tasks see as a file."""

    id: str
    name: str
    target: str
    """The file, as the user wrote it; `path_in_container` says where it is."""
    uid: int = 0
    gid: int = 0
    mode: int = 0o444
    """As the user wrote it; only the permission bits count."""


SECRETS_DIRECTORY = "/run/secrets"


def path_in_container(kind: DataKind, target: str) -> str:
    """Where the container sees the file: an absolute target itself, any other below /run/secrets
    or, for a config, below the root directory."""
    return posixpath.normpath(
        posixpath.join(SECRETS_DIRECTORY if kind == "secret" else "/", target)
    ).replace("//", "/", 1)


class Payload(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, weakref=True):
    """A secret or config as nodes get it, opened."""

    id: str
    data: bytes = b""
    templated: bool = False
    is_gone: bool = False
    """The object was removed although a task refers to it, as after an update was rolled back."""

    def __repr__(self) -> str:
        return f"Payload(id={self.id}, {len(self.data)} bytes)"


class Sealed(msgspec.Struct, frozen=True):
    """Data under an authenticated cipher."""

    key: str
    """`SealingKey.id` of the key that opens it."""
    nonce: bytes
    text: bytes
    """AES-256-GCM: the encrypted data, then its tag of 16 bytes."""

    def __repr__(self) -> str:
        return f"Sealed(key={self.key}, {len(self.text)} bytes)"


class Secret(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    id: SecretId
    spec: DataSpec
    sealed: Sealed
    meta: Meta = Meta()

    @property
    def name(self) -> str:
        return self.spec.name


class Config(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    id: ConfigId
    spec: DataSpec
    data: bytes
    meta: Meta = Meta()

    @property
    def name(self) -> str:
        return self.spec.name

    def __repr__(self) -> str:
        return f"Config(id={self.id}, name={self.name}, {len(self.data)} bytes)"

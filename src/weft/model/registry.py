"""Registries of images: the credentials that a user has for one, and how this host talks to them.

The credentials of a service are a secret. A manager stores them sealed beside the service's spec
(`SealedAuth`), never in it, so that no answer, event or task has them. It opens them only for nodes
with a task of that service (`PullAuth`), and only for an image of the registry that they were given
for: an update to an image elsewhere does not send them there.
"""

import base64
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal

import msgspec

from weft.errors import InvalidArgument
from weft.model.ids import ServiceId
from weft.model.numbers import decimal
from weft.model.references import parse, qualified
from weft.model.secret import Sealed

HUB = "docker.io"
_ALWAYS_INSECURE = (ip_network("::1/128"), ip_network("127.0.0.0/8"))
"""Registries on this host may speak plain HTTP, as with Docker."""
_HIDDEN = "(hidden)"


class RegistryAuth(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a user shows to a registry."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    """What a token server gave in place of the password."""

    @property
    def is_empty(self) -> bool:
        return not (self.username or self.password or self.identity_token)

    @property
    def basic(self) -> str:
        """User and password as HTTP's basic authentication encodes them (RFC 7617)."""
        return base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def hidden_in(self, text: str) -> str:
        """The text without the secrets: a registry may repeat in an error what it was sent."""
        for secret in (self.identity_token, self.password and self.basic, self.password):
            text = text.replace(secret, _HIDDEN) if secret else text
        return text

    def __repr__(self) -> str:
        return f"RegistryAuth({_HIDDEN})"


class SealedAuth(msgspec.Struct, frozen=True):
    """A service's credentials in the store."""

    registry: str
    """Host, and port if there is one, of the registry that they are for."""
    sealed: Sealed
    """An encoded `RegistryAuth`."""


class PullAuth(msgspec.Struct, frozen=True, kw_only=True, weakref=True):
    """A service's credentials as its tasks' nodes get them, opened. Never on a node's disk."""

    service: ServiceId
    registry: str
    auth: RegistryAuth


AuthSource = Literal["spec", "previous-spec"]
"""Whose credentials an update keeps if it brings none."""


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """What a registry has under a name."""

    media_type: str
    digest: str
    size: int
    """Bytes of the manifest, or of the list of manifests."""
    platforms: tuple[tuple[str, str, str], ...] = ()
    """(architecture, operating system, variant) of each image."""


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    """An image that a registry has from this host under a tag."""

    tag: str
    digest: str
    size: int
    """Bytes of the manifest."""


class PushStep(msgspec.Struct, frozen=True):
    """A line of progress while an image is sent to a registry."""

    text: str
    layer: str = ""
    """Digest of the layer that the line is about."""
    pushed: Pushed | None = None
    """Given with the line that ends a tag."""


class RegistrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How this host talks to registries, as the daemon's configuration says."""

    insecure: tuple[str, ...] = ()
    """Hosts, with a port if there is one, and subnets: certificates are not checked, and plain HTTP
    will do."""
    mirrors: tuple[str, ...] = ()
    """URLs that are asked for images of Docker Hub before Docker Hub is."""

    @property
    def insecure_subnets(self) -> tuple[IPv4Network | IPv6Network, ...]:
        given = tuple(ip_network(text) for text in self.insecure if "/" in text)
        return (*_ALWAYS_INSECURE, *given)

    def is_insecure(self, registry: str) -> bool:
        """`registry`: host and port. A subnet holds registries that are named by an address."""
        host = host_of(registry)
        if registry in self.insecure or host == "localhost":
            return True
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return any(address in subnet for subnet in self.insecure_subnets)


USUAL = RegistrySettings()
"""Without any configuration."""


def host_of(registry: str) -> str:
    """Without the port and the brackets of an IPv6 address."""
    bare, _, port = registry.rpartition(":")
    has_port = bool(bare) and decimal(port) is not None
    return (bare if has_port else registry).strip("[]")


def registry_of(reference: str) -> str:
    """Host and port of the registry that has the image. Raises `InvalidArgument`."""
    return qualified(parse(reference)[0]).partition("/")[0]


def is_of(reference: str, registry: str) -> bool:
    """Whether the image is of that registry."""
    try:
        return registry_of(reference) == registry
    except InvalidArgument:
        return False

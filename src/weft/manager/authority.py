"""The manager's port to the certificate authority, and its adapter."""

from collections.abc import Callable
from typing import Protocol

from weft.control.requests.cluster import TokensAndRoots
from weft.model.cluster import JoinTokens, RootCa, RootRotation
from weft.model.meta import Nanoseconds
from weft.model.node import Role
from weft.pki import authority, certificate, tokens
from weft.pki.authority import NodeCertificate


class Authority(TokensAndRoots, Protocol):
    def issue(self, root: RootCa, csr: str, content: NodeCertificate) -> str:
        """A node's certificate (PEM) for the key in `csr`. Raises `InvalidArgument` if that is not
        a certificate request."""
        ...

    def key_digest(self, csr: str) -> str:
        """The digest of the public key in a certificate request. Raises `InvalidArgument`."""
        ...

    def signer_id(self, root_certificate: str) -> str:
        """See `pki.certificate`."""
        ...

    def fingerprint(self, root_certificate: str) -> str: ...

    def role_of(self, token: str, valid: JoinTokens) -> Role | None:
        """The role that the token grants; None if the token is not in `valid`. The comparison takes
        constant time."""
        ...


class PkiAuthority:
    """`Authority` by `weft.pki`."""

    def issue(self, root: RootCa, csr: str, content: NodeCertificate) -> str:
        return authority.issue(root, csr, content)

    def key_digest(self, csr: str) -> str:
        return certificate.public_key_digest(csr)

    def rotation(
        self,
        current: RootCa,
        brought: RootCa | None,
        now: Nanoseconds,
        entropy: Callable[[int], bytes],
    ) -> RootRotation:
        if brought is not None:
            new = authority.brought(brought.certificate, brought.key, now)
        else:
            new = authority.root(authority.make_key(entropy), now, authority.make_serial(entropy))
        return RootRotation(
            new, authority.cross_sign(current, new, now, authority.make_serial(entropy))
        )

    def signer_id(self, root_certificate: str) -> str:
        return certificate.signer_id(root_certificate)

    def fingerprint(self, root_certificate: str) -> str:
        return certificate.fingerprint(root_certificate)

    def make_token(self, root_certificate: str, secret: bytes) -> str:
        return tokens.make_token(root_certificate, secret)

    def role_of(self, token: str, valid: JoinTokens) -> Role | None:
        return tokens.role_of(token, valid)

"""Certificates, roots and tokens that say what they are: `manager.authority.Authority` without
cryptography."""

from collections.abc import Callable

from weft.model.cluster import JoinTokens, RootCa, RootRotation
from weft.model.meta import Nanoseconds
from weft.model.node import Role
from weft.pki.authority import NodeCertificate


class FakeAuthority:
    """Certificates and tokens that say what they are."""

    def issue(self, root: RootCa, csr: str, content: NodeCertificate) -> str:
        return f"{content.node} {content.role} {content.cluster}"

    def key_digest(self, csr: str) -> str:
        return csr

    def rotation(
        self,
        current: RootCa,
        brought: RootCa | None,
        now: Nanoseconds,
        entropy: Callable[[int], bytes],
    ) -> RootRotation:
        return RootRotation(brought or RootCa(current.certificate + "+", "key"), "cross-signed")

    def signer_id(self, root_certificate: str) -> str:
        return root_certificate

    def fingerprint(self, root_certificate: str) -> str:
        return root_certificate

    def make_token(self, root_certificate: str, secret: bytes) -> str:
        return f"token-{secret.hex()}"

    def role_of(self, token: str, valid: JoinTokens) -> Role | None:
        return {valid.worker: "worker", valid.manager: "manager"}.get(token)  # type: ignore[return-value]

"""What the manager needs of the certificate authority, and the real one."""

from typing import Protocol

from weft.model.cluster import JoinTokens, RootCa
from weft.model.ids import ClusterId, NodeId
from weft.model.meta import Nanoseconds
from weft.model.node import Role
from weft.pki import authority, tokens


class Authority(Protocol):
    def issue(
        self, root: RootCa, csr: str, node: NodeId, role: Role, cluster: ClusterId, now: Nanoseconds, lifetime: Nanoseconds,
        serial: int,
    ) -> str:  # fmt: skip
        """A node's certificate (PEM). Raises `InvalidArgument` for a request that is not one."""
        ...

    def make_token(self, root_certificate: str, secret: bytes) -> str:
        """`secret`: `tokens.SECRET_BYTES` random bytes."""
        ...

    def role_of(self, token: str, valid: JoinTokens) -> Role | None:
        """The role that the token grants, compared in constant time; None if it is not one of these."""
        ...


class PkiAuthority:
    """`Authority` by `weft.pki`."""

    def issue(
        self, root: RootCa, csr: str, node: NodeId, role: Role, cluster: ClusterId, now: Nanoseconds, lifetime: Nanoseconds,
        serial: int,
    ) -> str:  # fmt: skip
        return authority.issue(root, csr, node, role, cluster, now, lifetime, serial)

    def make_token(self, root_certificate: str, secret: bytes) -> str:
        return tokens.make_token(root_certificate, secret)

    def role_of(self, token: str, valid: JoinTokens) -> Role | None:
        return tokens.role_of(token, valid)

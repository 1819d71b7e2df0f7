"""Issues certificates to nodes that have a session, and tells a node when to renew its certificate.

The content of a certificate comes from the store. A request contributes only its public key and,
for a manager, the address."""

from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address

import msgspec

from weft.control import revocation
from weft.errors import Forbidden, InvalidArgument
from weft.manager.authority import Authority, PkiAuthority
from weft.manager.transaction import transact
from weft.model.certificate import ManagerCertificate
from weft.model.cluster import Cluster, RootCa
from weft.model.ids import NodeId
from weft.model.meta import Nanoseconds
from weft.model.node import CertificateInfo, Node
from weft.model.state import Change, ClusterState, cluster_of
from weft.pki.authority import NodeCertificate, make_key, make_serial, private_pem, request, signer
from weft.pki.certificate import renewal_due, serial_text
from weft.session.base import Identity
from weft.session.credentials import LATEST, accepted
from weft.session.identity import Credentials
from weft.session.messages import CertificateRequest, IssuedCertificate, Renew, Trust
from weft.store.base import Store

OpenRoot = Callable[[RootCa], RootCa]
"""Gives a root as the store has it with its key in clear. Raises `Unavailable` if the swarm's
sealing key is not here, `OperationFailed`."""


class Standard(msgspec.Struct, frozen=True):
    """The values that every node's credentials must match, for one version of the cluster
    object."""

    version: int
    issuer: str
    trusted: str
    root: str
    """PEM."""


class Certificates:
    def __init__(
        self,
        authority: Authority,
        clock: Callable[[], Nanoseconds],
        entropy: Callable[[int], bytes],
        open_root: OpenRoot,
    ) -> None:
        self._authority = authority
        self._open_root = open_root
        self._clock = clock
        self._entropy = entropy
        self._standard: Standard | None = None

    async def answer(
        self, store: Store, node: NodeId, request: CertificateRequest
    ) -> IssuedCertificate:
        """Issues a certificate. Raises `Forbidden` for a node that is not part of the swarm,
        `InvalidArgument` for an invalid request, `FailedPrecondition` for a manager that may have
        no further certificate, and what `OpenRoot` and `Store.commit` raise."""
        chain = ""

        def decide(state: ClusterState) -> list[Change]:
            nonlocal chain
            chain, changes = self.issue(state, known(state, node), request.csr, request.address)
            return changes

        await transact(store, decide, independent=True)
        return IssuedCertificate(chain)

    def issue(
        self, state: ClusterState, node: Node, csr: str, address: str
    ) -> tuple[str, list[Change]]:
        """The chain (PEM) for a node, which may be new, in its present role; and the changes to
        commit before anybody gets the chain, the node among them. A worker's certificate needs no
        changes."""
        cluster, now = cluster_of(state), self._clock()
        root, behind = signer(cluster)
        serial, lifetime = make_serial(self._entropy), cluster.spec.certificate_expiry
        addresses, changes = tuple[IPv4Address, ...](), list[Change]()
        if node.role == "manager":
            certificate = ManagerCertificate(serial_text(serial), now + lifetime)
            addresses, changes = (
                _addresses(address),
                revocation.issued(state, node, certificate, now),
            )
        content = NodeCertificate(
            node=node.id,
            role=node.role,
            cluster=cluster.id,
            serial=serial,
            begin=now,
            lifetime=lifetime,
            addresses=addresses,
        )
        return self._authority.issue(self._open_root(root), csr, content) + behind, changes

    def due(
        self, state: ClusterState, node: NodeId, peer: Identity, trusted: str
    ) -> Renew | Trust | None:
        """The message due to a node that has shown this certificate and named the root that it
        trusts (empty: it named none). A node never gets both messages at once: after a renewal it
        says hello again with the new certificate, and then gets the other."""
        cluster, known_as = state.cluster, state.nodes.get(node)
        if cluster is None or known_as is None:
            return None
        standard = self._standard_of(cluster)
        if peer.role != known_as.role:
            return Renew(f"the node's role is {known_as.role}")
        if known_as.role == known_as.spec.role and revocation.is_revoked(cluster, peer.serial):
            return Renew("the certificate was revoked")
        if peer.issuer and peer.issuer != standard.issuer:
            return Renew("certificates are issued by another root now")
        if trusted and trusted != standard.trusted:
            return Trust(standard.root)
        return None

    def _standard_of(self, cluster: Cluster) -> Standard:
        """Cached: computing digests takes longer than comparing them for a thousand sessions."""
        if self._standard is None or self._standard.version != cluster.meta.version:
            root, signs = cluster.root_ca.certificate, signer(cluster)[0].certificate
            self._standard = Standard(
                cluster.meta.version,
                self._authority.signer_id(signs),
                self._authority.fingerprint(root),
                root,
            )
        return self._standard


async def self_issued(
    store: Store,
    node: NodeId,
    address: IPv4Address,
    held: Credentials,
    now: Nanoseconds,
    entropy: Callable[[int], bytes],
    open_root: OpenRoot,
) -> Credentials | None:
    """New credentials for the swarm's only manager, which alone has the root's key; None while its
    certificate is not due for renewal. An expired certificate could be renewed nowhere."""
    if now < renewal_due(held.certificate, LATEST):
        return None
    key = make_key(entropy)
    certificates = Certificates(PkiAuthority(), lambda: now, entropy, open_root)
    issued = await certificates.answer(store, node, CertificateRequest(request(key), str(address)))
    roots = cluster_of(store.state).root_ca.certificate, held.root
    return accepted(held, issued.chain, private_pem(key), roots, now)


async def reissued(
    store: Store,
    node: NodeId,
    address: IPv4Address,
    now: Nanoseconds,
    entropy: Callable[[int], bytes],
    open_root: OpenRoot,
) -> Credentials:
    """Credentials for the swarm's only manager, whichever node that was before."""
    key = make_key(entropy)
    certificates = Certificates(PkiAuthority(), lambda: now, entropy, open_root)
    issued = await certificates.answer(store, node, CertificateRequest(request(key), str(address)))
    return Credentials(issued.chain, private_pem(key), cluster_of(store.state).root_ca.certificate)


def shown(peer: Identity, trusted: str) -> CertificateInfo:
    """The part of a session's certificate that is stored with the node."""
    return CertificateInfo(peer.issuer, trusted, peer.serial)


def known(state: ClusterState, id: NodeId) -> Node:
    """The node. Raises `Forbidden` if it was removed or never existed: its certificate is worthless
    then."""
    node = state.nodes.get(id)
    if node is None:
        raise Forbidden(f"node {id} is not part of the swarm")
    return node


def known_peer(state: ClusterState, peer: Identity) -> Node:
    """The node that this certificate was issued to. Raises `Forbidden` if the node is not part of
    the swarm, or if the certificate was revoked and the node has shown a later one."""
    node = known(state, peer.node)
    if peer.role == "manager":
        revocation.check_session(state, node, peer.serial)
    return node


def known_manager(state: ClusterState, peer: Identity) -> Node:
    """The node of a peer that asks for something reserved to managers. The certificate must name a
    manager, and so must the store: a certificate outlives a demotion by months. Raises
    `Forbidden`."""
    node = known(state, peer.node)
    if peer.role != "manager" or node.spec.role != "manager":
        raise Forbidden(f"node {peer.node} is not a manager")
    if revocation.is_revoked(cluster_of(state), peer.serial):
        raise Forbidden(f"the certificate {peer.serial} of node {peer.node} was revoked")
    return node


def _addresses(text: str) -> tuple[IPv4Address, ...]:
    if not text:
        return ()
    try:
        return (IPv4Address(text),)
    except AddressValueError as error:
        raise InvalidArgument(f"cannot issue certificate: address {text!r}: {error}") from error

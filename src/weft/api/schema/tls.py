"""`TLSInfo`: for the swarm the root and signer that nodes should have, for a node the root and
signer that its last session showed.

`docker swarm ca --rotate` compares the two, field by field, until they are the same for every node.
"""

import base64
from collections.abc import Mapping
from typing import NamedTuple

from weft.api.schema.common import Json, omit_empty
from weft.errors import InvalidArgument
from weft.model.cluster import Cluster
from weft.model.node import CertificateInfo
from weft.pki.authority import signer
from weft.pki.certificate import fingerprint, signer_id, subject_and_key


class Roots(NamedTuple):
    """Roots that a node may know, by the digests in the node's `CertificateInfo`."""

    trusted: Mapping[str, str]
    issuers: Mapping[str, Json]


def roots_of(cluster: Cluster) -> Roots:
    known = [cluster.root_ca.certificate, signer(cluster)[0].certificate]
    try:
        return Roots(
            {fingerprint(pem): pem for pem in known},
            {signer_id(pem): _issuer(pem) for pem in known},
        )
    except InvalidArgument:
        return Roots({}, {})


def swarm_tls(cluster: Cluster) -> Json:
    """The root to trust and, as base64 of DER, the name and key of the signing certificate; during
    a rotation the signer is the new root. Empty if there is no certificate."""
    try:
        return {"TrustRoot": cluster.root_ca.certificate} | _issuer(signer(cluster)[0].certificate)
    except InvalidArgument:
        return {}


def node_tls(certificate: CertificateInfo, roots: Roots) -> Json:
    """Leaves out a root that was replaced and is no longer known."""
    return omit_empty(
        {"TrustRoot": roots.trusted.get(certificate.trusted, "")}
    ) | roots.issuers.get(certificate.issuer, {})


def _issuer(pem: str) -> Json:
    subject, key = subject_and_key(pem)
    return {
        "CertIssuerSubject": base64.b64encode(subject).decode(),
        "CertIssuerPublicKey": base64.b64encode(key).decode(),
    }

"""Nodes: the spec that an update sends, and a node's JSON."""

from typing import Literal

from msgspec import field

from weft.api.schema.common import Json, Wire, omit_empty, rfc3339
from weft.api.schema.generic import generic_json
from weft.api.schema.tls import Roots, node_tls
from weft.errors import InvalidArgument
from weft.model.leadership_status import LeadershipStatus
from weft.model.node import Node, NodeSpec


class NodeWire(Wire, frozen=True):
    name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    role: Literal["", "worker", "manager"] = ""
    availability: Literal["", "active", "pause", "drain"] = ""


def spec_from(wire: NodeWire) -> NodeSpec:
    """Raises `InvalidArgument` if role or availability is missing."""
    if not wire.role:
        raise InvalidArgument('invalid Role: "" (must be worker or manager)')
    if not wire.availability:
        raise InvalidArgument('invalid Availability: "" (must be active, pause or drain)')
    return NodeSpec(wire.role, wire.availability, wire.name, wire.labels)


def node_json(node: Node, leadership_status: LeadershipStatus, roots: Roots) -> Json:
    description = node.description
    resources = description.resources
    body: Json = {
        "ID": node.id,
        "Version": {"Index": node.meta.version},
        "CreatedAt": rfc3339(node.meta.created_at),
        "UpdatedAt": rfc3339(node.meta.updated_at),
        "Spec": omit_empty({"Name": node.spec.name})
        | {
            "Labels": node.spec.labels,
            "Role": node.spec.role,
            "Availability": node.spec.availability,
        },
        "Description": {
            "Hostname": description.hostname,
            "Platform": {"Architecture": description.architecture, "OS": description.os},
            "Resources": omit_empty(
                {
                    "NanoCPUs": resources.nano_cpus,
                    "MemoryBytes": resources.memory,
                    "GenericResources": generic_json(resources.generic),
                }
            ),
            "Engine": {
                "EngineVersion": description.engine_version,
                **omit_empty({"Labels": description.engine_labels}),
                "Plugins": [
                    *(
                        {"Type": "Network", "Name": name}
                        for name in ("bridge", "host", "null", "overlay")
                    ),
                    {"Type": "Volume", "Name": "local"},
                ],
            },
            "TLSInfo": node_tls(node.certificate, roots),
        },
        "Status": {"State": str(node.status.state)}
        | omit_empty({"Message": node.status.message, "Addr": node.status.address}),
    }
    if node.manager_address:
        reachability = "reachable" if node.id in leadership_status.present else "unreachable"
        leading = {"Leader": True} if node.id == leadership_status.leader else {}
        body["ManagerStatus"] = leading | {
            "Reachability": reachability,
            "Addr": node.manager_address,
        }
    return body

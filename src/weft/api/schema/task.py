"""Tasks: their JSON. The original has no request about a task: tasks follow from services."""

from collections.abc import Mapping

from weft.api.schema.common import Json, omit_empty, rfc3339
from weft.api.schema.network import network_resource_json
from weft.api.schema.service import port_json, task_template_json
from weft.model.ids import NetworkId
from weft.model.network import Network
from weft.model.task import Task, TaskStatus


def task_json(task: Task, networks: Mapping[NetworkId, Network]) -> Json:
    attachments = [
        network_resource_json(networks[attachment.network], [str(attachment.address)])
        for attachment in task.attachments
        if attachment.network in networks
    ]
    return {
        "ID": task.id,
        "Version": {"Index": task.meta.version},
        "CreatedAt": rfc3339(task.meta.created_at),
        "UpdatedAt": rfc3339(task.meta.updated_at),
        "Labels": {},
        "Spec": task_template_json(task.spec),
        "ServiceID": task.service,
        **omit_empty({"Slot": task.slot, "NodeID": task.node}),
        "Status": _status_json(task.status),
        "DesiredState": task.desired.name.lower(),
        **omit_empty({"NetworksAttachments": attachments}),
    }


def _status_json(status: TaskStatus) -> Json:
    body: Json = {"Timestamp": rfc3339(status.timestamp), "State": status.state.name.lower()}
    body |= omit_empty({"Message": status.message, "Err": status.err})
    if status.container is not None:
        container = status.container
        body["ContainerStatus"] = {"ContainerID": container.id, "PID": container.pid, "ExitCode": container.exit_code}
    return body | {"PortStatus": omit_empty({"Ports": [port_json(port) for port in status.ports]})}

"""Tasks: their JSON. No request of Docker has a task in its body: tasks follow from services."""

from collections.abc import Mapping

import msgspec

from weft.api.schema.common import Json, encode_item, omit_empty, rfc3339
from weft.api.schema.generic import generic_json
from weft.api.schema.job import iteration_json
from weft.api.schema.network import attached_network_json
from weft.api.schema.service import port_json, task_template_json
from weft.model.attached import AttachedContainer
from weft.model.ids import NetworkId
from weft.model.network import Network
from weft.model.service import TaskSpec
from weft.model.task import Task, TaskStatus


class TaskRows:
    """The JSON of many tasks at one time. Specs and networks that several tasks share are encoded
    once."""

    def __init__(self, networks: Mapping[NetworkId, Network]) -> None:
        self._networks = networks
        self._encoded_networks: dict[NetworkId, msgspec.Raw] = {}
        self._encoded_specs: dict[int, tuple[TaskSpec, msgspec.Raw]] = {}
        """By the spec's `id()`. The entry holds the spec, so that no other object can get the same
        `id()`."""

    def __call__(self, task: Task) -> Json:
        return _task_json(task, self._spec(task), [
            {"Network": self._network(attachment.network), "Addresses": [str(attachment.address)]}
            for attachment in task.attachments
            if attachment.network in self._networks
        ])  # fmt: skip

    def _network(self, id: NetworkId) -> msgspec.Raw:
        found = self._encoded_networks.get(id)
        if found is None:
            found = self._encoded_networks[id] = msgspec.Raw(
                encode_item(attached_network_json(self._networks[id]))
            )
        return found

    def _spec(self, task: Task) -> msgspec.Raw:
        spec = task.spec
        if task.attached is not None:
            return msgspec.Raw(encode_item(_attachment_json(task, task.attached)))
        found = self._encoded_specs.get(id(spec))
        if found is None:
            found = self._encoded_specs[id(spec)] = (
                spec,
                msgspec.Raw(encode_item(task_template_json(spec))),
            )
        return found[1]


def _task_json(task: Task, spec: msgspec.Raw, attachments: list[Json]) -> Json:
    return {
        "ID": task.id,
        "Version": {"Index": task.meta.version},
        "CreatedAt": rfc3339(task.meta.created_at),
        "UpdatedAt": rfc3339(task.meta.updated_at),
        "Labels": {},
        "Spec": spec,
        "ServiceID": task.service,
        **omit_empty({"Slot": task.number, "NodeID": task.node}),
        "Status": _status_json(task.status),
        "DesiredState": task.shown_desired.name.lower(),
        **omit_empty(
            {
                "NetworksAttachments": attachments,
                # The API's documentation has the second name, Docker's answers have the first.
                "GenericResources": generic_json(task.generic),
                "AssignedGenericResources": generic_json(task.generic),
            }
        ),
        "Volumes": [],  # those of clusters, which do not exist
        **(
            {}
            if task.job_iteration is None
            else {"JobIteration": iteration_json(task.job_iteration)}
        ),
    }


def runtime_of(task: Task) -> str:
    """What Docker calls the kind of the task."""
    return "container" if task.attached is None else "attachment"


def _attachment_json(task: Task, attached: AttachedContainer) -> Json:
    return {
        "NetworkAttachmentSpec": {"ContainerID": attached.container},
        "Networks": [
            {"Target": n.target} | omit_empty({"Aliases": n.aliases}) for n in task.spec.networks
        ],
        "ForceUpdate": task.spec.force_update,
        "Runtime": runtime_of(task),
    }


def _status_json(status: TaskStatus) -> Json:
    body: Json = {"Timestamp": rfc3339(status.timestamp), "State": status.state.name.lower()}
    body |= omit_empty({"Message": status.message, "Err": status.err})
    if status.container is not None:
        container = status.container
        body["ContainerStatus"] = {
            "ContainerID": container.id,
            "PID": container.pid,
            "ExitCode": container.exit_code,
        }
    return body | {"PortStatus": omit_empty({"Ports": [port_json(port) for port in status.ports]})}

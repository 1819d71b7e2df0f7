"""From a task to the container that runs it: names, labels, templates, /etc/hosts and /etc/resolv.conf. Pure.

What a user can write as a template (environment, hostname, sources and targets of mounts) is filled in here; `{{.Task.Slot}}` and the
like are the original's names, anything else between braces is refused, so that a misspelled one does not reach the application.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from weft.engine.adapters import HostResolver
from weft.errors import InvalidArgument, clip
from weft.model.assignment import Assignment, TaskAssignment
from weft.model.container import ContainerConfig
from weft.model.ids import ContainerId
from weft.model.node import NodeDescription
from weft.model.sandbox import RESOLVER_ADDRESS, Sandbox
from weft.model.service import ContainerSpec

SHORT_ID = 12
"""Digits of a container's id that make its short id, and its hostname if the user gave none."""

TASK_LABEL = "com.docker.swarm.task.id"
SERVICE_LABEL = "com.docker.swarm.service.id"

_HOSTS_HEAD = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def container_config(
    task: TaskAssignment, container: ContainerId, sandbox: Sandbox | None, assignment: Assignment, node: NodeDescription,
    host: HostResolver, namespaces: Path,
) -> ContainerConfig:  # fmt: skip
    """The container of a task. Without a sandbox it runs on the host's network, with the host's name and name servers.
    Raises `InvalidArgument` for a template that is none."""
    spec = fill_templates(task, node)
    hostname = spec.hostname or (node.hostname if task.spec.host_network else container[:SHORT_ID])
    return ContainerConfig(
        id=container,
        name=task.name,
        spec=spec,
        limits=task.spec.limits,
        hostname=hostname,
        labels=spec.labels | swarm_labels(task),
        namespace=None if sandbox is None else str(namespaces / sandbox.key),
        sandbox_id="" if sandbox is None else sandbox.id,
        hosts=hosts_file(task, hostname, spec, assignment),
        resolv_conf=resolv_conf(spec, host, own=sandbox is not None),
        log_driver=task.spec.log_driver,
    )


def swarm_labels(task: TaskAssignment) -> dict[str, str]:
    return {
        "com.docker.swarm.node.id": task.node,
        SERVICE_LABEL: task.service,
        "com.docker.swarm.service.name": task.service_name,
        "com.docker.swarm.task": "",
        TASK_LABEL: task.id,
        "com.docker.swarm.task.name": task.name,
    }


def hosts_file(task: TaskAssignment, hostname: str, spec: ContainerSpec, assignment: Assignment) -> str:
    """The well-known names, what the user added, and the container's own address on its first network that is not ingress."""
    lines = []
    for line in filter(str.strip, spec.hosts):
        address, *names = line.split()
        lines.append(f"{address}\t{' '.join(names)}\n")
    views = assignment.networks
    own = sorted(task.attachments, key=lambda a: a.network in views and views[a.network].definition.ingress)
    lines += [f"{attachment.address.ip}\t{hostname}\n" for attachment in own[:1]]
    return _HOSTS_HEAD + "".join(lines)


def resolv_conf(spec: ContainerSpec, host: HostResolver, own: bool) -> str:
    """With `own` the agent answers, in the container; else the servers that the user or the host named."""
    servers = (str(RESOLVER_ADDRESS),) if own else spec.dns_servers or host.servers
    search = spec.dns_search or host.search
    options = spec.dns_options or host.options
    if own and not any(option.startswith("ndots:") for option in spec.dns_options):
        options = (*(o for o in options if not o.startswith("ndots:")), "ndots:0")
    lines = [f"nameserver {server}" for server in servers]
    lines += [f"search {' '.join(search)}"] if search and search != (".",) else []
    lines += [f"options {' '.join(options)}"] if options else []
    return "".join(f"{line}\n" for line in lines)


def fill_templates(task: TaskAssignment, node: NodeDescription) -> ContainerSpec:
    spec = task.spec.container
    values = {
        ".Service.ID": task.service, ".Service.Name": task.service_name,
        ".Node.ID": task.node, ".Node.Hostname": node.hostname,
        ".Node.Platform.OS": node.os, ".Node.Platform.Architecture": node.architecture,
        ".Task.ID": task.id, ".Task.Name": task.name, ".Task.Slot": str(task.slot or task.node),
    }  # fmt: skip

    def filled(text: str) -> str:
        return _fill(text, values) if "{{" in text else text

    mounts = tuple(msgspec.structs.replace(m, source=filled(m.source), target=filled(m.target)) for m in spec.mounts)
    env = tuple(map(filled, spec.env))
    return msgspec.structs.replace(spec, env=env, hostname=filled(spec.hostname), mounts=mounts)


def _fill(text: str, values: Mapping[str, str]) -> str:
    plain, *actions = text.split("{{")
    filled = [plain]
    for action in actions:
        field, closed, rest = action.partition("}}")
        if not closed or field.strip() not in values:
            cause = "unknown field" if closed else "it has no end"
            raise InvalidArgument(f"cannot expand template {{{{{clip(field)}{closed} in {clip(text)!r}: {cause}")
        filled += (values[field.strip()], rest)
    return "".join(filled)


def expired(containers: Mapping[ContainerId, tuple[str, int]], keep: int = 5) -> list[ContainerId]:
    """Of ended containers (id: (name, moment of its end)) those to remove: all but the last `keep` of each slot. A container's
    slot is its name less the task's id."""
    slots: dict[str, list[tuple[int, ContainerId]]] = {}
    for id, (name, ended) in containers.items():
        slots.setdefault(name.rpartition(".")[0], []).append((ended, id))
    return [id for slot in slots.values() for _, id in sorted(slot, reverse=True)[keep:]]

"""Services: the JSON of a service spec, its task template, and of a service.

Decoding takes a `Resolver`, because a request names networks by name, id or prefix, and the model
only by id. Absent fields get Docker's defaults; a service's spec is printed without those that were
left out (`service_defaults.py`), so that decoding an encoded spec gives the same spec. This file
refuses only what the model has no place for; `control.validate` decides whether a spec makes sense.
"""

from collections.abc import Callable
from typing import Any

from weft.api.schema.common import Json, omit_empty, rfc3339
from weft.api.schema.endpoint_options import options_from
from weft.api.schema.generic import generic_json, reserved_from
from weft.api.schema.healthcheck import health_check_from, health_check_json
from weft.api.schema.job import job_status_json, mode_from, mode_json
from weft.api.schema.mount import mount_from, mount_json
from weft.api.schema.privileges import privileges_from, privileges_json
from weft.api.schema.reference import reference_from, reference_json
from weft.api.schema.service_defaults import left_out, without
from weft.api.schema.service_wire import (
    AttachmentWire,
    ContainerWire,
    DnsWire,
    EndpointWire,
    LimitsWire,
    LogDriverWire,
    PlacementWire,
    PortWire,
    ReservationsWire,
    ResourcesWire,
    RestartWire,
    ServiceWire,
    TaskWire,
    UpdateWire,
)
from weft.errors import InvalidArgument
from weft.model import log_options
from weft.model.ids import NetworkId
from weft.model.meta import SECOND
from weft.model.service import (
    ContainerSpec,
    Endpoint,
    EndpointSpec,
    NetworkAttachmentSpec,
    Placement,
    PublishedPort,
    Resources,
    RestartPolicy,
    Service,
    ServiceSpec,
    TaskSpec,
    Ulimit,
    UpdateConfig,
    UpdateStatus,
)

Resolver = Callable[[str], NetworkId | None]
"""Maps a network's name or id, as the user wrote it, to its id; None means the host's own network.
Raises `NotFound`."""

HOST = "host"


# --- JSON -> model


def spec_from(wire: ServiceWire, resolve: Resolver) -> ServiceSpec:
    """Raises `InvalidArgument` or `Unsupported` with the field and the value, or the errors of
    `resolve`."""
    replicas, job = mode_from(wire.mode)
    if job is not None and wire.update_config is not None:
        raise InvalidArgument("Jobs may not have an update config")
    if job is not None and wire.rollback_config is not None:
        raise InvalidArgument("Jobs may not have a rollback config")
    return ServiceSpec(
        name=wire.name,
        labels=wire.labels,
        task=_task_from(wire.task_template, wire.task_template.networks or wire.networks, resolve),
        replicas=replicas,
        job=job,
        update=_update_from(wire.update_config),
        rollback=_update_from(wire.rollback_config),
        endpoint=_endpoint_from(wire.endpoint_spec or EndpointWire()),
        unset=left_out(wire),
    )


def _task_from(wire: TaskWire, networks: tuple[AttachmentWire, ...], resolve: Resolver) -> TaskSpec:
    if wire.container_spec is None:
        raise InvalidArgument("TaskTemplate: missing container spec")
    targets = [(resolve(network.target), network) for network in networks]
    attached = tuple(
        NetworkAttachmentSpec(
            target, each.aliases, options_from(each.driver_opts, "TaskTemplate.Networks")
        )
        for target, each in targets
        if target is not None
    )
    if len(attached) < len(targets) and attached:
        raise InvalidArgument(
            "TaskTemplate.Networks: the network host cannot be combined with other networks"
        )
    resources, log = wire.resources or ResourcesWire(), wire.log_driver or LogDriverWire()
    limits = resources.limits or LimitsWire()
    reservations = resources.reservations or ReservationsWire()
    return TaskSpec(
        container=_container_from(wire.container_spec),
        limits=Resources(limits.nano_cpus, limits.memory, limits.pids),
        reservations=Resources(
            reservations.nano_cpus,
            reservations.memory,
            generic=reserved_from(reservations.generic_resources),
        ),
        restart=_restart_from(wire.restart_policy or RestartWire()),
        placement=_placement_from(wire.placement or PlacementWire()),
        networks=attached,
        host_network=len(attached) < len(targets),
        log_driver=log.name or log_options.DEFAULT,
        log_options=log.options,
        force_update=wire.force_update,
    )


def _restart_from(wire: RestartWire) -> RestartPolicy:
    return RestartPolicy(
        condition=wire.condition or "any",
        delay=5 * SECOND if wire.delay is None else wire.delay,
        max_attempts=wire.max_attempts,
        window=wire.window or 0,
    )


def _container_from(wire: ContainerWire) -> ContainerSpec:
    grace, dns = wire.stop_grace_period, wire.dns or DnsWire()
    return ContainerSpec(
        image=wire.image,
        labels=wire.labels,
        command=wire.command,
        args=wire.args,
        hostname=wire.hostname,
        env=wire.env,
        dir=wire.dir,
        user=wire.user,
        groups=wire.groups,
        stop_signal=wire.stop_signal,
        tty=wire.tty,
        open_stdin=wire.open_stdin,
        read_only=wire.read_only,
        mounts=tuple(
            mount_from(mount, f"TaskTemplate.ContainerSpec.Mounts[{i}]")
            for i, mount in enumerate(wire.mounts)
        ),
        secrets=tuple(
            reference_from("secret", each, f"TaskTemplate.ContainerSpec.Secrets[{i}]")
            for i, each in enumerate(wire.secrets)
        ),
        configs=tuple(
            reference_from("config", each, f"TaskTemplate.ContainerSpec.Configs[{i}]")
            for i, each in enumerate(wire.configs)
        ),
        stop_grace_period=10 * SECOND if grace is None else grace,
        hosts=wire.hosts,
        dns_servers=dns.nameservers,
        dns_search=dns.search,
        dns_options=dns.options,
        init=wire.init,
        oom_score_adj=wire.oom_score_adj,
        privileges=privileges_from(wire.privileges),
        healthcheck=health_check_from(wire.healthcheck),
        sysctls=wire.sysctls,
        cap_add=wire.cap_add,
        cap_drop=wire.cap_drop,
        ulimits=tuple(Ulimit(limit.name, limit.soft, limit.hard) for limit in wire.ulimits),
    )


def _placement_from(wire: PlacementWire) -> Placement:
    return Placement(
        constraints=wire.constraints,
        spread=tuple(preference.spread.descriptor for preference in wire.preferences),
        max_replicas=wire.max_replicas,
        platforms=tuple((platform.architecture, platform.os) for platform in wire.platforms),
    )


def _update_from(wire: UpdateWire | None) -> UpdateConfig:
    if wire is None:
        return UpdateConfig()
    return UpdateConfig(
        parallelism=wire.parallelism,
        delay=wire.delay,
        failure_action=wire.failure_action or "pause",
        monitor=wire.monitor or 5 * SECOND,
        max_failure_ratio=wire.max_failure_ratio,
        order=wire.order or "stop-first",
    )


def _endpoint_from(wire: EndpointWire) -> EndpointSpec:
    return EndpointSpec(wire.mode or "vip", tuple(_port_from(port) for port in wire.ports))


def _port_from(wire: PortWire) -> PublishedPort:
    return PublishedPort(
        wire.target_port,
        wire.published_port,
        wire.protocol or "tcp",
        wire.publish_mode or "ingress",
        wire.name,
    )


# --- model -> JSON


def service_json(service: Service, *, defaults: bool = False) -> Json:
    """`defaults`: the current spec also has the parts that the user left out."""
    body: Json = {
        "ID": service.id,
        "Version": {"Index": service.meta.version},
        "CreatedAt": rfc3339(service.meta.created_at),
        "UpdatedAt": rfc3339(service.meta.updated_at),
        "Spec": spec_json(service.spec, defaults=defaults),
    }
    if service.previous_spec is not None:
        body["PreviousSpec"] = spec_json(service.previous_spec)
    body["Endpoint"] = _endpoint_state_json(service.endpoint)
    if service.update_status is not None:
        body["UpdateStatus"] = _update_status_json(service.update_status)
    if service.job_status is not None:
        body["JobStatus"] = job_status_json(service.job_status)
    return body


def spec_json(spec: ServiceSpec, *, defaults: bool = False) -> Json:
    configs = {"UpdateConfig": spec.update, "RollbackConfig": spec.rollback}
    updates = {} if spec.job else {name: _update_json(config) for name, config in configs.items()}
    task = task_template_json(spec.task)
    task["RestartPolicy"] |= {"Window": spec.task.restart.window}
    task["LogDriver"] = _log_driver_json(spec.task)
    whole = {
        "Name": spec.name,
        "Labels": spec.labels,
        "TaskTemplate": task,
        "Mode": mode_json(spec),
        **updates,
        "EndpointSpec": _endpoint_json(spec.endpoint),
    }
    return without(whole, spec.unset, defaults=defaults)


def task_template_json(task: TaskSpec) -> Json:
    """With all defaults, except for the restart policy's window and the log driver."""
    restart = {
        "Condition": task.restart.condition,
        "Delay": task.restart.delay,
        "MaxAttempts": task.restart.max_attempts,
    }
    body: Json = {
        "ContainerSpec": _container_json(task.container),
        "Resources": {
            "Limits": _limits_json(task.limits),
            "Reservations": _limits_json(task.reservations),
        },
        "RestartPolicy": restart | omit_empty({"Window": task.restart.window}),
        "Placement": _placement_json(task.placement),
    }
    networks: list[Json] = [
        {"Target": str(n.target)}
        | omit_empty({"Aliases": n.aliases, "DriverOpts": dict(n.options)})
        for n in task.networks
    ]
    if task.host_network:
        networks = [{"Target": HOST}]
    body |= omit_empty({"Networks": networks})
    if task.log_driver != log_options.DEFAULT or task.log_options:
        body["LogDriver"] = _log_driver_json(task)
    return body | {"ForceUpdate": task.force_update, "Runtime": "container"}


def _log_driver_json(task: TaskSpec) -> Json:
    return {"Name": task.log_driver} | omit_empty({"Options": task.log_options})


def _container_json(spec: ContainerSpec) -> Json:
    named = {
        "Image": spec.image, "Labels": spec.labels, "Command": spec.command, "Args": spec.args, "Hostname": spec.hostname,
        "Env": spec.env, "Dir": spec.dir, "User": spec.user, "Groups": spec.groups, "StopSignal": spec.stop_signal,
        "TTY": spec.tty, "OpenStdin": spec.open_stdin, "ReadOnly": spec.read_only,
        "Mounts": [mount_json(mount) for mount in spec.mounts],
        "Secrets": [reference_json("Secret", each) for each in spec.secrets],
        "Configs": [reference_json("Config", each) for each in spec.configs],
    }  # fmt: skip
    dns = {"Nameservers": spec.dns_servers, "Search": spec.dns_search, "Options": spec.dns_options}
    rest = {
        "Hosts": spec.hosts, "Sysctls": spec.sysctls, "CapabilityAdd": spec.cap_add, "CapabilityDrop": spec.cap_drop,
        "Ulimits": [{"Name": limit.name, "Hard": limit.hard, "Soft": limit.soft} for limit in spec.ulimits],
        "OomScoreAdj": spec.oom_score_adj, "Privileges": privileges_json(spec.privileges),
    }  # fmt: skip
    always: Json = {
        "StopGracePeriod": spec.stop_grace_period,
        "DNSConfig": omit_empty(dns),
        "Isolation": "default",
    }
    init = {} if spec.init is None else {"Init": spec.init}
    check = spec.healthcheck
    health = {} if check is None else {"Healthcheck": health_check_json(check)}
    return omit_empty(named) | init | health | always | omit_empty(rest)


def _limits_json(limits: Resources) -> Json:
    return omit_empty({
        "NanoCPUs": limits.nano_cpus, "MemoryBytes": limits.memory, "Pids": limits.pids,
        "GenericResources": generic_json(limits.generic),
    })  # fmt: skip


def _placement_json(placement: Placement) -> Json:
    fields: dict[str, Any] = {
        "Constraints": placement.constraints,
        "Preferences": [{"Spread": {"SpreadDescriptor": label}} for label in placement.spread],
        "MaxReplicas": placement.max_replicas,
        "Platforms": [
            omit_empty({"Architecture": architecture, "OS": os})
            for architecture, os in placement.platforms
        ],
    }
    return omit_empty(fields)


def _update_json(update: UpdateConfig) -> Json:
    return {
        "Parallelism": update.parallelism,
        **omit_empty({"Delay": update.delay}),
        "FailureAction": update.failure_action,
        "Monitor": update.monitor,
        "MaxFailureRatio": (
            int(ratio) if (ratio := update.max_failure_ratio).is_integer() else ratio
        ),
        "Order": update.order,
    }


def _endpoint_json(endpoint: EndpointSpec) -> Json:
    return {"Mode": endpoint.mode} | omit_empty(
        {"Ports": [port_json(port) for port in endpoint.ports]}
    )


def port_json(port: PublishedPort) -> Json:
    return omit_empty({
        "Name": port.name, "Protocol": port.protocol, "TargetPort": port.target,
        "PublishedPort": port.published, "PublishMode": port.mode,
    })  # fmt: skip


def _endpoint_state_json(endpoint: Endpoint) -> Json:
    addresses = [
        {"NetworkID": virtual.network, "Addr": str(virtual.address)}
        for virtual in endpoint.addresses
    ]
    ports = [port_json(port) for port in endpoint.ports]
    return {"Spec": _endpoint_json(endpoint.spec)} | omit_empty(
        {"Ports": ports, "VirtualIPs": addresses}
    )


def _update_status_json(status: UpdateStatus) -> Json:
    body: Json = {"State": str(status.state)}
    if status.started_at:
        body["StartedAt"] = rfc3339(status.started_at)
    if status.completed_at:
        body["CompletedAt"] = rfc3339(status.completed_at)
    return body | {"Message": status.message}

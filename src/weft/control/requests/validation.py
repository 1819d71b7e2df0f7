"""Checks of a specification before anything is done with it; the texts are Docker Swarm's (swarmkit
manager/controlapi).

Only this module, `mounts.py` for mounts, `log_drivers.py` for logs and `process_settings.py` for a
container's process, checks the specification by itself. Checks that depend on other objects (names,
ports and subnets in use) are where the state is available: `allocator.ports.conflict`,
`allocator.subnets.overlapping`, the store's unique names. All checks take linear time: names and
expressions are bounded, and no pattern is ambiguous.
"""

import re

from weft.control.requests.log_drivers import validate_log_driver
from weft.control.requests.mounts import validate_mounts
from weft.control.requests.process_settings import validate_hostname, validate_process
from weft.control.scheduler.constraints import parse
from weft.errors import Forbidden, InvalidArgument, clip
from weft.model import labels, references
from weft.model.generic import is_plain
from weft.model.health import KINDS, SHORTEST, HealthCheck
from weft.model.network import NetworkSpec, Pool
from weft.model.privileges import Privileges
from weft.model.seccomp_profile import profile_from
from weft.model.service import (
    EndpointSpec,
    Resources,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from weft.model.task_templates import expanded, task_values

MAX_NAME = 63
MAX_REPLICAS = 1_000_000
"""A manager keeps 350 bytes per task, and creates all tasks, placed or not; a larger number is a
typo."""
MAX_RETRIES = 2**31 - 1
MIN_NANO_CPUS = 1_000_000
MIN_MEMORY = 4 * 1024 * 1024
LONGEST_PREFIX = 29
"""A subnet needs room for the gateway, one load balancer per node, and a task."""
MAX_POOLS = 64
"""Most subnets of one network: each is compared with all subnets of other networks."""
PREDEFINED = ("bridge", "host", "none", "default")
"""Network names that every host has, or that stand for such a network."""
_NAME = re.compile(r"[a-zA-Z0-9]+(?:[-_]+[a-zA-Z0-9]+)*")
"""Docker Swarm's `[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*` accepts the same names, but can match n
letters in 2**n ways."""


def validate_service(spec: ServiceSpec) -> None:
    """Raises `InvalidArgument`."""
    validate_name(spec.name)
    _validate_mode(spec)
    _validate_task(spec.task)
    _validate_container(spec)
    _validate_update(spec.update)
    _validate_update(spec.rollback)
    if spec.rollback.failure_action == "rollback":
        raise InvalidArgument(
            "RollbackConfig.FailureAction: rollback cannot be the action for a failed rollback"
        )
    _validate_endpoint(spec.endpoint)
    _validate_rebalance(spec)
    _validate_affinity(spec)
    _validate_publish_addresses(spec)
    if spec.task.host_network:
        _validate_on_host(spec.endpoint)


def validate_network(spec: NetworkSpec) -> None:
    """Raises `InvalidArgument`, or `Forbidden` for a reserved name."""
    validate_name(spec.name)
    if spec.name in PREDEFINED:
        raise Forbidden(f"{spec.name} is a pre-defined network and cannot be created")
    if len(spec.pools) > MAX_POOLS:
        raise InvalidArgument(
            f"cannot create network {spec.name}: {len(spec.pools)} subnets are more than"
            f" {MAX_POOLS}"
        )
    for position, pool in enumerate(spec.pools):
        _validate_pool(spec.name, pool)
        for other in spec.pools[:position]:
            if pool.subnet.overlaps(other.subnet):
                raise InvalidArgument(
                    f"cannot create network {spec.name}: subnet {pool.subnet} overlaps"
                    f" {other.subnet}"
                )
    if spec.vnis and len(spec.vnis) < max(1, len(spec.pools)):
        raise InvalidArgument(f"insufficient vnis({len(spec.vnis)}) passed to overlay")
    if len(set(spec.vnis)) < len(spec.vnis):
        raise InvalidArgument(f"cannot create network {spec.name}: a VNI is given twice")
    if spec.ingress and spec.attachable:
        raise InvalidArgument("ingress network cannot be attachable")


def validate_name(name: str) -> None:
    """The name of a service or network. Raises `InvalidArgument`."""
    if not name:
        raise InvalidArgument("meta: name must be provided")
    if len(name) > MAX_NAME:
        raise InvalidArgument(f"name must be {MAX_NAME} characters or fewer")
    if not _NAME.fullmatch(name):
        raise InvalidArgument("name must be valid as a DNS name component")


def _validate_mode(spec: ServiceSpec) -> None:
    if spec.replicas is not None and spec.replicas > MAX_REPLICAS:
        raise InvalidArgument(f"Number of replicas must be at most {MAX_REPLICAS}: {spec.replicas}")
    is_negative = spec.replicas is not None and spec.replicas < 0
    if spec.job is None:
        if is_negative:
            raise InvalidArgument(f"Number of replicas must be non-negative: {spec.replicas}")
        return
    if spec.job.max_concurrent is not None and spec.job.max_concurrent < 0:
        raise InvalidArgument("Maximum concurrent jobs must not be negative")
    if is_negative:
        raise InvalidArgument("Total completed jobs must not be negative")
    if spec.endpoint.ports:
        raise InvalidArgument("EndpointSpec.Ports: a job cannot publish ports")


def _validate_task(task: TaskSpec) -> None:
    if not task.container.image:
        raise InvalidArgument("ContainerSpec: image reference must be provided")
    try:
        references.parse(task.container.image)
    except InvalidArgument:
        raise InvalidArgument(
            f'ContainerSpec: "{task.container.image}" is not a valid repository/tag'
        ) from None
    _validate_resources(task.limits)
    _validate_resources(task.reservations)
    _validate_generic(task.reservations)
    for name, value in (("delay", task.restart.delay), ("window", task.restart.window)):
        if value < 0:
            raise InvalidArgument(f"TaskSpec: restart-{name} cannot be negative")
    parse(task.placement.constraints)
    validate_log_driver(task)
    targets = [attachment.target for attachment in task.networks]
    if len(set(targets)) < len(targets):
        raise InvalidArgument("TaskSpec: a network is attached more than once")


def _validate_container(spec: ServiceSpec) -> None:
    """Checks the container of a sample task: the real values of its templates are not known yet."""
    values = task_values(
        ("serviceid", spec.name, spec.labels),
        ("nodeid", "hostname", "os", "arch"),
        ("taskid", "taskname", "1"),
    )
    container = expanded(spec.task.container, values)
    validate_mounts(container.mounts)
    validate_process(container, host_network=spec.task.host_network)
    if container.hostname == spec.task.container.hostname:
        validate_hostname(container.hostname)
    validate_privileges(spec.task.container.privileges)
    if spec.task.container.healthcheck is not None:
        validate_health_check(spec.task.container.healthcheck)


def validate_privileges(privileges: Privileges) -> None:
    is_custom = privileges.seccomp == "custom"
    if is_custom != bool(privileges.seccomp_profile):
        raise InvalidArgument(
            "ContainerSpec: Privileges.Seccomp.Profile has to be given if Mode is custom, and only"
            " then"
        )
    if is_custom:
        try:
            profile_from(privileges.seccomp_profile)
        except InvalidArgument as error:
            raise InvalidArgument(f"ContainerSpec: Privileges.Seccomp.Profile: {error}") from None


def validate_health_check(check: HealthCheck) -> None:
    """A check without a test takes the image's. Docker Swarm accepts an unknown test, which then
    nobody runs, and one without a command, which always fails."""
    durations = {
        "Interval": check.interval,
        "Timeout": check.timeout,
        "StartPeriod": check.start_period,
        "StartInterval": check.start_interval,
    }
    for field, value in durations.items():
        if value and value < SHORTEST:
            raise InvalidArgument(f"ContainerSpec: {field} in HealthConfig cannot be less than 1ms")
    if check.retries < 0:
        raise InvalidArgument("ContainerSpec: Retries in HealthConfig cannot be negative")
    if check.retries > MAX_RETRIES:
        raise InvalidArgument(
            f"ContainerSpec: Retries in HealthConfig cannot be more than {MAX_RETRIES}"
        )
    if any("\0" in word for word in check.test):
        raise InvalidArgument("ContainerSpec: Test in HealthConfig has a NUL in it")
    if check.test and check.test[0] not in KINDS:
        raise InvalidArgument(
            f"ContainerSpec: Test in HealthConfig: Unknown healthcheck type '{clip(check.test[0])}'"
            f" (expected one of {', '.join(KINDS)})"
        )
    if check.is_run and len(check.test) < 2:
        raise InvalidArgument(
            f"ContainerSpec: Test in HealthConfig: {check.test[0]} has no command"
        )


def _validate_resources(resources: Resources) -> None:
    if resources.nano_cpus and resources.nano_cpus < MIN_NANO_CPUS:
        raise InvalidArgument(
            f"invalid cpu value {resources.nano_cpus / 1e9:g}: Must be at least"
            f" {MIN_NANO_CPUS / 1e9:g}"
        )
    if resources.memory and resources.memory < MIN_MEMORY:
        raise InvalidArgument(f"invalid memory value {resources.memory}: Must be at least 4MiB")


def _validate_generic(reservations: Resources) -> None:
    kinds = [resource.kind for resource in reservations.generic]
    for kind in kinds:
        if not is_plain(kind):
            raise InvalidArgument(f"invalid argument for resource {clip(kind)}: not a kind")
        if kinds.count(kind) > 1:
            raise InvalidArgument(f"invalid argument for resource {kind}: it is given twice")


def _validate_update(config: UpdateConfig) -> None:
    for name, value in (("delay", config.delay), ("monitor", config.monitor)):
        if value < 0:
            raise InvalidArgument(f"TaskSpec: update-{name} cannot be negative")
    if not 0 <= config.max_failure_ratio <= 1:
        raise InvalidArgument(
            "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1"
        )


def _validate_endpoint(endpoint: EndpointSpec) -> None:
    seen = set()
    for port in endpoint.ports:
        if not port.target:
            raise InvalidArgument("EndpointSpec.Ports: TargetPort must be between 1 and 65535")
        if endpoint.mode == "dnsrr" and port.mode == "ingress":
            raise InvalidArgument(
                "EndpointSpec: port published with ingress mode can't be used with dnsrr mode"
            )
        key = (port.protocol, port.published)
        if port.published and key in seen:
            raise InvalidArgument("EndpointSpec: duplicate published ports provided")
        seen.add(key)


def _validate_rebalance(spec: ServiceSpec) -> None:
    """A service with placement preferences could only be balanced within each branch."""
    if not labels.moves_at_once(spec.labels):
        return
    cause = ""
    if spec.mode != "replicated":
        cause = f"a service of mode {spec.mode} cannot be rebalanced: use mode replicated"
    elif spec.task.placement.spread:
        cause = "a service with placement preferences cannot be rebalanced: remove one of the two"
    if cause:
        raise labels.refusal(labels.REBALANCE, spec.labels[labels.REBALANCE], cause)


def _validate_affinity(spec: ServiceSpec) -> None:
    """Nobody chooses a task where callers ask for tasks by name."""
    cause = ""
    if spec.endpoint.mode == "dnsrr":
        cause = "with endpoint mode dnsrr callers choose a task themselves: use endpoint mode vip"
    elif spec.task.host_network:
        cause = "callers of a service on the network host choose a host themselves"
    if spec.endpoint.affinity and cause:
        raise labels.refusal(labels.AFFINITY, spec.labels[labels.AFFINITY], cause)


def _validate_publish_addresses(spec: ServiceSpec) -> None:
    label = next((it for it in spec.labels if it.startswith(labels.PUBLISH_ADDRESS)), None)
    if label is not None and spec.task.host_network:
        cause = "a program on the network host chooses itself where it listens"
        raise labels.refusal(label, spec.labels[label], cause)


def _validate_on_host(endpoint: EndpointSpec) -> None:
    """On the host's own network, nothing forwards one port to another. Docker Swarm accepts such
    ports, and then the tasks fail or nothing answers."""
    for port in endpoint.ports:
        if port.mode == "ingress":
            raise InvalidArgument(
                f"EndpointSpec.Ports: port {port.published or port.target} published with ingress"
                " mode can't be used with the network host: publish it with mode=host, or not at"
                " all, since the program listens on the host itself"
            )
        if port.published not in (0, port.target):
            raise InvalidArgument(
                f"EndpointSpec.Ports: target port {port.target} can't be published as"
                f" {port.published} on the network host: the program listens on the host itself"
            )


def _validate_pool(name: str, pool: Pool) -> None:
    refused, subnet = f"cannot create network {name}", pool.subnet
    if not 1 <= subnet.prefixlen <= LONGEST_PREFIX:
        raise InvalidArgument(
            f"{refused}: subnet {subnet}: the prefix must be 1 to {LONGEST_PREFIX} bits long"
        )
    if subnet.is_multicast or subnet.is_loopback:
        raise InvalidArgument(f"{refused}: subnet {subnet} is not a range for hosts")
    if pool.ip_range is not None and not pool.ip_range.subnet_of(subnet):
        raise InvalidArgument(f"{refused}: ip-range {pool.ip_range} is not in subnet {subnet}")
    gateway = {"gateway": pool.gateway} if pool.gateway is not None else {}
    named = gateway | {f"aux-address {label}": address for label, address in pool.reserved.items()}
    for what, address in named.items():
        if address not in subnet or address in (subnet.network_address, subnet.broadcast_address):
            raise InvalidArgument(
                f"{refused}: {what} {address} is not a host address of subnet {subnet}"
            )
    if len(set(named.values())) < len(named):
        raise InvalidArgument(f"{refused}: an address of subnet {subnet} is reserved twice")

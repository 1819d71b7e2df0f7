"""The labels of a service that Weft obeys: wishes for which Docker's API has no field, in a place
that a Compose file can carry (`deploy.labels`). docs/labels.md describes them for users.

Only a service's own labels count, never those of an image or of a container. Labels that concern
the containers become part of the task's specification, so that a change of them replaces tasks.
"""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec

from weft.errors import InvalidArgument, clip
from weft.model.device import Device
from weft.model.numbers import decimal
from weft.model.service import Affinity, PublishedPort, ServiceSpec

PREFIX = "weft."
DEVICES = "weft.devices"
"""`SOURCE[:TARGET][:ACCESS]`, with commas between them; as docker run --device."""
PRIVILEGED = "weft.privileged"
"""`true` or `false`."""
START_AFTER = "weft.start-after"
"""Names of services, with commas between them."""
REBALANCE = "weft.rebalance"
"""`true`, `false`, or how many tasks may move at a time."""
ADDRESS = "weft.address."
"""With the name of a network: the service's virtual address there."""
TASK_ADDRESSES = "weft.task-addresses."
"""With the name of a network: the tasks' addresses there, by slot, with commas between them."""
AFFINITY = "weft.affinity"
"""`client-address`: the connections of a client reach the same task."""
PUBLISH_ADDRESS = "weft.publish-address"
"""The address of hosts at which all ports of the service are published."""
PUBLISH_ADDRESS_OF = f"{PUBLISH_ADDRESS}."
"""With a port such as `8080/tcp`: the address for that port alone."""
KNOWN = (AFFINITY, DEVICES, PRIVILEGED, START_AFTER, REBALANCE, PUBLISH_ADDRESS)
OF_NETWORKS = (ADDRESS, TASK_ADDRESSES)
"""How labels begin that end with the name of a network."""
MAX_DEVICES = 64
MAX_NAMES = 64
"""Most services that one waits for."""
MAX_ADDRESSES = 1000
"""Most addresses of tasks on one network."""
MAX_MOVES = 1000
"""Most tasks of one service that may move at a time."""
_ACCESS = "rwm"
_BOOLEANS = {"true": True, "false": False}


def applied(spec: ServiceSpec) -> ServiceSpec:
    """The specification with what its labels say about its containers. Raises `InvalidArgument`,
    also for a label with the prefix `weft.` that Weft does not know: it may be a typing error."""
    for name in spec.labels:
        is_known = name in KNOWN or network_of(name) or name.startswith(PUBLISH_ADDRESS_OF)
        if name.startswith(PREFIX) and not is_known:
            more = (*(f"{start}NETWORK" for start in OF_NETWORKS), f"{PUBLISH_ADDRESS_OF}PORT")
            known = ", ".join((*KNOWN, *more))
            raise InvalidArgument(f"Labels: {clip(name)} is not a label that Weft knows ({known})")
    start_after(spec.labels)
    container = spec.task.container
    privileges = msgspec.structs.replace(
        container.privileges, privileged=is_privileged(spec.labels)
    )
    container = msgspec.structs.replace(
        container, devices=devices(spec.labels), privileges=privileges
    )
    endpoint = msgspec.structs.replace(
        spec.endpoint,
        affinity=affinity(spec.labels),
        ports=published(spec.labels, spec.endpoint.ports),
    )
    task = msgspec.structs.replace(spec.task, container=container)
    return msgspec.structs.replace(spec, task=task, endpoint=endpoint)


def is_privileged(labels: Mapping[str, str]) -> bool:
    """Raises `InvalidArgument`."""
    text = labels.get(PRIVILEGED, "false")
    if text not in _BOOLEANS:
        raise refusal(PRIVILEGED, text, "must be true or false")
    return _BOOLEANS[text]


def devices(labels: Mapping[str, str]) -> tuple[Device, ...]:
    """In the order of the label. Raises `InvalidArgument`."""
    if DEVICES not in labels:
        return ()
    words = names(labels, DEVICES)
    if len(words) > MAX_DEVICES:
        raise refusal(DEVICES, labels[DEVICES], f"has more than {MAX_DEVICES} devices")
    found = tuple(map(_device, words))
    targets = [device.target for device in found]
    for target in targets:
        if targets.count(target) > 1:
            raise refusal(DEVICES, labels[DEVICES], f"names the target {target} twice")
    return found


def start_after(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The services whose start this one waits for, as the user named them. Raises
    `InvalidArgument`."""
    if START_AFTER not in labels:
        return ()
    found = names(labels, START_AFTER)
    if len(found) > MAX_NAMES:
        raise refusal(START_AFTER, labels[START_AFTER], f"names more than {MAX_NAMES} services")
    return found


def moves_at_once(labels: Mapping[str, str]) -> int:
    """How many tasks may move to emptier nodes at a time; 0: none ever. Raises
    `InvalidArgument`."""
    text = labels.get(REBALANCE, "false")
    if text in _BOOLEANS:
        return int(_BOOLEANS[text])
    moves = decimal(text, MAX_MOVES)
    if not moves:
        raise refusal(REBALANCE, text, f"must be true, false, or a number from 1 to {MAX_MOVES}")
    return moves


def affinity(labels: Mapping[str, str]) -> Affinity:
    """Raises `InvalidArgument`."""
    if AFFINITY not in labels:
        return ""
    if labels[AFFINITY] != "client-address":
        raise refusal(AFFINITY, labels[AFFINITY], "must be client-address")
    return "client-address"


def published(
    labels: Mapping[str, str], ports: Sequence[PublishedPort]
) -> tuple[PublishedPort, ...]:
    """The ports with the addresses of the labels. Raises `InvalidArgument`."""
    everywhere = _host_address(labels, PUBLISH_ADDRESS) if PUBLISH_ADDRESS in labels else None
    if everywhere is not None and not ports:
        raise refusal(PUBLISH_ADDRESS, labels[PUBLISH_ADDRESS], "the service publishes no port")
    single: dict[tuple[str, int], IPv4Address] = {}
    known = {(port.protocol, port.published) for port in ports if port.published}
    for label in sorted(name for name in labels if name.startswith(PUBLISH_ADDRESS_OF)):
        number, _, protocol = label.removeprefix(PUBLISH_ADDRESS_OF).partition("/")
        key = (protocol or "tcp", decimal(number, 65535) or 0)
        if key not in known:
            cause = f"the service publishes no port {clip(number)}/{clip(protocol or 'tcp')}"
            raise refusal(label, labels[label], cause)
        if key in single:
            raise refusal(label, labels[label], "another label is about the same port")
        single[key] = _host_address(labels, label)
    return tuple(
        msgspec.structs.replace(
            port, host_address=single.get((port.protocol, port.published), everywhere)
        )
        for port in ports
    )


def _host_address(labels: Mapping[str, str], label: str) -> IPv4Address:
    address = _address(label, labels[label], "ports are published at IPv4 addresses only")
    if address.is_unspecified:
        cause = "stands for all addresses: leave the label out to publish at all of them"
        raise refusal(label, labels[label], cause)
    if address.is_multicast or address.is_reserved:
        raise refusal(label, labels[label], "is not an address that a host can have")
    return address


def network_of(label: str) -> str:
    """The network that a label names; empty for other labels."""
    return next((label.removeprefix(s) for s in OF_NETWORKS if label.startswith(s)), "")


def addresses(labels: Mapping[str, str], label: str) -> tuple[IPv4Address, ...]:
    """The addresses of a label for a network: one, or as many as it lists. Raises
    `InvalidArgument`."""
    is_list = label.startswith(TASK_ADDRESSES)
    words = names(labels, label) if is_list else (labels[label],)
    if len(words) > MAX_ADDRESSES:
        raise refusal(label, labels[label], f"has more than {MAX_ADDRESSES} addresses")
    found = tuple(_address(label, word, "networks of services have IPv4 only") for word in words)
    for address in found if len(set(found)) < len(found) else ():
        if found.count(address) > 1:
            raise refusal(label, labels[label], f"names {address} twice")
    return found


def _address(label: str, word: str, only_ipv4: str) -> IPv4Address:
    try:
        address = ip_address(word)
    except ValueError:
        raise refusal(label, word, "must be an IPv4 address such as 10.0.1.50") from None
    if isinstance(address, IPv6Address):
        raise refusal(label, word, f"is an IPv6 address: {only_ipv4}")
    return address


def names(labels: Mapping[str, str], label: str) -> tuple[str, ...]:
    """The words of a label that is a list with commas. Raises `InvalidArgument` for an empty
    one."""
    words = tuple(word.strip() for word in labels[label].split(","))
    if not all(words):
        raise refusal(label, labels[label], "must be a list with commas, without empty words")
    return words


def _device(word: str) -> Device:
    source, *rest = word.split(":")
    access = rest.pop() if rest and _is_access(rest[-1]) else _ACCESS
    if len(rest) > 1 or (rest and not rest[0].startswith("/")):
        raise refusal(DEVICES, word, "must be SOURCE[:TARGET][:ACCESS], ACCESS of r, w and m")
    target = rest[0] if rest else source
    for path in (source, target):
        if not _is_plain(path):
            raise refusal(DEVICES, word, f"{clip(path)!r} is not an absolute path without . and ..")
    return Device(source=source, target=target, access=access)


def _is_access(text: str) -> bool:
    """Docker's `ValidDeviceMode`: each letter at most once."""
    return bool(text) and set(text) <= set(_ACCESS) and len(set(text)) == len(text)


def _is_plain(path: str) -> bool:
    root, *parts = path.split("/")
    return not root and "\0" not in path and all(part not in ("", ".", "..") for part in parts)


def refusal(label: str, value: str, cause: str) -> InvalidArgument:
    """The error for a label with such a value."""
    return InvalidArgument(f"Labels: {clip(label)}={clip(value)}: {cause}")

"""The parts of a container's configuration that are templates, and the values that they may use."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

from weft.errors import InvalidArgument
from weft.model.mount import VolumeOptions
from weft.model.service import ContainerSpec, Mount
from weft.model.template import MOST_TEMPLATES, Scope, Template


def expanded(container: ContainerSpec, values: Scope) -> ContainerSpec:
    """Expands values of environment variables, the hostname, sources and targets of mounts, and
    the labels and driver options of volumes.
    Raises `InvalidArgument` with Docker Swarm's words for the failing part."""
    number = sum("{{" in text for text in _templates(container))
    if number > MOST_TEMPLATES:
        raise InvalidArgument(f"cannot expand templates: {number} are more than {MOST_TEMPLATES}")

    def filled(what: str, text: str) -> str:
        if "{{" not in text:
            return text
        try:
            return Template(text).expand(values)
        except InvalidArgument as error:
            raise InvalidArgument(f"expanding {what} failed: {error}") from error

    def variable(text: str) -> str:
        name, equals, value = text.partition("=")
        return f"{name}{equals}{filled('env', value)}"

    def mount(mount: Mount) -> Mount:
        return msgspec.structs.replace(
            mount,
            source=filled("mounts", mount.source),
            target=filled("mounts", mount.target),
            volume=mount.volume and volume(mount.volume),
        )

    def volume(options: VolumeOptions) -> VolumeOptions:
        driver = options.driver and msgspec.structs.replace(
            options.driver, options=values_of(options.driver.options)
        )
        return msgspec.structs.replace(options, labels=values_of(options.labels), driver=driver)

    def values_of(texts: Mapping[str, str]) -> dict[str, str]:
        return {name: filled("mounts", text) for name, text in texts.items()}

    mounts = tuple(map(mount, container.mounts))
    env, hostname = tuple(map(variable, container.env)), filled("hostname", container.hostname)
    return msgspec.structs.replace(container, env=env, hostname=hostname, mounts=mounts)


def _templates(container: ContainerSpec) -> Iterable[str]:
    return (
        *container.env,
        container.hostname,
        *(text for mount in container.mounts for text in _texts(mount)),
    )


def _texts(mount: Mount) -> Iterable[str]:
    yield from (mount.source, mount.target)
    if mount.volume is not None:
        yield from mount.volume.labels.values()
        yield from mount.volume.driver.options.values() if mount.volume.driver else ()


def task_values(
    service: tuple[str, str, Mapping[str, str]],
    node: tuple[str, str, str, str],
    task: tuple[str, str, str],
) -> Scope:
    """The values that templates may use. `service`: id, name, labels; `node`: id, hostname,
    operating system, architecture; `task`: id, name, slot."""
    platform = MappingProxyType({"Architecture": node[3], "OS": node[2]})
    return MappingProxyType({
        "Service": MappingProxyType({"ID": service[0], "Name": service[1], "Labels": dict(service[2])}),
        "Node": MappingProxyType({"ID": node[0], "Hostname": node[1], "Platform": platform}),
        "Task": MappingProxyType({"ID": task[0], "Name": task[1], "Slot": task[2]}),
    })  # fmt: skip

"""Where a plain container runs or is about to run, as the engine knows it now."""

from collections.abc import Iterable

import msgspec

from weft.engine.container_config import HOST_GATEWAY
from weft.engine.engine import Engine
from weft.engine.plain_config import Place
from weft.errors import NotFound
from weft.model.addresses import Port, Protocol
from weft.model.container import ContainerConfig
from weft.model.local_sandbox import LocalSandbox
from weft.model.plain_container import PlainContainer


def place_of(engine: Engine, config: ContainerConfig, hostname: str) -> Place:
    """`hostname`: the host's."""
    plain = config.plain or PlainContainer()
    place = Place(host=engine.host(hostname), containers=engine.containers)
    needs_gateway = any(HOST_GATEWAY in line for line in config.spec.hosts)
    if needs_gateway and plain.modes.network != "host":
        gateway = engine.local.host_address(config.id)
        place = msgspec.structs.replace(place, gateway=gateway)
    sandbox = engine.local.sandbox(config.id)
    if sandbox is None:
        return place
    return msgspec.structs.replace(
        place,
        sandbox=sandbox.id,
        namespace=sandbox.key,
        addresses=sandbox.own_addresses,
        has_names=engine.local.has_names(config.id),
    )


def exposed_ports(engine: Engine, config: ContainerConfig) -> tuple[tuple[Port, Protocol], ...]:
    """By the image, which may be gone."""
    try:
        return engine.images.find(config.spec.image).config.exposed_ports
    except NotFound:
        return ()


def named(places: Iterable[LocalSandbox], reference: str) -> LocalSandbox | None:
    """The only one whose container has this name or id, or else an id that begins so."""
    known = list(places)
    found = [place for place in known if reference in (place.name, place.container)]
    found = found or [place for place in known if place.container.startswith(reference)]
    return found[0] if len(found) == 1 else None

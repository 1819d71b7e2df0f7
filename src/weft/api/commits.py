"""Images made from containers: `docker commit`."""

from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from weft.api.call import Call, answer
from weft.api.container_lookup import find_container
from weft.api.images import new_tag
from weft.api.schema.decoding import is_zero
from weft.errors import InvalidArgument, Unsupported
from weft.model.container import Container, ImageConfig, NewImage
from weft.model.image_changes import changed


async def commit(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.query("container"))
    base = call.node.images.find(container.image)
    await _check_body(call)
    name = new_tag(call) if call.query("repo") else ""
    new = NewImage(
        task=f"commit container {container.config.name}",
        base=base,
        config=changed(config_of(container, base.config), call.request.query.getall("changes", [])),
        author=call.query("author"),
        comment=call.query("comment"),
        created_by=" ".join(container.args),
        name=name,
    )
    async with aclosing(call.node.inside.layer(container.id)) as layer:
        image = await call.node.image_exchange.make(new, layer)
    call.node.tell("commit", container, comment=new.comment, imageID=image.id, imageRef=name)
    return answer({"Id": image.id}, 201)


async def _check_body(call: Call) -> None:
    """Clients may send a container's configuration, in which the docker command sends nothing.
    Raises `Unsupported` if it says anything."""
    raw = await call.request.read()
    try:
        body = msgspec.json.decode(raw, type=dict[str, Any] | None) if raw.strip() else None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error
    for name, value in (body or {}).items():
        if not is_zero(value):
            raise Unsupported(f"{name} of a commit is not supported by Weft: use changes")


def config_of(container: Container, image: ImageConfig) -> ImageConfig:
    """What the container runs, as an image says it. A command in place of the image's makes the
    image's arguments void, as when the container was made."""
    spec = container.config.spec
    return ImageConfig(
        entrypoint=spec.command or image.entrypoint,
        cmd=spec.args or (() if spec.command else image.cmd),
        env=container.env or image.env,
        working_dir=spec.dir or image.working_dir,
        user=spec.user or image.user,
        labels={**image.labels, **container.config.labels},
        exposed_ports=image.exposed_ports,
        volumes=image.volumes,
        stop_signal=spec.stop_signal or image.stop_signal,
        healthcheck=container.healthcheck or image.healthcheck,
        shell=image.shell,
    )

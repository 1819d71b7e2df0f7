"""Images made from containers: `docker commit`. The container's processes stand still meanwhile, so
that no file is half old and half new, unless the user wants them to go on."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, nullcontext, suppress
from typing import Any

import msgspec
from aiohttp import web

from weft.api.call import Call, answer
from weft.api.container_lookup import find_container
from weft.api.images import new_tag
from weft.api.schema.decoding import is_zero
from weft.errors import Conflict, InvalidArgument, NotFound, OperationFailed, Unsupported
from weft.model.container import Container, ContainerState, ImageConfig, NewImage
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
    goes_on = "pause" in call.request.query and not call.flag("pause")
    async with (
        nullcontext() if goes_on else _paused(call, container),
        aclosing(call.node.inside.layer(container.id)) as layer,
    ):
        image = await call.node.image_exchange.make(new, layer)
        call.node.tell("commit", container, comment=new.comment, imageID=image.id, imageRef=name)
    return answer({"Id": image.id}, 201)


@asynccontextmanager
async def _paused(call: Call, container: Container) -> AsyncIterator[None]:
    """Pauses the container. One that does not run, or was paused before, is left as it is; one that
    ended meanwhile is no error."""
    runtime = call.node.containers
    if container.paused or container.state is not ContainerState.RUNNING:
        yield
        return
    with suppress(Conflict, OperationFailed):
        call.node.tell("pause", await runtime.pause(container.id))
    try:
        yield
    finally:
        with suppress(NotFound):
            if runtime.get(container.id).paused:
                call.node.tell("unpause", await runtime.unpause(container.id))


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

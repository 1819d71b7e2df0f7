"""The table of all requests that the API answers. Each route is also available under `/v1.NN`.

`{id}` is a name or an id, `{id:.+}` one that may contain slashes. The first matching route counts.
"""

from collections.abc import Iterator

from weft.api import (
    archives,
    captures,
    commits,
    container_streams,
    containers,
    data,
    disk_usage,
    doctor,
    events,
    exec,
    image_exchange,
    images,
    keys,
    looks,
    metrics,
    networks,
    nodes,
    plain_containers,
    registry_auth,
    service_logs,
    services,
    stats,
    swarm,
    system,
    tasks,
    traces,
    volumes,
)
from weft.api.call import Handler
from weft.api.unsupported import BUILDKIT, empty, missing, refuse

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    # the node
    ("HEAD", "/_ping", system.ping),
    ("GET", "/_ping", system.ping),
    ("GET", "/version", system.version),
    ("GET", "/info", system.info),
    ("GET", "/events", events.stream),
    ("GET", "/system/df", disk_usage.show),
    ("POST", "/auth", registry_auth.log_in),
    # containers
    ("GET", "/containers/json", containers.listing),
    ("POST", "/containers/create", plain_containers.create),
    ("POST", "/containers/prune", plain_containers.prune),
    ("GET", "/containers/{id}/json", containers.inspect),
    ("GET", "/containers/{id}/logs", container_streams.logs),
    ("GET", "/containers/{id}/top", containers.top),
    ("GET", "/containers/{id}/stats", stats.stats),
    ("GET", "/containers/{id}/changes", archives.changes),
    ("GET", "/containers/{id}/export", archives.export),
    ("HEAD", "/containers/{id}/archive", archives.stat),
    ("GET", "/containers/{id}/archive", archives.read),
    ("PUT", "/containers/{id}/archive", archives.write),
    ("GET", "/containers/{id}/attach/ws", refuse("attaching by WebSocket")),
    ("POST", "/containers/{id}/attach", container_streams.attach),
    ("POST", "/containers/{id}/resize", containers.resize),
    ("POST", "/containers/{id}/wait", containers.wait),
    ("POST", "/containers/{id}/start", plain_containers.start),
    ("POST", "/containers/{id}/stop", containers.stop),
    ("POST", "/containers/{id}/restart", plain_containers.restart),
    ("POST", "/containers/{id}/kill", containers.kill),
    ("POST", "/containers/{id}/pause", plain_containers.pause),
    ("POST", "/containers/{id}/unpause", plain_containers.unpause),
    ("POST", "/containers/{id}/rename", plain_containers.rename),
    ("POST", "/containers/{id}/update", plain_containers.update),
    ("DELETE", "/containers/{id}", containers.remove),
    ("POST", "/containers/{id}/exec", exec.create),
    ("GET", "/exec/{id}/json", exec.inspect),
    ("POST", "/exec/{id}/start", exec.start),
    ("POST", "/exec/{id}/resize", exec.resize),
    # images
    ("GET", "/images/json", images.listing),
    ("GET", "/images/search", refuse("searching for images")),
    ("GET", "/images/get", image_exchange.save_several),
    ("POST", "/images/create", images.pull),
    ("POST", "/images/load", images.load),
    ("POST", "/images/prune", images.prune),
    ("GET", "/images/{id:.+}/json", images.inspect),
    ("GET", "/images/{id:.+}/history", image_exchange.history),
    ("GET", "/images/{id:.+}/get", image_exchange.save_one),
    ("POST", "/images/{id:.+}/tag", images.tag),
    ("POST", "/images/{id:.+}/push", image_exchange.push),
    ("DELETE", "/images/{id:.+}", images.remove),
    ("GET", "/distribution/{id:.+}/json", images.distribution),
    ("POST", "/build", refuse("building images", BUILDKIT)),
    ("POST", "/build/prune", refuse("building images")),
    ("POST", "/build/cancel", refuse("building images")),
    ("POST", "/commit", commits.commit),
    ("POST", "/session", refuse("building images by the daemon", BUILDKIT)),
    ("POST", "/grpc", refuse("building images by the daemon", BUILDKIT)),
    # networks
    ("GET", "/networks", networks.listing),
    ("POST", "/networks/create", networks.create),
    ("POST", "/networks/prune", networks.prune),
    ("GET", "/networks/{id}", networks.inspect),
    ("DELETE", "/networks/{id}", networks.remove),
    ("POST", "/networks/{id}/connect", networks.connect),
    ("POST", "/networks/{id}/disconnect", networks.disconnect),
    # the swarm
    ("GET", "/swarm", swarm.inspect),
    ("POST", "/swarm/init", swarm.init),
    ("POST", "/swarm/join", swarm.join),
    ("POST", "/swarm/leave", swarm.leave),
    ("POST", "/swarm/update", swarm.update),
    ("GET", "/swarm/unlockkey", swarm.unlock_key),
    ("POST", "/swarm/unlock", swarm.unlock),
    ("GET", "/services", services.listing),
    ("POST", "/services/create", services.create),
    ("GET", "/services/{id}", services.inspect),
    ("POST", "/services/{id}/update", services.update),
    ("DELETE", "/services/{id}", services.remove),
    ("GET", "/services/{id}/logs", service_logs.of_service),
    ("GET", "/tasks", tasks.listing),
    ("GET", "/tasks/{id}", tasks.inspect),
    ("GET", "/tasks/{id}/logs", service_logs.of_task),
    ("GET", "/nodes", nodes.listing),
    ("GET", "/nodes/{id}", nodes.inspect),
    ("POST", "/nodes/{id}/update", nodes.update),
    ("DELETE", "/nodes/{id}", nodes.remove),
    ("GET", "/secrets", data.listing("secret")),
    ("POST", "/secrets/create", data.create("secret")),
    ("GET", "/secrets/{id}", data.inspect("secret")),
    ("POST", "/secrets/{id}/update", data.update("secret")),
    ("DELETE", "/secrets/{id}", data.remove("secret")),
    ("GET", "/configs", data.listing("config")),
    ("POST", "/configs/create", data.create("config")),
    ("GET", "/configs/{id}", data.inspect("config")),
    ("POST", "/configs/{id}/update", data.update("config")),
    ("DELETE", "/configs/{id}", data.remove("config")),
    # volumes
    ("GET", "/volumes", volumes.listing),
    ("POST", "/volumes/create", volumes.create),
    ("POST", "/volumes/prune", volumes.prune),
    ("GET", "/volumes/{id}", volumes.inspect),
    ("PUT", "/volumes/{id}", volumes.update),
    ("DELETE", "/volumes/{id}", volumes.remove),
    # what Docker Swarm has no command for
    ("GET", "/metrics", metrics.show),
    ("GET", "/weft/doctor", doctor.examine),
    ("POST", "/weft/doctor/repair", doctor.repair),
    ("GET", "/weft/keys", keys.inspect),
    ("POST", "/weft/keys/rotate", keys.rotate),
    ("POST", "/weft/keys/update", keys.update),
    ("POST", "/weft/capture", captures.capture),
    ("POST", "/weft/trace", traces.trace),
    ("POST", "/weft/flows", looks.flows),
    ("POST", "/weft/top", looks.top),
    ("GET", "/plugins", empty([])),
    ("GET", "/plugins/privileges", refuse("installing plugins")),
    ("POST", "/plugins/pull", refuse("installing plugins")),
    ("POST", "/plugins/create", refuse("creating plugins")),
    ("GET", "/plugins/{id:.+}/json", missing('plugin "{}" not found')),
    ("DELETE", "/plugins/{id:.+}", missing('plugin "{}" not found')),
    ("POST", "/plugins/{id:.+}/enable", missing('plugin "{}" not found')),
    ("POST", "/plugins/{id:.+}/disable", missing('plugin "{}" not found')),
)


INTERRUPTIBLE: frozenset[Handler] = frozenset(
    (
        images.pull,
        images.load,
        image_exchange.push,
        containers.wait,
        exec.start,
        container_streams.attach,
        archives.write,
        captures.capture,
        traces.trace,
        looks.flows,
        looks.top,
    )
)
"""Requests other than GET that end when their client disconnects. All other requests that are not
GET run to their end, so that no change stays half done."""


VERSIONED = "/v{version:[0-9.]+}"
"""Prefix of a path whose request names a version of the API."""
SHARED = (
    "/configs",
    "/networks",
    "/nodes",
    "/secrets",
    "/services",
    "/swarm",
    "/tasks",
    "/weft/capture",
    "/weft/flows",
    "/weft/keys",
    "/weft/top",
    "/weft/trace",
)
"""Answers under these paths come from the state that all managers share."""


def is_shared(path: str) -> bool:
    return any(path == start or path.startswith(start + "/") for start in SHARED)


def paths() -> Iterator[tuple[str, str, Handler]]:
    """Each route, with and without the version prefix."""
    for method, path, handler in ROUTES:
        yield method, path, handler
        yield method, VERSIONED + path, handler

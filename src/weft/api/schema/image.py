"""Images: the JSON of `list` and `inspect`."""

from collections import Counter
from collections.abc import Mapping

from weft.api.schema.common import Json, rfc3339
from weft.api.schema.healthcheck import health_check_json
from weft.model.container import Image, ImageConfig
from weft.model.meta import SECOND
from weft.model.registry import Distribution
from weft.runtime.base import Images


def image_summary_json(image: Image, containers: int, shared: int = -1) -> Json:
    """`containers`: number of containers made from the image. `shared`: bytes of its layers that
    other images have, too; -1: not asked for."""
    return {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": list(image.tags) or (None if image.digests else []),
        "RepoDigests": list(image.digests),
        "Created": image.created // SECOND,
        "Size": image.size,
        "SharedSize": shared,
        "Labels": image.config.labels or None,
        "Containers": containers,
    }


def shared_sizes(images: Images, sizes: Mapping[str, int]) -> dict[str, int]:
    """For each image, by id, the bytes of its layers that other images have, too. `sizes`: of each
    layer."""
    found = images.all()
    users = Counter(digest for image in found for digest in set(image.layers))
    return {
        image.id: sum(sizes.get(digest, 0) for digest in set(image.layers) if users[digest] > 1)
        for image in found
    }


def image_json(image: Image) -> Json:
    return {
        "Id": image.id,
        "RepoTags": list(image.tags),
        "RepoDigests": list(image.digests),
        "Parent": "",
        "Comment": "",
        "Created": rfc3339(image.created),
        "DockerVersion": "",
        "Author": image.author,
        "Config": _config_json(image.config),
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size,
        "GraphDriver": {"Data": None, "Name": "overlay2"},
        "RootFS": {"Type": "layers", "Layers": list(image.layers)},
        "Metadata": {"LastTagTime": rfc3339(0)},
    }


def distribution_json(found: Distribution) -> Json:
    return {
        "Descriptor": {
            "mediaType": found.media_type,
            "digest": found.digest,
            "size": found.size,
        },
        "Platforms": [
            {"architecture": architecture, "os": os, **({"variant": variant} if variant else {})}
            for architecture, os, variant in found.platforms
        ],
    }


def exposed_json(config: ImageConfig) -> Json | None:
    return {f"{port}/{protocol}": {} for port, protocol in config.exposed_ports} or None


def _config_json(config: ImageConfig) -> Json:
    return {
        "User": config.user,
        **({"ExposedPorts": exposed_json(config)} if config.exposed_ports else {}),
        "Env": list(config.env),
        "Cmd": list(config.cmd) or None,
        "Volumes": {volume: {} for volume in config.volumes} or None,
        "WorkingDir": config.working_dir,
        "Entrypoint": list(config.entrypoint) or None,
        "OnBuild": None,
        "Labels": config.labels or None,
        **({"StopSignal": config.stop_signal} if config.stop_signal else {}),
        **(
            {"Healthcheck": health_check_json(config.healthcheck)}
            if config.healthcheck is not None
            else {}
        ),
        **({"Shell": list(config.shell)} if config.shell else {}),
    }

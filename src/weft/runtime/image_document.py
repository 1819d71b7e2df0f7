"""Writes the OCI image configuration of an image that is made here: from a tar, or from a container.
Fields of the base image's configuration that Weft does not know stay as they are."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from weft.model.container import Image, ImageConfig, NewImage
from weft.model.health import HealthCheck
from weft.model.meta import SECOND, Nanoseconds
from weft.runtime.image_config import decode_document


def encode_image(new: NewImage, layer: str, architecture: str, now: Nanoseconds) -> bytes:
    """`layer`: digest of the new layer; empty if nothing was added. Raises `Malformed` if the base
    image's configuration cannot be read."""
    base = _fields(new.base)
    moment = _rfc3339(now)
    layers = [*(new.base.layers if new.base else ()), *([layer] if layer else [])]
    step = {
        "created": moment, "created_by": new.created_by, "author": new.author,
        "comment": new.comment, "empty_layer": not layer,
    }  # fmt: skip
    document = {
        **base,
        "architecture": base.get("architecture") or architecture,
        "os": "linux",
        "created": moment,
        **({"author": new.author} if new.author else {}),
        "config": _config({**(base.get("config") or {})}, new.config),
        "rootfs": {"type": "layers", "diff_ids": layers},
        "history": [
            *(base.get("history") or ()),
            {key: value for key, value in step.items() if value},
        ],
    }
    return msgspec.json.encode(document)


def _fields(image: Image | None) -> dict[str, Any]:
    """Without those that describe how and from which container the base image was made."""
    if image is None:
        return {}
    fields = decode_document(image.id, image.document, dict[str, Any])
    gone = ("container", "container_config", "docker_version", "id", "parent")
    return {key: value for key, value in fields.items() if key.lower() not in gone}


def _config(fields: dict[str, Any], config: ImageConfig) -> dict[str, Any]:
    """`fields`: the base image's."""
    ours: dict[str, Any] = {
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "Env": list(config.env),
        "WorkingDir": config.working_dir,
        "User": config.user,
        "Labels": config.labels,
        "ExposedPorts": {f"{port}/{protocol}": {} for port, protocol in config.exposed_ports},
        "Volumes": {volume: {} for volume in config.volumes},
        "StopSignal": config.stop_signal,
        "Healthcheck": _health_check(config.healthcheck),
        "Shell": list(config.shell),
    }
    known = {key.lower() for key in ours}
    others = {key: value for key, value in fields.items() if key.lower() not in known}
    return {**others, **{key: value for key, value in ours.items() if value}}


def _health_check(check: HealthCheck | None) -> dict[str, Any]:
    if check is None:
        return {}
    fields = {
        "Test": list(check.test),
        "Interval": check.interval,
        "Timeout": check.timeout,
        "StartPeriod": check.start_period,
        "StartInterval": check.start_interval,
        "Retries": check.retries,
    }
    return {key: value for key, value in fields.items() if value}


def _rfc3339(moment: Nanoseconds) -> str:
    seconds, rest = divmod(moment, SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"

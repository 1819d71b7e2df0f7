"""Secrets and configs as JSON. The data of a secret is in no answer."""

import base64
from typing import ClassVar

from msgspec import field

from weft.api.schema.common import Json, Wire, omit_empty, rfc3339
from weft.model.secret import Config, Secret


class DriverWire(Wire, frozen=True):
    """Of a secret that is kept elsewhere. Refused by its name, whatever its options."""

    name: str = ""
    options: dict[str, str] = field(default_factory=dict)


class TemplatingWire(Wire, frozen=True):
    lacks: ClassVar[tuple[str, ...]] = ("Options",)

    name: str = ""


class DataWire(Wire, frozen=True):
    """The spec of a secret or config."""

    confidential: ClassVar[bool] = True

    name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    """Base64 in the JSON."""
    driver: DriverWire | None = None
    templating: TemplatingWire | None = None

    def __repr__(self) -> str:
        return f"DataWire({self.name})"


def data_json(found: Secret | Config) -> Json:
    spec: Json = {"Name": found.spec.name, "Labels": found.spec.labels}
    if isinstance(found, Config):
        spec["Data"] = base64.b64encode(found.data).decode()
    return {
        "ID": found.id,
        "Version": {"Index": found.meta.version},
        "CreatedAt": rfc3339(found.meta.created_at),
        "UpdatedAt": rfc3339(found.meta.updated_at),
        "Spec": spec
        | omit_empty({"Templating": {"Name": "golang"} if found.spec.templated else {}}),
    }

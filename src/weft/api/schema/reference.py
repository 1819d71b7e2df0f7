"""References of a service's container to secrets and configs."""

from typing import Annotated, ClassVar

from msgspec import Meta, field

from weft.api.schema.common import Json, Wire
from weft.errors import InvalidArgument, clip
from weft.model.numbers import decimal
from weft.model.secret import DataKind, DataReference

LAST_OWNER = 2**32 - 2
"""The last number of a user or group; the kernel means "unchanged" by the next one."""
Mode = Annotated[int, Meta(ge=0, le=2**32 - 1)]
"""Go's `os.FileMode`."""


class FileWire(Wire, frozen=True):
    name: str = ""
    uid: str = field(name="UID", default="")
    gid: str = field(name="GID", default="")
    mode: Mode = 0o444


class SecretWire(Wire, frozen=True):
    file: FileWire | None = None
    id: str = field(name="SecretID", default="")
    name: str = field(name="SecretName", default="")


class ConfigWire(Wire, frozen=True):
    lacks: ClassVar[tuple[str, ...]] = ("Runtime",)

    file: FileWire | None = None
    id: str = field(name="ConfigID", default="")
    name: str = field(name="ConfigName", default="")


def reference_from(kind: DataKind, wire: SecretWire | ConfigWire, path: str) -> DataReference:
    """`path`: of the reference in the request. Raises `InvalidArgument`."""
    if wire.file is None:
        raise InvalidArgument(
            "rpc error: code = InvalidArgument desc = malformed"
            f" {kind} reference, no target provided"
        )
    owner = []
    for name, text in (("UID", wire.file.uid), ("GID", wire.file.gid)):
        number = decimal(text or "0", LAST_OWNER)
        if number is None:
            raise InvalidArgument(
                f"{path}.File.{name}: {clip(text)!r} is not the number of an owner"
            )
        owner.append(number)
    return DataReference(
        id=wire.id,
        name=wire.name,
        target=wire.file.name,
        uid=owner[0],
        gid=owner[1],
        mode=wire.file.mode,
    )


def reference_json(prefix: str, reference: DataReference) -> Json:
    """`prefix`: `Secret` or `Config`."""
    file = {
        "Name": reference.target,
        "UID": str(reference.uid),
        "GID": str(reference.gid),
        "Mode": reference.mode,
    }
    return {"File": file, f"{prefix}ID": reference.id, f"{prefix}Name": reference.name}

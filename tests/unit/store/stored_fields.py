"""All that a store's objects are made of: each type with its fields, and each field's type; each
enumeration with its values. `python -m tests.unit.store.stored_fields` prints it."""

import enum
import json
from typing import Any

import msgspec

from weft.model.state import TYPES


def stored_fields() -> dict[str, Any]:
    """By the name of the type. The value of a field is its type in words."""
    found: dict[str, Any] = {}
    waiting: list[Any] = [msgspec.inspect.type_info(type_) for type_ in TYPES.values()]
    while waiting:
        info = waiting.pop()
        if isinstance(info, msgspec.inspect.StructType) and info.cls.__name__ not in found:
            fields = {field.encode_name: _words(field.type) for field in info.fields}
            found[info.cls.__name__] = fields
            waiting += [field.type for field in info.fields]
        elif isinstance(info, msgspec.inspect.EnumType):
            found[info.cls.__name__] = sorted(_value(each) for each in info.cls)
        else:
            waiting += _parts(info)
    return dict(sorted(found.items()))


def _value(member: enum.Enum) -> str:
    return str(member.value)


def _parts(info: Any) -> list[Any]:
    """The types that a container or a union consists of."""
    named = (getattr(info, name, None) for name in ("item_type", "key_type", "value_type"))
    several = (getattr(info, name, None) or () for name in ("types", "item_types"))
    return [part for part in named if part is not None] + [p for parts in several for p in parts]


def _words(info: Any) -> str:
    name = type(info).__name__.removesuffix("Type")
    if isinstance(info, msgspec.inspect.LiteralType):
        return f"{name}{sorted(map(str, info.values))}"
    if isinstance(
        info, msgspec.inspect.StructType | msgspec.inspect.EnumType | msgspec.inspect.CustomType
    ):
        return info.cls.__name__
    parts = [_words(part) for part in _parts(info)]
    return f"{name}[{', '.join(parts)}]" if parts else name


if __name__ == "__main__":
    print(json.dumps(stored_fields(), indent=1))

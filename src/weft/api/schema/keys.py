"""The keys of encrypted networks as JSON: the existing keys and their age, the lifetime of a key,
and the length of new keys."""

from typing import Literal, cast

import msgspec

from weft.api.schema.common import Count, Wire, rfc3339
from weft.control.keys import SHORTEST_PERIOD
from weft.errors import InvalidArgument
from weft.model.cluster import Cluster, ClusterSpec
from weft.model.encryption import sending_key


class KeysWire(Wire, frozen=True):
    """A field that is 0 leaves the setting as it is."""

    every: Count = 0
    """Nanoseconds."""
    bits: Count = 0


def spec_from(wire: KeysWire, spec: ClusterSpec) -> ClusterSpec:
    if wire.bits not in (0, 128, 256):
        raise InvalidArgument(f"cannot update keys: Bits: {wire.bits} is neither 128 nor 256")
    if wire.every and wire.every < SHORTEST_PERIOD:
        raise InvalidArgument(
            f"cannot update keys: Every: {wire.every} ns is shorter than {SHORTEST_PERIOD} ns"
        )
    bits = cast(Literal[128, 256], wire.bits or spec.key_bits)
    return msgspec.structs.replace(
        spec, key_rotation=wire.every or spec.key_rotation, key_bits=bits
    )


def keys_json(cluster: Cluster) -> dict[str, object]:
    sending = sending_key(cluster.data_keys)
    return {
        "Every": cluster.spec.key_rotation,
        "Bits": cluster.spec.key_bits,
        "Keys": [
            {
                "Tag": key.tag,
                "CreatedAt": rfc3339(key.created_at),
                "Bits": 8 * len(key.secret),
                "Sending": key == sending,
            }
            for key in cluster.data_keys
        ],
    }

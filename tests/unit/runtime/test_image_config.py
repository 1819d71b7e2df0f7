"""The image configuration: what is taken from it. What is refused: tests/hostile."""

import json
from contextlib import suppress
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from weft.model.container import Image
from weft.model.health import HealthCheck
from weft.runtime.image_config import decode_image
from weft.runtime.malformed import Malformed

LAYERS = [f"sha256:{number:064x}" for number in range(3)]


def test_a_configuration_is_read() -> None:
    image = decode_image("c.json", json.dumps({
        "architecture": "arm64", "os": "linux", "author": "me", "created": "2024-01-02T03:04:05.5Z",
        "rootfs": {"type": "layers", "diff_ids": LAYERS}, "history": [{"x": 1}],
        "config": {
            "Entrypoint": "/sh", "Cmd": ["a", "b"], "Env": ["A=b"], "WorkingDir": "/w",
            "User": "7:8", "Labels": {"a": ""}, "ExposedPorts": {"80": {}, "53/UDP": {}}, "Volumes": {"/v": {}},
            "StopSignal": "SIGINT", "Healthcheck": {"Test": ["CMD", "x"]}, "Unknown": 5,
        },
    }).encode())  # fmt: skip
    assert (image.architecture, image.author, image.layers) == ("arm64", "me", tuple(LAYERS))
    assert image.created == 1_704_164_645_500_000_000
    run = image.config
    assert (run.entrypoint, run.cmd, run.env) == (("/sh",), ("a", "b"), ("A=b",))
    assert (run.working_dir, run.user, run.labels) == ("/w", "7:8", {"a": ""})
    assert (run.exposed_ports, run.volumes) == (((80, "tcp"), (53, "udp")), ("/v",))
    assert (run.stop_signal, run.healthcheck) == ("SIGINT", HealthCheck(test=("CMD", "x")))


def test_nulls_say_nothing() -> None:
    fields = ("Entrypoint", "Cmd", "Env", "WorkingDir", "User", "Labels", "ExposedPorts", "Volumes")
    full = {"rootfs": {"diff_ids": None}, "created": None, "config": dict.fromkeys(fields)}
    least = decode_image("c", b'{"rootfs":{}}')
    assert decode_image("c", json.dumps(full).encode()).config == least.config
    assert (least.architecture, least.os, least.created) == ("amd64", "linux", 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["architecture", "os", "created", "author", "rootfs"]), JSON),
    st.dictionaries(st.sampled_from(["Cmd", "Env", "Labels", "User", "ExposedPorts"]), JSON),
)
def test_whatever_it_says_it_is_an_image_or_refused(
    top: dict[str, Any], run: dict[str, Any]
) -> None:
    document = {"rootfs": {"diff_ids": LAYERS}, "config": run} | top
    with suppress(Malformed):
        image = decode_image("c.json", json.dumps(document).encode())
        assert msgspec.json.decode(msgspec.json.encode(image), type=Image) == image

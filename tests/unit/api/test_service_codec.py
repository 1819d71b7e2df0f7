"""Service specs: JSON -> model -> JSON, against what a real swarm printed and for any spec at
all."""

import json
from itertools import starmap
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.api.schema.common import encode
from weft.api.schema.decoding import decode
from weft.api.schema.service import spec_from, spec_json
from weft.api.schema.service_wire import ServiceWire
from weft.errors import InvalidArgument, NotFound, Unsupported
from weft.model.generic import GenericResource
from weft.model.ids import NetworkId
from weft.model.mount import BindOptions, VolumeDriver, VolumeOptions
from weft.model.privileges import Privileges
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    Mount,
    NetworkAttachmentSpec,
    Placement,
    PublishedPort,
    Resources,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    Ulimit,
    UpdateConfig,
)

RECORDED = Path(__file__).parent / "recorded"
IMAGE = {"ContainerSpec": {"Image": "busybox"}}


def resolve(reference: str) -> NetworkId | None:
    if reference == "nowhere":
        raise NotFound("network nowhere not found")
    return None if reference == "host" else NetworkId(reference)


def read(value: Any) -> ServiceSpec:
    return spec_from(decode(encode(value), ServiceWire), resolve)


def test_a_recorded_spec_comes_back_as_it_was() -> None:
    recorded = json.loads((RECORDED / "service-inspect.json").read_text())[0]["Spec"]
    spec = read(recorded)
    assert spec.replicas == 3
    assert spec.endpoint.ports == (PublishedPort(80, 8080),)
    assert json.loads(encode(spec_json(spec))) == recorded


def test_what_is_absent_gets_the_defaults() -> None:
    spec = read(
        {"Name": "web", "TaskTemplate": IMAGE, "Labels": None, "Mode": None, "UpdateConfig": None}
    )
    defaults = ServiceSpec(name="web", task=TaskSpec(container=ContainerSpec(image="busybox")))
    assert msgspec.structs.replace(spec, unset=()) == defaults


# What is left out and what is given beside {"Name", "Labels", "Mode", "TaskTemplate": {"ContainerSpec",
# "ForceUpdate", "Runtime"}}, as swarmkit keeps it and moby shows it.
ALL_DEFAULTS = {
    "TaskTemplate": {
        "ContainerSpec": {"StopGracePeriod": 10 * 10**9, "DNSConfig": {}},
        "Resources": {"Limits": {}, "Reservations": {}},
        "RestartPolicy": {"Condition": "any", "Delay": 5 * 10**9, "MaxAttempts": 0},
        "Placement": {},
    },
    "UpdateConfig": {
        "Parallelism": 1, "FailureAction": "pause", "Monitor": 5 * 10**9, "MaxFailureRatio": 0, "Order": "stop-first",
    },
}  # fmt: skip
ALL_DEFAULTS["RollbackConfig"] = ALL_DEFAULTS["UpdateConfig"]


def merged(one: Any, other: Any) -> Any:
    both = one.keys() & other.keys()
    return one | other | {k: merged(one[k], other[k]) for k in both if isinstance(other[k], dict)}


UPDATE = {"Parallelism": 0, "FailureAction": "pause", "MaxFailureRatio": 0, "Order": "stop-first"}


@pytest.mark.parametrize(
    ("given", "shown", "filled"),
    [
        ({}, {}, {}),
        (
            {"TaskTemplate": {"RestartPolicy": {"Window": 0}}},
            {"TaskTemplate": {"RestartPolicy": {"Condition": "any", "MaxAttempts": 0, "Window": 0}}},
            {"TaskTemplate": {"RestartPolicy": {"Delay": 5 * 10**9}}},
        ),
        (
            {"TaskTemplate": {"RestartPolicy": {"Delay": 0, "Condition": ""}}},
            {"TaskTemplate": {"RestartPolicy": {"Condition": "any", "Delay": 0, "MaxAttempts": 0}}}, {},
        ),
        (
            {"TaskTemplate": {"Resources": {"Limits": {}}}}, {"TaskTemplate": {"Resources": {"Limits": {}}}},
            {"TaskTemplate": {"Resources": {"Reservations": {}}}},
        ),
        ({"TaskTemplate": {"LogDriver": {}}}, {"TaskTemplate": {"LogDriver": {"Name": "json-file"}}}, {}),
        ({"TaskTemplate": {"Placement": {}}}, {"TaskTemplate": {"Placement": {}}}, {}),
        ({"TaskTemplate": {"ContainerSpec": {"StopGracePeriod": 0}}}, {"TaskTemplate": {"ContainerSpec": {"StopGracePeriod": 0}}}, {}),
        ({"UpdateConfig": {"Monitor": 0}}, {"UpdateConfig": UPDATE}, {"UpdateConfig": {"Monitor": 5 * 10**9}}),
        ({"RollbackConfig": {"Monitor": 7}}, {"RollbackConfig": UPDATE | {"Monitor": 7}}, {}),
        ({"EndpointSpec": {}}, {"EndpointSpec": {"Mode": "vip"}}, {}),
    ],
)  # fmt: skip
def test_a_spec_comes_back_as_it_was_given(given: Any, shown: Any, filled: Any) -> None:
    """`filled`: what the defaults add beside those of the parts that are absent as a whole."""
    least: Any = {
        "Name": "web", "Labels": {}, "Mode": {"Replicated": {"Replicas": 1}},
        "TaskTemplate": {"ContainerSpec": {"Image": "a", "Isolation": "default"}, "ForceUpdate": 0, "Runtime": "container"},
    }  # fmt: skip
    spec = read(merged(least, given))
    as_given = json.loads(encode(spec_json(spec)))
    assert as_given == merged(least, shown)
    assert read(as_given) == spec
    with_defaults = json.loads(encode(spec_json(spec, defaults=True)))
    assert with_defaults == merged(merged(ALL_DEFAULTS, as_given), filled)


WORD = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
WORDS = st.lists(WORD, max_size=3).map(tuple)
OPTIONS = st.dictionaries(WORD, WORD, max_size=2).map(lambda found: tuple(sorted(found.items())))
MAP = st.dictionaries(WORD, WORD, max_size=3)
NANOSECONDS = st.integers(0, 10**15)
PORT = st.integers(1, 65535)
MOUNTS = st.one_of(
    st.builds(
        Mount,
        type=st.just("bind"),
        source=WORD.map("/{}".format),
        target=WORD,
        read_only=st.booleans(),
        bind=st.none()
        | st.builds(
            BindOptions,
            propagation=st.sampled_from(["shared", "rshared", "slave", "rslave", "private"]),
            non_recursive=st.booleans(),
            create_mountpoint=st.booleans(),
            read_only_non_recursive=st.booleans(),
            read_only_force_recursive=st.booleans(),
        ),
    ),
    st.builds(
        Mount,
        type=st.just("tmpfs"),
        target=WORD,
        tmpfs_size=st.integers(0, 2**40),
        tmpfs_mode=st.integers(0, 0o7777),
        tmpfs_options=st.lists(st.tuples(WORD) | st.tuples(WORD, WORD), max_size=2).map(tuple),
    ),
    st.builds(
        Mount,
        type=st.just("volume"),
        source=WORD,
        target=WORD,
        volume=st.none()
        | st.builds(
            VolumeOptions,
            no_copy=st.booleans(),
            labels=MAP,
            driver=st.none() | st.builds(VolumeDriver, name=st.just("local"), options=MAP),
            subpath=WORD,
        ),
    ),
)
PRIVILEGES = st.builds(
    Privileges, seccomp=st.sampled_from(["default", "unconfined"]), apparmor=st.sampled_from(["default", "disabled"]),
    no_new_privileges=st.booleans(),
) | st.builds(Privileges, seccomp=st.just("custom"), seccomp_profile=st.just(b"{}"))  # fmt: skip
CONTAINERS = st.builds(
    ContainerSpec, image=WORD, command=WORDS, args=WORDS, env=WORDS, dir=WORD, user=WORD, groups=WORDS, hostname=WORD, labels=MAP,
    tty=st.booleans(), open_stdin=st.booleans(), read_only=st.booleans(), stop_signal=WORD, stop_grace_period=NANOSECONDS,
    hosts=WORDS, dns_servers=WORDS, dns_search=WORDS, dns_options=WORDS, mounts=st.lists(MOUNTS, max_size=2).map(tuple),
    cap_add=WORDS, cap_drop=WORDS, sysctls=MAP, init=st.sampled_from([None, False, True]),
    oom_score_adj=st.integers(-1000, 1000), privileges=PRIVILEGES,
    ulimits=st.lists(st.builds(Ulimit, WORD, NANOSECONDS, NANOSECONDS), max_size=2).map(tuple),
)  # fmt: skip
RESOURCES = {
    "nano_cpus": st.just(0) | st.integers(10**6, 10**12),
    "memory": st.just(0) | st.integers(2**22, 2**50),
}
GENERIC = st.dictionaries(WORD, st.integers(0, 2**63 - 1), max_size=2).map(
    lambda amounts: tuple(starmap(GenericResource, amounts.items()))
)
UPDATES = {
    "parallelism": st.integers(0, 100), "delay": NANOSECONDS, "monitor": st.integers(1, 10**12),
    "max_failure_ratio": st.sampled_from([0.0, 0.25, 1.0]), "order": st.sampled_from(["stop-first", "start-first"]),
}  # fmt: skip
TARGET = attrgetter("target")
TASKS = st.builds(
    TaskSpec, container=CONTAINERS,
    limits=st.builds(Resources, **RESOURCES, pids=st.integers(0, 10**6)),
    reservations=st.builds(Resources, **RESOURCES, generic=GENERIC),
    restart=st.builds(
        RestartPolicy, condition=st.sampled_from(["none", "on-failure", "any"]), delay=NANOSECONDS,
        max_attempts=st.integers(0, 100), window=NANOSECONDS,
    ),
    placement=st.builds(
        Placement, constraints=st.lists(st.just("node.role == manager"), max_size=2).map(tuple), spread=WORDS,
        max_replicas=st.integers(0, 9), platforms=st.lists(st.tuples(WORD, WORD), max_size=2).map(tuple),
    ),
    networks=st.lists(
        st.builds(NetworkAttachmentSpec, WORD.map("n{}".format), WORDS, OPTIONS), max_size=3, unique_by=TARGET
    ).map(tuple),
    log_driver=st.sampled_from(["json-file", "local", "none"]), log_options=MAP, force_update=st.integers(0, 2**63 - 1),
)  # fmt: skip
SPECS = st.builds(
    ServiceSpec, name=WORD, task=TASKS, labels=MAP, replicas=st.none() | st.integers(0, 10**6),
    update=st.builds(UpdateConfig, **UPDATES, failure_action=st.sampled_from(["pause", "continue", "rollback"])),
    rollback=st.builds(UpdateConfig, **UPDATES, failure_action=st.sampled_from(["pause", "continue"])),
    endpoint=st.builds(
        EndpointSpec, mode=st.just("vip"),
        ports=st.lists(
            st.builds(PublishedPort, PORT, PORT, st.sampled_from(["tcp", "udp", "sctp"]), st.sampled_from(["ingress", "host"])),
            max_size=3, unique_by=lambda port: (port.published, port.protocol),
        ).map(tuple),
    ),
)  # fmt: skip


def mounting(**mount: Any) -> Any:
    """A task with one mount."""
    return {"ContainerSpec": {"Image": "a", "Mounts": [mount]}}


@given(SPECS)
def test_any_spec_survives_its_json(spec: ServiceSpec) -> None:
    assert read(spec_json(spec)) == spec


def test_the_network_of_the_host_survives_its_json() -> None:
    spec = ServiceSpec(
        name="web", task=TaskSpec(container=ContainerSpec(image="busybox"), host_network=True)
    )
    assert read(spec_json(spec)) == spec


@pytest.mark.parametrize(
    ("task", "rest", "error", "text"),
    [
        ({"ContainerSpec": {"Image": 5}}, {}, InvalidArgument, "$.TaskTemplate.ContainerSpec.Image"),
        ({}, {}, InvalidArgument, "missing container spec"),
        ({**IMAGE, "Networks": [{"Target": "nowhere"}]}, {}, NotFound, "network nowhere not found"),
        (
            {**IMAGE, "Networks": [{"Target": "n", "DriverOpts": {"com.docker.network.x": "b"}}]}, {},
            Unsupported, "TaskTemplate.Networks.DriverOpts: com.docker.network.x",
        ),
        ({**IMAGE, "Runtime": "plugin"}, {}, InvalidArgument, "Runtime"),
        ({"ContainerSpec": {"Image": "a", "Secrets": [{"SecretID": "x"}]}}, {}, InvalidArgument, "secret reference, no target"),
        ({"ContainerSpec": {"Image": "a", "Configs": [{"ConfigID": "x"}]}}, {}, InvalidArgument, "config reference, no target"),
        ({"ContainerSpec": {"Image": "a", "Configs": [{"Runtime": {"a": 1}}]}}, {}, Unsupported, "ContainerSpec.Configs[0].Runtime"),
        (
            {"ContainerSpec": {"Image": "a", "Secrets": [{"SecretID": "x", "File": {"Name": "t", "UID": "root"}}]}}, {},
            InvalidArgument, "TaskTemplate.ContainerSpec.Secrets[0].File.UID: 'root' is not",
        ),
        ({"ContainerSpec": {"Image": "a", "Privileges": {"CredentialSpec": {"A": 1}}}}, {}, Unsupported, "ContainerSpec.Privileges"),
        (
            mounting(Type="npipe", Source="p", Target="/v"), {}, Unsupported,
            "TaskTemplate.ContainerSpec.Mounts[0].Type: mounts of type npipe are not supported by Weft",
        ),
        (
            mounting(Type="volume", Target="/v", VolumeOptions={"DriverConfig": {"Name": "rexray"}}), {}, Unsupported,
            "TaskTemplate.ContainerSpec.Mounts[0].VolumeOptions.DriverConfig.Name: the volume driver rexray is not supported",
        ),
        (
            mounting(Source="/a", Target="/v", BindOptions={"Propagation": "sideways"}), {}, InvalidArgument,
            'TaskTemplate.ContainerSpec.Mounts[0].BindOptions.Propagation: invalid MountPropagation: "sideways"',
        ),
        (mounting(Type="folder", Target="/v"), {}, InvalidArgument, 'Mounts[0].Type: invalid MountType: "folder"'),
        (
            mounting(Source="/a", Target="/v", ImageOptions={"Subpath": "x"}), {}, InvalidArgument,
            'invalid mount config for type "bind": field ImageOptions must not be specified',
        ),
        (IMAGE, {"Mode": {"Replicated": {"Replicas": -1}}}, InvalidArgument, "Replicas"),
        (IMAGE, {"Mode": {"Replicated": {}, "Global": {}}}, InvalidArgument, "must specify only one service mode"),
        (IMAGE, {"EndpointSpec": {"Ports": [{"TargetPort": 70000}]}}, InvalidArgument, "TargetPort"),
    ],
)  # fmt: skip
def test_bad_specs_are_refused_by_name(
    task: Any, rest: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as raised:
        read({"Name": "web", "TaskTemplate": task, **rest})
    assert text in str(raised.value)


def test_unsupported_fields_that_say_nothing_are_fine() -> None:
    container = {
        "Image": "a",
        "Privileges": {"CredentialSpec": None, "SELinuxContext": {"Disable": False}},
        "Secrets": [],
    }
    spec = read(
        {
            "Name": "web",
            "TaskTemplate": {"ContainerSpec": container, "PluginSpec": {}},
            "Networks": [],
        }
    )
    assert spec.task.container == ContainerSpec(image="a")


def test_a_mount_says_nothing_by_its_consistency_or_empty_options() -> None:
    mount: dict[str, Any] = {
        "Type": "BIND",
        "Source": "/a",
        "Target": "/b",
        "Consistency": "cached",
        "BindOptions": {},
        "VolumeOptions": None,
    }
    spec = read(
        {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "a", "Mounts": [mount]}}}
    )
    assert spec.task.container.mounts == (Mount(type="bind", source="/a", target="/b"),)


def test_field_names_are_read_in_any_case_but_keys_of_maps_are_not() -> None:
    spec = read(
        {
            "name": "web",
            "tasktemplate": IMAGE,
            "Mode": {"replicated": {"REPLICAS": 4}},
            "Labels": {"Name": "x", "name": "y"},
        }
    )
    assert (spec.name, spec.replicas, spec.labels) == ("web", 4, {"Name": "x", "name": "y"})


@pytest.mark.parametrize(
    "body", [b"{", b"[1,", b'{"Name": "a"} x', b"\xff", b"[" * 100_000, b'{"Name": "\xff"}']
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument, match="invalid JSON"):
        decode(body, ServiceWire)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_no_json_makes_the_decoder_fail_otherwise(value: Any) -> None:
    for body in (
        value,
        {"Name": value},
        {"TaskTemplate": value},
        {"Name": "a", "TaskTemplate": {"ContainerSpec": value}},
    ):
        try:
            read(body)
        except (InvalidArgument, NotFound):
            continue
        except (msgspec.EncodeError, OverflowError):
            return

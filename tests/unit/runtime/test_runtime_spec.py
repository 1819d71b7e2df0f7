"""From a container's configuration to the OCI runtime's document: what Docker's defaults and the
user's wishes make of it."""

import resource
from pathlib import Path
from typing import Any

import msgspec
import pytest

from weft.errors import InvalidArgument, NotFound, OperationFailed
from weft.model.container import Confinement, Container, ContainerConfig, Image, ImageConfig
from weft.model.ids import ContainerId
from weft.model.plain_container import AsWritten, PlainContainer
from weft.model.privileges import Privileges
from weft.model.service import ContainerSpec, Resources, Ulimit
from weft.model.signals import signal_number
from weft.network.sandbox import SYSCTLS
from weft.runtime.devices import Devices
from weft.runtime.skopeo import translate_error
from weft.runtime.spec import (
    all_capabilities,
    capability_set,
    command_line,
    container_document,
    environment,
    set_variables,
)
from weft.runtime.users import User

IMAGE = Image(
    id="sha256:" + "a" * 64,
    config=ImageConfig(entrypoint=("/entry",), cmd=("one", "two"), env=("A=image", "B=image")),
)


def document(
    namespace: str | None = "/run/netns/x",
    limits: Resources | None = None,
    memory_swap: int = 0,
    confinement: Confinement | None = None,
    seccomp: dict[str, Any] | None = None,
    plain: PlainContainer | None = None,
    shared: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    config = ContainerConfig(
        id=ContainerId("c" * 64),
        name="name",
        spec=ContainerSpec(image="image", **spec),
        hostname="box",
        namespace=namespace,
        limits=limits or Resources(),
        plain=plain,
        shared=shared or {},
    )
    container = Container(
        config=config,
        image=IMAGE.id,
        args=("/entry",),
        env=("A=b",),
        confinement=confinement or Confinement(),
        memory_swap=memory_swap,
    )
    decoded: dict[str, Any] = msgspec.json.decode(
        container_document(container, IMAGE, User(0, 0), Path("/data/c"), seccomp, Devices())
    )
    return decoded


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ((), (), ("/entry", "one", "two")),
        ((), ("three",), ("/entry", "three")),
        (("/other",), (), ("/other",)),
        (("/other",), ("three",), ("/other", "three")),
    ],
)
def test_command_and_args_replace_what_the_image_says(
    command: tuple[str, ...], args: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert command_line(IMAGE, ContainerSpec(image="image", command=command, args=args)) == expected


def test_an_image_without_a_command_needs_one() -> None:
    with pytest.raises(InvalidArgument, match="no command specified"):
        command_line(Image(id=f"sha256:{0:064}"), ContainerSpec(image="image"))


def test_the_environment_has_each_name_once_and_the_users_value() -> None:
    env = environment(IMAGE, ContainerSpec(image="image", env=("B=user", "C=user", "A")))
    assert env[0] == "B=user"
    assert set(env) == {
        "B=user",
        "C=user",
        "A",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    assert set_variables(("A", "B=", "C=c")) == ["B=", "C=c"], "nobody gets what is only hidden"


@pytest.mark.parametrize(
    ("add", "drop", "has", "lacks"),
    [
        ((), (), "CAP_NET_RAW", "CAP_SYS_ADMIN"),
        (("net_admin",), (), "CAP_NET_ADMIN", "CAP_SYS_ADMIN"),
        ((), ("CAP_NET_RAW",), "CAP_CHOWN", "CAP_NET_RAW"),
        (("CAP_CHOWN",), ("ALL",), "CAP_CHOWN", "CAP_NET_RAW"),
        (("ALL",), ("SYS_ADMIN",), "CAP_BPF", "CAP_SYS_ADMIN"),
    ],
)
def test_capabilities_are_added_and_dropped(
    add: tuple[str, ...], drop: tuple[str, ...], has: str, lacks: str
) -> None:
    found = capability_set(add, drop)
    assert has in found
    assert lacks not in found
    assert "CAP_ALL" not in found


def test_all_capabilities_are_those_that_can_be_had_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root of a virtual machine or of a container may lack some: to ask for more makes the
    container fail."""
    monkeypatch.setattr("weft.runtime.spec.all_capabilities", lambda: ("CAP_CHOWN", "CAP_BPF"))
    assert capability_set(("ALL",), ()) == ("CAP_CHOWN", "CAP_BPF")
    assert capability_set(("ALL", "SYS_ADMIN"), ("CHOWN",)) == ("CAP_BPF", "CAP_SYS_ADMIN")


def test_a_privileged_container_has_all_capabilities_and_writable_kernel_files() -> None:
    found = document(cap_drop=("ALL",), privileges=Privileges(privileged=True))
    assert found["process"]["capabilities"]["bounding"] == list(all_capabilities())
    options = {mount["destination"]: mount["options"] for mount in found["mounts"]}
    for path in ("/sys", "/sys/fs/cgroup"):
        assert "ro" not in options[path]
        assert "ro" in {m["destination"]: m["options"] for m in document()["mounts"]}[path]


def test_unknown_capabilities_signals_and_limits_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="FLY"):
        capability_set(("FLY",), ())
    with pytest.raises(InvalidArgument, match="SIGNOPE"):
        signal_number("SIGNOPE")
    with pytest.raises(InvalidArgument, match="invalid ulimit type: x"):
        document(ulimits=(Ulimit("x", 1, 1),))


def test_a_limit_above_what_this_host_may_give_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.runtime.spec.all_capabilities", tuple)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with pytest.raises(
        InvalidArgument, match=f"nofile=5:{hard + 1}: this host's hard limit is {hard}"
    ):
        document(ulimits=(Ulimit("nofile", 5, hard + 1),))


def test_limits_become_cgroup_values() -> None:
    resources = document(limits=Resources(memory=64 << 20, nano_cpus=1_500_000_000, pids=7))[
        "linux"
    ]["resources"]
    assert resources["memory"]["limit"] == 64 << 20
    assert resources["cpu"] == {"quota": 150_000, "period": 100_000}
    assert resources["pids"]["limit"] == 7


@pytest.mark.parametrize(
    ("memory_swap", "memory"),
    [(128 << 20, {"limit": 64 << 20, "swap": 128 << 20}), (-1, {"limit": 64 << 20})],
)
def test_swap_is_limited_where_the_kernel_counts_it(memory_swap: int, memory: Any) -> None:
    linux = document(limits=Resources(memory=64 << 20), memory_swap=memory_swap)["linux"]
    assert linux["resources"]["memory"] == memory


def test_namespaces_are_its_own_but_for_the_network() -> None:
    kinds = {entry["type"]: entry.get("path") for entry in document()["linux"]["namespaces"]}
    assert kinds == {
        "pid": None,
        "mount": None,
        "ipc": None,
        "uts": None,
        "network": "/run/netns/x",
    }
    assert "network" not in {
        entry["type"] for entry in document(namespace=None)["linux"]["namespaces"]
    }
    assert "cgroup" in {
        entry["type"]
        for entry in document(confinement=Confinement(cgroup_namespace=True))["linux"]["namespaces"]
    }


def test_low_ports_and_ping_are_free_in_a_network_namespace_of_its_own() -> None:
    names = ("net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range")
    found = document()["linux"]["sysctl"]
    assert [found[name] for name in names] == ["0", "0 2147483647"]
    assert document(sysctls={names[0]: "1024"})["linux"]["sysctl"][names[0]] == "1024"
    assert not set(names) & set(document(namespace=None)["linux"]["sysctl"])


def test_a_domain_name_is_for_an_own_uts_namespace() -> None:
    plain = PlainContainer(domain_name="example.org")
    assert document(plain=plain)["linux"]["sysctl"]["kernel.domainname"] == "example.org"
    own = document(plain=plain, sysctls={"kernel.domainname": "own"})["linux"]["sysctl"]
    assert own["kernel.domainname"] == "own"
    for given in ({"plain": PlainContainer()}, {}, {"plain": plain, "shared": {"uts": ""}}):
        assert "kernel.domainname" not in document(**given)["linux"]["sysctl"]


def test_the_runtime_sees_annotations() -> None:
    plain = PlainContainer(written=AsWritten(annotations={"org.example": "x"}))
    assert document(plain=plain)["annotations"] == {"org.example": "x"}
    assert "annotations" not in document()


def test_each_setting_of_a_containers_network_has_one_owner() -> None:
    assert not set(SYSCTLS) & set(document()["linux"]["sysctl"])


def test_network_sysctls_are_for_a_network_namespace_of_its_own() -> None:
    assert (
        document(sysctls={"net.ipv4.ip_forward": "1"})["linux"]["sysctl"]["net.ipv4.ip_forward"]
        == "1"
    )
    with pytest.raises(InvalidArgument, match=r"net\.ipv4\.ip_forward"):
        document(namespace=None, sysctls={"net.ipv4.ip_forward": "1"})


def test_a_user_who_is_not_root_holds_no_capabilities() -> None:
    config = ContainerConfig(
        id=ContainerId("c" * 64),
        name="n",
        spec=ContainerSpec(image="i"),
        hostname="h",
        namespace=None,
    )
    container = Container(config=config, image=IMAGE.id, args=("x",))
    process = msgspec.json.decode(
        container_document(container, IMAGE, User(5, 6), Path("/d"), None, Devices())
    )["process"]
    assert process["capabilities"]["effective"] == []
    assert "CAP_CHOWN" in process["capabilities"]["bounding"]


def test_a_container_is_confined_as_its_record_says() -> None:
    confinement = Confinement(
        masked_paths=("/proc/kcore",),
        read_only_paths=("/proc/sys",),
        apparmor_profile="docker-default",
    )
    found = document(confinement=confinement, seccomp={"defaultAction": "SCMP_ACT_ERRNO"})
    assert found["linux"]["maskedPaths"] == ["/proc/kcore"]
    assert found["linux"]["readonlyPaths"] == ["/proc/sys"]
    assert found["linux"]["seccomp"] == {"defaultAction": "SCMP_ACT_ERRNO"}
    assert found["process"]["apparmorProfile"] == "docker-default"


def test_without_apparmor_and_seccomp_the_runtime_is_told_of_neither() -> None:
    found = document()
    assert "apparmorProfile" not in found["process"]
    assert "seccomp" not in found["linux"]


def test_programs_may_gain_privileges_as_in_the_original() -> None:
    """sudo, su and ping of an image are set-user-id programs; `--security-opt no-new-privileges` is
    not the default."""
    assert document()["process"]["noNewPrivileges"] is False


@pytest.mark.parametrize(
    ("words", "kind", "expected"),
    [
        ("reading manifest 2: manifest unknown", NotFound, "manifest for a/b:2 not found: manifest unknown"),
        ("requested access to the resource is denied", NotFound, "pull access denied for a/b, repository does not exist or may"),
        ("name unknown: repository name not known to registry", NotFound, "pull access denied for a/b"),
        ('time="x" level=fatal msg="pinging: dial tcp 1.2.3.4:443: connection refused"', OperationFailed,
         "cannot pull a/b:2: pinging: dial tcp 1.2.3.4:443: connection refused"),
    ],
)  # fmt: skip
def test_a_registrys_errors_are_told_in_the_originals_words(
    words: str, kind: type[Exception], expected: str
) -> None:
    error = translate_error(words, "a/b", "2")
    assert type(error) is kind
    assert str(error).startswith(expected)

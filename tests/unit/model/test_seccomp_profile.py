"""A user's own seccomp profile: what is taken, and what is refused when the service is asked for."""

import json

import pytest

from weft.control.requests.validation import validate_service
from weft.errors import InvalidArgument
from weft.model.privileges import Privileges
from weft.model.seccomp_profile import MAX_BYTES, profile_from
from weft.model.service import ContainerSpec, ServiceSpec, TaskSpec
from weft.runtime.seccomp import PROFILE, resolve

NO_MKDIR = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64"],
    "syscalls": [{"name": "mkdir", "action": "SCMP_ACT_ERRNO", "args": None}],
}


def with_profile(profile: bytes, mode: str = "custom") -> ServiceSpec:
    privileges = Privileges(seccomp=mode, seccomp_profile=profile)  # type: ignore[arg-type]  # one of the three
    container = ContainerSpec(image="web", privileges=privileges)
    return ServiceSpec(name="web", task=TaskSpec(container=container))


def test_dockers_own_profile_and_short_ones_are_taken() -> None:
    for profile in (PROFILE.read_bytes(), json.dumps(NO_MKDIR).encode()):
        validate_service(with_profile(profile))
    document = resolve(profile_from(json.dumps(NO_MKDIR).encode()), (), "x86_64", (6, 1))
    assert document["syscalls"] == [{"names": ("mkdir",), "action": "SCMP_ACT_ERRNO"}]
    assert document["architectures"] == ["SCMP_ARCH_X86_64"]
    assert "defaultErrnoRet" not in document


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        (b"{", "decoding seccomp profile failed"),
        (b"[]", "decoding seccomp profile failed"),
        (json.dumps(NO_MKDIR | {"defaultAction": "ALLOW"}).encode(), "defaultAction"),
        (json.dumps(NO_MKDIR | {"listenerPath": "/x"}).encode(), "listenerPath"),
        (
            json.dumps(NO_MKDIR | {"archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}).encode(),
            "archMap",
        ),
        (
            json.dumps({"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"action": "SCMP_ACT_LOG"}]}).encode(),
            "names no system call",
        ),
        (
            json.dumps(NO_MKDIR | {"syscalls": [{"name": "a", "action": "SCMP_ACT_LOG", "includes": {"minKernel": "six"}}]}).encode(),
            "minKernel 'six' is not",
        ),
        (b" " * (MAX_BYTES + 1), "more than"),
        (b"", "has to be given"),
    ],
)  # fmt: skip
def test_a_bad_profile_is_refused_with_the_field(profile: bytes, text: str) -> None:
    with pytest.raises(InvalidArgument, match=f"Seccomp.Profile.*{text}"):
        validate_service(with_profile(profile))


def test_a_profile_needs_the_mode_custom() -> None:
    with pytest.raises(InvalidArgument, match="if Mode is custom"):
        validate_service(with_profile(b"{}", "unconfined"))

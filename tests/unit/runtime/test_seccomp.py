"""Docker's default profile, resolved: name by name what Docker itself makes of it, for many
capabilities, machines and kernels.

`recorded/moby-seccomp.json` was written by Docker's own code. One rule is one line: `name action
errno argument...`.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from weft.model.seccomp_profile import Profile
from weft.runtime.seccomp import (
    PROFILE,
    kernel_has_filters,
    kernel_version,
    load_profile,
    resolve,
)
from weft.runtime.spec import DEFAULT_CAPABILITIES, capability_set

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent / "recorded" / "moby-seccomp.json").read_text()
)
CASES = RECORDED["cases"]
X32 = "SCMP_ARCH_X32"


def lines(document: dict[str, Any]) -> set[str]:
    found = set()
    for rule in document["syscalls"]:
        errno = f" {rule['errnoRet']}" if "errnoRet" in rule else ""
        arguments = "".join(
            f" arg{a['index']} {a['op']} {a['value']}" for a in rule.get("args", ())
        )
        found |= {f"{name} {rule['action']}{errno}{arguments}" for name in rule["names"]}
    return found


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_it_is_what_the_original_makes_of_it(case: dict[str, Any]) -> None:
    document = resolve(
        load_profile(), case["capabilities"], case["machine"], kernel_version(case["kernel"])
    )
    want = (set(RECORDED["default"]) | set(case["more"])) - set(case["less"])
    assert lines(document) == want
    assert (document["defaultAction"], document["defaultErrnoRet"]) == (
        RECORDED["action"],
        RECORDED["errno"],
    )
    assert document.get("architectures", []) == [
        name for name in case["architectures"] if name != X32
    ]


def allowed(*add: str) -> set[str]:
    document = resolve(load_profile(), capability_set(add, ()), "x86_64", (6, 1))
    return {line.split()[0] for line in lines(document) if "SCMP_ACT_ALLOW" in line}


def test_by_default_no_door_to_a_user_namespace_or_a_mount_is_open() -> None:
    """Said apart from the recording: what matters most."""
    closed = {
        "unshare", "setns", "mount", "umount2", "pivot_root", "fsopen", "fsmount", "move_mount",
        "open_tree", "keyctl", "add_key", "bpf", "perf_event_open", "open_by_handle_at",
        "init_module", "kexec_load", "reboot", "clone3", "io_uring_setup", "userfaultfd",
    }  # fmt: skip
    assert not closed & allowed()
    assert {"unshare", "setns", "mount", "clone3", "bpf"} <= allowed("SYS_ADMIN")
    rules = lines(resolve(load_profile(), DEFAULT_CAPABILITIES, "x86_64", (6, 1)))
    assert "clone SCMP_ACT_ALLOW arg0 SCMP_CMP_MASKED_EQ 2114060288" in rules
    assert 2114060288 == 0x7E020000, "CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID and NET"
    assert "clone3 SCMP_ACT_ERRNO 38" in rules


def test_the_file_is_the_originals() -> None:
    """NOTICE says so, and names its digest."""
    digest = hashlib.sha256(PROFILE.read_bytes()).hexdigest()
    assert digest in (PROFILE.parent / "NOTICE").read_text()


def test_a_condition_that_is_not_known_is_not_passed_over() -> None:
    document = json.loads(PROFILE.read_bytes())
    document["syscalls"][0]["includes"] = {"maxKernel": "7.0"}
    with pytest.raises(msgspec.ValidationError, match="maxKernel"):
        msgspec.json.decode(json.dumps(document), type=Profile)


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-13-amd64", (6, 1)),
        ("4.8", (4, 8)),
        ("3.12-1-amd64", (3, 12)),
        ("6.18.44-fc", (6, 18)),
    ],
)
def test_versions_of_kernels(release: str, version: tuple[int, int]) -> None:
    assert kernel_version(release) == version


def test_a_kernel_without_filters_is_told(tmp_path: Path) -> None:
    assert not kernel_has_filters(tmp_path)
    (tmp_path / "proc/sys/kernel/seccomp").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/seccomp/actions_avail").write_text("kill_process errno allow\n")
    assert kernel_has_filters(tmp_path)

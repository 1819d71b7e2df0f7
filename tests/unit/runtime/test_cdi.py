"""Devices that files describe: which are found, and what they change for a container."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from weft.errors import OperationFailed, Unsupported, WeftError
from weft.model.device_request import DeviceRequest
from weft.runtime.cdi import NOTHING, edited, injected
from weft.runtime.cdi_files import find

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="files that are not root's are refused")


def files(root: Path, **contents: object) -> tuple[Path, Path]:
    """`a_NAME` goes to the administrator's directory, `b_NAME` to the other."""
    directories = root / "a", root / "b"
    for directory in directories:
        directory.mkdir(exist_ok=True)
    for name, content in contents.items():
        text = content if isinstance(content, str) else json.dumps(content)
        kind = "yaml" if isinstance(content, str) else "json"
        path = directories["ab".index(name[0])] / f"{name[2:]}.{kind}"
        path.write_text(text)
        path.chmod(0o644)
    return directories


def spec(edits: dict[str, Any], name: str = "one", **others: object) -> dict[str, Any]:
    return {
        "cdiVersion": "0.7.0",
        "kind": "vendor.com/class",
        "devices": [{"name": name, "containerEdits": edits}],
        **others,
    }


def asked(*names: str) -> list[DeviceRequest]:
    return [DeviceRequest(driver="cdi", ids=names)]


def document() -> dict[str, Any]:
    return {
        "process": {"env": ["PATH=/bin", "A=old"], "user": {"uid": 7, "additionalGids": (5,)}},
        "mounts": [{"destination": "/proc"}, {"destination": "/a/b"}, {"destination": "/dev"}],
        "linux": {"devices": ({"path": "/dev/x"},), "resources": {"devices": ({"allow": False},)}},
    }


YAML = """\
cdiVersion: 0.7.0
kind: vendor.com/class
containerEdits:
  env: [ALL=1]
devices:
- name: 0
  containerEdits:
    env: [A=new]
    deviceNodes:
    - {path: /dev/x, hostPath: /dev/null, permissions: r, fileMode: 0640, gid: 9}
    - {path: /dev/whole, type: c, major: 200, minor: 3}
    mounts:
    - {hostPath: /lib/here, containerPath: /a, options: [ro, bind]}
    hooks:
    - {hookName: createContainer, path: /bin/true, args: ["true", x], timeout: 500}
    additionalGids: [5, 0, 6]
- name: 1
  containerEdits: {env: [B=1]}
"""


def test_a_device_changes_what_its_file_says(tmp_path: Path) -> None:
    directories = files(tmp_path, a_x=YAML)
    given = injected(asked("vendor.com/class=1", "vendor.com/class=0"), directories)
    changed = edited(document(), given)
    assert changed["process"] == {
        "env": ["PATH=/bin", "A=new", "ALL=1", "B=1"],
        "user": {"uid": 7, "additionalGids": [5, 6]},
    }
    null = {"type": "c", "major": 1, "minor": 3}
    whole = {"type": "c", "major": 200, "minor": 3}
    assert changed["linux"] == {
        "devices": [
            {"path": "/dev/x", **null, "fileMode": 0o640, "gid": 9},
            {"path": "/dev/whole", **whole},
        ],
        "resources": {
            "devices": [
                {"allow": False},
                {"allow": True, "access": "r", **null},
                {"allow": True, "access": "rwm", **whole},
            ]
        },
    }
    assert [mount["destination"] for mount in changed["mounts"]] == ["/proc", "/dev", "/a", "/a/b"]
    assert changed["hooks"] == {
        "createContainer": [
            {
                "path": "/bin/true",
                "args": ["true", "x"],
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                "timeout": 20,
            }
        ]
    }


def test_nothing_is_changed_for_a_container_that_asks_for_nothing(tmp_path: Path) -> None:
    assert injected([], files(tmp_path, a_x="{")) is NOTHING
    assert injected(asked(), files(tmp_path)) is NOTHING
    assert edited(document(), NOTHING) == document()


def test_what_is_made_at_run_time_wins_over_the_administrators(tmp_path: Path) -> None:
    directories = files(tmp_path, a_x=spec({"env": ["A=a"]}), b_x=spec({"env": ["A=b"]}))
    given = injected(asked("vendor.com/class=one"), directories)
    assert edited(document(), given)["process"]["env"] == ["PATH=/bin", "A=b"]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (
            DeviceRequest(count=-1, capabilities=(("gpu",),)),
            'could not select device driver "" with capabilities: [[gpu]]',
        ),
        (
            DeviceRequest(driver="nvidia", capabilities=(("compute", "gpu"), ("tpu",))),
            'could not select device driver "nvidia" with capabilities: [[compute gpu] [tpu]]',
        ),
        (DeviceRequest(), 'could not select device driver "" with capabilities: []'),
        (DeviceRequest(driver="cdi", count=1), "unexpected count in CDI device request"),
        (
            DeviceRequest(driver="cdi", options={"a": ""}),
            "unexpected options in CDI device request",
        ),
        (
            DeviceRequest(driver="cdi", ids=("a.com/b=c", "nonsense")),
            "CDI device injection failed: unresolvable CDI devices a.com/b=c, nonsense",
        ),
    ],
)
def test_what_nobody_can_give_is_refused_as_docker_does(
    tmp_path: Path, request_: DeviceRequest, text: str
) -> None:
    with pytest.raises(WeftError) as error:
        injected([request_], files(tmp_path))
    assert str(error.value) == text


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (spec({}, nonsense=1), "unknown field `nonsense`"),
        (spec({"env": ["A=1"], "what": 1}), "unknown field `what`"),
        (spec({"env": ["=1"]}), "invalid environment variable '=1'"),
        (spec({"env": "A=1"}), "$.devices[0].containerEdits.env"),
        (spec({"deviceNodes": [{"path": "dev"}]}), "device node 'dev': invalid path"),
        (spec({"deviceNodes": [{"path": "/d", "type": "z"}]}), "invalid type 'z'"),
        (spec({"deviceNodes": [{"path": "/d", "fileMode": "x"}]}), "invalid fileMode 'x'"),
        (spec({"mounts": [{"hostPath": "/a", "containerPath": "b"}]}), "mount 'b' of '/a'"),
        (spec({"hooks": [{"hookName": "x", "path": "rel"}]}), "invalid path 'rel'"),
        (spec({}, cdiVersion="9.0.0"), "invalid cdiVersion '9.0.0'"),
        (spec({"additionalGids": [1]}, cdiVersion="0.6.0"), "must be at least v0.7.0"),
        (spec({"netDevices": [{}]}, cdiVersion="1.0.0"), "must be at least v1.1.0"),
        (spec({}, kind="class"), "invalid kind 'class'"),
        (spec({}, name="-x"), "invalid device name '-x'"),
        (spec({}, devices=[]), "it has no devices"),
        ("a: *b", "line 1"),
        ("x" * (300 << 10), "more than 262144 bytes"),
        ("[" * 100, "levels deep"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_to_whoever_misses_its_device(
    tmp_path: Path, content: object, cause: str
) -> None:
    directories = files(tmp_path, a_bad=content, a_good=spec({}, kind="good.com/class"))
    assert list(find(directories).devices) == ["good.com/class=one"]
    with pytest.raises(OperationFailed, match="unresolvable CDI devices") as error:
        injected(asked("vendor.com/class=one"), directories)
    assert f"cannot read {tmp_path}/a/bad." in str(error.value)
    assert cause in str(error.value)
    injected(asked("good.com/class=one"), directories)


def test_a_device_in_two_files_is_in_neither(tmp_path: Path) -> None:
    directories = files(tmp_path, a_x=spec({}), a_y=spec({}))
    with pytest.raises(OperationFailed, match=r"x\.json and in .*y\.json"):
        injected(asked("vendor.com/class=one"), directories)


def test_only_files_that_root_alone_can_write_count(tmp_path: Path) -> None:
    directories = files(tmp_path, a_x=spec({}), a_y=spec({}, kind="other.com/class"))
    (directories[0] / "x.json").chmod(0o666)
    os.chown(directories[0] / "y.json", 1000, 0)
    with pytest.raises(OperationFailed, match="written by others than root"):
        injected(asked("vendor.com/class=one"), directories)
    assert find(directories).devices == {}


@pytest.mark.parametrize(
    ("edits", "error", "text"),
    [
        ({"intelRdt": {"closID": "x"}}, Unsupported, "intelRdt is not supported by Weft"),
        (
            {"hooks": [{"hookName": "poststop", "path": "/bin/true"}]},
            Unsupported,
            "the hook poststop (/bin/true) is not supported by Weft",
        ),
        (
            {"hooks": [{"hookName": "createContainer", "path": "/bin/none"}]},
            OperationFailed,
            "cannot run the hook /bin/none: No such file",
        ),
        (
            {"hooks": [{"hookName": "createContainer", "path": "/tmp"}]},
            OperationFailed,
            "cannot run the hook /tmp: it is no program that only root can write",
        ),
    ],
)
def test_what_weft_does_not_do_is_refused_by_name(
    tmp_path: Path, edits: dict[str, Any], error: type[WeftError], text: str
) -> None:
    with pytest.raises(error) as raised:
        injected(asked("vendor.com/class=one"), files(tmp_path, a_x=spec(edits)))
    assert str(raised.value).startswith("CDI device vendor.com/class=one: ")
    assert text in str(raised.value)


def test_a_node_that_the_host_lacks_is_named(tmp_path: Path) -> None:
    for node, text in (
        ({"path": "/dev/none"}, 'failed to stat CDI host device "/dev/none"'),
        ({"path": "/dev/null", "type": "b"}, '"/dev/null" is not of type b'),
        ({"path": "/etc"}, "not a device node"),
    ):
        directories = files(tmp_path, a_x=spec({"deviceNodes": [node]}))
        with pytest.raises(OperationFailed, match=text):
            edited(document(), injected(asked("vendor.com/class=one"), directories))

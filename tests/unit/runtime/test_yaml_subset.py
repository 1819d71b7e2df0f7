"""YAML as programs write it, and what is refused."""

from typing import Any

import pytest

from weft.errors import InvalidArgument
from weft.runtime.yaml_subset import read

GENERATED = """\
---
# by a program
cdiVersion: 0.5.0
kind: "nvidia.com/gpu"
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  hooks:
  - hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
    args:
    - nvidia-cdi-hook
    - create-symlinks
    - --link
    - libcuda.so.1::/usr/lib/libcuda.so
devices:
    - name: "0"   # the first
      containerEdits:
        deviceNodes:
        -   path: /dev/nvidia0
            permissions: 'it''s'
    - { name: all, containerEdits: {env: [A=1, "B=x # y"], mounts: [], gids: [ 1, 2 ] } }
empty:
nothing: ~
last: a:b #c
"""


def test_the_files_that_programs_write_are_read() -> None:
    assert read(GENERATED) == {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "hooks": [
                {
                    "hookName": "createContainer",
                    "path": "/usr/bin/nvidia-cdi-hook",
                    "args": [
                        "nvidia-cdi-hook",
                        "create-symlinks",
                        "--link",
                        "libcuda.so.1::/usr/lib/libcuda.so",
                    ],
                }
            ],
        },
        "devices": [
            {
                "name": "0",
                "containerEdits": {
                    "deviceNodes": [{"path": "/dev/nvidia0", "permissions": "it's"}]
                },
            },
            {
                "name": "all",
                "containerEdits": {"env": ["A=1", "B=x # y"], "mounts": [], "gids": ["1", "2"]},
            },
        ],
        "empty": None,
        "nothing": None,
        "last": "a:b",
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# nothing\n", None),
        ("a", "a"),
        ("- - a\n  - b\n- c", [["a", "b"], "c"]),
        ("-\n  a: b\n-", [{"a": "b"}, None]),
        ('a: "\\n\\x41\\u00e9\\""', {"a": '\nAé"'}),
        ("'a b': c", {"a b": "c"}),
        ("a: 'x: # y'", {"a": "x: # y"}),
        ("a:\n- b\nc: d", {"a": ["b"], "c": "d"}),
    ],
)
def test_what_is_read(text: str, value: Any) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("a: &x 1\nb: *x", "line 1: 'a: &x 1' has a part of YAML that is not read"),
        ("a: !!python/object x", "not read here"),
        ("a: |\n  text", "not read here"),
        ("a: b: c", "not read here"),
        ("a: b\n c", "line 2: 'c' is not where"),
        ("a: 1\na: 2", "line 2: 'a: 2' has a key that was there before"),
        ("a: {b: 1, b: 2}", "one that was there before"),
        ("a: [1, 2", "where it must end"),
        ('a: "b', "a quotation mark without its other"),
        ('a: "b" c', "goes on after its value"),
        ("a:\n\t- b", "indented with a tab"),
        ("a: 1\n---\nb: 2", "begins another document"),
        ("a: " + "x" * 5000, "more than 4096 characters"),
        ("a: " + "[" * 40, "more than 32 levels"),
        ("- " * 40 + "a", "more than 32 levels"),
        ('a: "\\q"', "an escape that is not read"),
    ],
)
def test_what_is_refused(text: str, cause: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        read(text)
    assert cause in str(error.value)

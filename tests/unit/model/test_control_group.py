"""Where a container's control group is."""

import pytest

from weft.errors import InvalidArgument
from weft.model.control_group import check_parent, group_below

ID = "ab" * 32


@pytest.mark.parametrize(
    ("written", "group"),
    [
        ("", ID),
        ("/", ID),
        (".", ID),
        ("foo", f"foo/{ID}"),
        ("/docker/buildx", f"docker/buildx/{ID}"),
        ("//foo/./bar/", f"foo/bar/{ID}"),
        ("my group.slice", f"my group.slice/{ID}"),
        ("/".join("abcdefghijklmnop"), f"{'/'.join('abcdefghijklmnop')}/{ID}"),
        ("x" * 255, f"{'x' * 255}/{ID}"),
        (ID[:12], f"{ID[:12]}/{ID}"),
        ("foo/monitors", f"foo/monitors/{ID}"),
    ],
)
def test_a_parent_is_counted_from_wefts_own_group(written: str, group: str) -> None:
    check_parent(written)
    assert group_below(written, ID) == group


@pytest.mark.parametrize(
    ("written", "cause"),
    [
        ("..", "would lead out"),
        ("/../foo", "would lead out"),
        ("foo/../bar", "would lead out"),
        ("foo\n", "cannot be printed"),
        ("foo\0bar", "cannot be printed"),
        ("x" * 256, "longer than 255 bytes"),
        ("é" * 128, "longer than 255 bytes"),
        ("/".join("abcdefghijklmnopq"), "more than 16 parts"),
        (ID, "the control group of a container"),
        (f"foo/{ID}/bar", "the control group of a container"),
        ("/monitors", "Weft's own"),
        ("./monitors/foo", "Weft's own"),
    ],
)
def test_no_parent_leads_out_of_it_or_into_anothers(written: str, cause: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid cgroup parent .*") as error:
        check_parent(written)
    assert cause in str(error.value)

"""The options with which the OCI runtime makes a container's mounts."""

import pytest

from weft.model.mount import BindOptions, Propagation
from weft.model.service import Mount
from weft.model.volume import MountPoint, point_of
from weft.runtime.mount_document import arranged, user_mounts


def options(mount: Mount, *, recursive_read_only: bool = True) -> list[str]:
    made = user_mounts([point_of(mount)], {}, recursive_read_only=recursive_read_only)
    return list(made.documents[0]["options"])


def bind(read_only: bool = False, **options: bool) -> Mount:
    bind = BindOptions(**options)  # type: ignore[arg-type]
    return Mount(type="bind", source="/a", target="/b", read_only=read_only, bind=bind)


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        (bind(), "rbind rw rprivate"),
        (bind(non_recursive=True), "bind rw rprivate"),
        (bind(True), "rbind rro rprivate"),
        (bind(True, read_only_non_recursive=True), "rbind ro rprivate"),
        (Mount(type="volume", source="data", target="/b"), "rbind rw rprivate"),
        (Mount(type="volume", source="data", target="/b", read_only=True), "rbind rro rprivate"),
        (Mount(type="tmpfs", target="/b"), "noexec nosuid nodev mode=1777 rw rprivate"),
        (
            Mount(type="tmpfs", target="/b", read_only=True, tmpfs_size=8192, tmpfs_mode=0o700, tmpfs_options=(("exec",),)),
            "exec nosuid nodev mode=700 ro size=8192 rprivate",
        ),
    ],
)  # fmt: skip
def test_options(mount: Mount, expected: str) -> None:
    assert options(mount) == expected.split()


def test_a_host_that_cannot_make_a_tree_read_only_makes_its_root_so() -> None:
    assert options(bind(True), recursive_read_only=False) == ["rbind", "ro", "rprivate"]


@pytest.mark.parametrize(
    ("propagations", "above"),
    [
        (("rprivate",), ""),
        (("slave",), "rslave"),
        (("rslave", "private"), "rslave"),
        (("rslave", "rshared"), "shared"),
    ],
)
def test_the_root_lets_through_what_a_mount_lets_through(
    propagations: tuple[Propagation, ...], above: str
) -> None:
    points = [
        MountPoint(type="bind", source="/a", destination=f"/{n}", propagation=propagation)
        for n, propagation in enumerate(propagations)
    ]
    made = user_mounts(points, {}, recursive_read_only=True)
    assert made.root_propagation == above
    assert [mount["options"][-1] for mount in made.documents] == list(propagations)


def test_a_mount_comes_after_the_one_that_it_lies_in_and_in_place_of_the_systems() -> None:
    system = [{"destination": name} for name in ("/proc", "/dev", "/dev/pts", "/dev/shm")]
    own = [{"destination": name} for name in ("/v/a/b", "/v", "/etc/hosts", "/dev/shm", "/v/a")]
    assert [mount["destination"] for mount in arranged(system, own)] == [
        "/proc", "/dev", "/dev/pts", "/v", "/etc/hosts", "/dev/shm", "/v/a", "/v/a/b",
    ]  # fmt: skip
    assert [mount["destination"] for mount in arranged(system, [{"destination": "/dev"}])] == [
        "/proc",
        "/dev",
    ]

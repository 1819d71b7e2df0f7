"""What a plain container gets when it is started."""

from ipaddress import IPv4Address

import msgspec
import pytest

from weft.engine.container_config import Host
from weft.engine.plain_config import Place, plain_config, started_config
from weft.errors import Conflict, InvalidArgument, NotFound, WeftError
from weft.model.container import Container, ContainerState, ImageConfig
from weft.model.container_request import ContainerRequest
from weft.model.ids import ContainerId
from weft.model.plain_container import NamespaceModes, PlainContainer
from weft.model.service import ContainerSpec


def container(id: str, hostname: str = "", **plain: object) -> Container:
    settings = PlainContainer(**plain)  # type: ignore[arg-type]
    spec = ContainerSpec(image="demo", hostname=hostname)
    request = ContainerRequest(name=id, spec=spec, plain=settings)
    config = plain_config(request, ContainerId(id), ImageConfig(), "host1")
    return Container(config=config, image="demo", args=(), state=ContainerState.RUNNING, pid=7)


@pytest.mark.parametrize(
    ("name", "domain", "line"),
    [
        ("box", "", "10.1.0.2\tbox\n"),
        ("box", "example.org", "10.1.0.2\tbox.example.org box\n"),
        ("box.example.org", "", "10.1.0.2\tbox.example.org box\n"),
        ("box.a", "example.org", "10.1.0.2\tbox.a.example.org box.a box\n"),
    ],
)
def test_the_full_name_comes_first_so_that_it_is_the_host_s(
    name: str, domain: str, line: str
) -> None:
    place = Place(host=Host("host1"), containers={}, addresses=[IPv4Address("10.1.0.2")])
    config = container("one", name, domain_name=domain).config
    assert started_config(config, place).hosts.endswith(f"allrouters\n{line}")


def test_who_joins_a_network_has_the_names_of_its_container() -> None:
    one = container("one", "box", domain_name="example.org")
    joined = container("two", modes=NamespaceModes(network="container:one"))
    place = Place(host=Host("host1"), containers={one.id: one})
    started = started_config(joined.config, place)
    assert started.plain is not None
    assert (started.hostname, started.plain.domain_name) == ("box", "example.org")
    assert started.hosts == one.config.hosts


def test_shared_memory_is_that_of_the_first_whose_ipc_namespace_was_joined() -> None:
    modes = {"one": "shareable", "two": "container:one", "three": "container:two", "four": ""}
    known: dict[ContainerId, Container] = {}
    for name, mode in modes.items():
        made = container(name, modes=NamespaceModes(ipc=mode))
        config = started_config(made.config, Place(host=Host("host1"), containers=known))
        known[made.id] = msgspec.structs.replace(made, config=config)
    owners = {str(id): each.config.shm_owner for id, each in known.items()}
    assert owners == {"one": "one", "two": "one", "three": "one", "four": ""}
    assert known[ContainerId("two")].config.shared == {"ipc": "/proc/7/ns/ipc"}


@pytest.mark.parametrize(
    ("modes", "kind", "text"),
    [
        ({"ipc": "container:own"}, InvalidArgument, "container own: non-shareable IPC (hint: use"),
        ({"ipc": "container:ended"}, Conflict, "join IPC namespace: container ended is not run"),
        ({"pid": "container:ended"}, Conflict, "join PID namespace: container ended is not run"),
        ({"ipc": "container:gone"}, InvalidArgument, "join IPC namespace: No such container: gone"),
        ({"pid": "container:gone"}, InvalidArgument, "join PID namespace: No such container: gone"),
        ({"network": "container:gone"}, NotFound, "No such container: gone"),
        ({"network": "container:ended"}, Conflict, "non running container: container ended is exi"),
    ],
)
def test_who_cannot_be_joined(modes: dict[str, str], kind: type[WeftError], text: str) -> None:
    own, ended = container("own"), container("ended", modes=NamespaceModes(ipc="shareable"))
    ended = msgspec.structs.replace(ended, state=ContainerState.EXITED, pid=0)
    place = Place(host=Host("host1"), containers={own.id: own, ended.id: ended})
    with pytest.raises(kind) as raised:
        started_config(container("it", modes=NamespaceModes(**modes)).config, place)
    assert text in str(raised.value)

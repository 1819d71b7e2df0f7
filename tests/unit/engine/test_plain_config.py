"""What a plain container gets when it is started."""

from ipaddress import IPv4Address

import pytest

from weft.engine.container_config import Host
from weft.engine.plain_config import Place, plain_config, started_config
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
    ("domain", "line"),
    [("", "10.1.0.2\tbox\n"), ("example.org", "10.1.0.2\tbox.example.org box\n")],
)
def test_the_full_name_comes_first_so_that_it_is_the_host_s(domain: str, line: str) -> None:
    place = Place(host=Host("host1"), containers={}, addresses=[IPv4Address("10.1.0.2")])
    config = container("one", "box", domain_name=domain).config
    assert started_config(config, place).hosts.endswith(f"allrouters\n{line}")


def test_who_joins_a_network_has_the_names_of_its_container() -> None:
    one = container("one", "box", domain_name="example.org")
    joined = container("two", modes=NamespaceModes(network="container:one"))
    place = Place(host=Host("host1"), containers={one.id: one})
    started = started_config(joined.config, place)
    assert started.plain is not None
    assert (started.hostname, started.plain.domain_name) == ("box", "example.org")
    assert started.hosts == one.config.hosts

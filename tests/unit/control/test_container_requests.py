"""Plain containers that make no sense."""

import pytest

from weft.control.requests.containers import validate_container
from weft.errors import InvalidArgument
from weft.model.container_request import ContainerRequest
from weft.model.plain_container import NamespaceModes, PlainContainer
from weft.model.service import ContainerSpec


@pytest.mark.parametrize("name", ["kernel.domainname", "kernel/domainname"])
def test_the_host_s_domain_name_is_no_container_s(name: str) -> None:
    def request(uts: str) -> ContainerRequest:
        spec = ContainerSpec(image="demo", sysctls={name: "x"})
        plain = PlainContainer(modes=NamespaceModes(uts=uts))
        return ContainerRequest(name="web", spec=spec, plain=plain)

    validate_container(request(""))
    with pytest.raises(InvalidArgument, match="not allowed in the host's UTS namespace"):
        validate_container(request("host"))

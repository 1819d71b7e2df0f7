"""This node's own networks, and its own containers on them; in a swarm or not."""

from collections.abc import Callable, Mapping, Sequence

from weft.engine.network import NetworkLoop
from weft.errors import NotFound, Unsupported
from weft.model.bridge_network import BridgeNetwork, BridgeNetworkSpec
from weft.model.endpoint_settings import EndpointSettings
from weft.model.ids import ContainerId
from weft.model.local_network import LocalEndpoint, LocalNetwork
from weft.model.local_sandbox import LocalSandbox
from weft.model.service import ContainerSpec, PublishedPort
from weft.network.desired import LocalPart

NOT_FOUND = "network {} not found"
NOT_YET = "cannot use network {}: this version of Weft has no networks of one node"


class LocalNetworks:
    def __init__(self, loop: NetworkLoop) -> None:
        self._loop = loop

    def load(self) -> None:
        """Finds the networks and the running containers' sandboxes of the previous daemon."""
        self._loop.desire_local(LocalPart())

    def all(self) -> list[BridgeNetwork]:
        """By name, with the default one."""
        return []

    def get(self, reference: str) -> BridgeNetwork:
        """`reference`: name, id or the beginning of an id. Raises `NotFound`."""
        raise NotFound(NOT_FOUND.format(reference))

    async def create(self, spec: BridgeNetworkSpec) -> BridgeNetwork:
        raise Unsupported(NOT_YET.format(spec.name))

    async def remove(self, reference: str) -> None:
        self.get(reference)

    async def prune(self, wanted: Callable[[BridgeNetwork], bool]) -> list[str]:
        """Removes networks without containers. Gives the names of the removed ones."""
        return []

    async def connect(
        self,
        container: ContainerId,
        name: str,
        spec: ContainerSpec,
        wanted: Sequence[EndpointSettings],
        ports: Sequence[PublishedPort],
    ) -> LocalSandbox:
        """Gives a container that is about to start its network: all or nothing. Returns when the
        namespace, the published ports and the names work. `name`: the container's. `wanted`: at
        least one network; `none` stands alone, and `host` is not for here. A published port of 0
        stands for a free one."""
        raise Unsupported(NOT_YET.format(wanted[0].network))

    async def disconnect(self, container: ContainerId) -> None:
        """Returns when nothing of the container is left in the kernel. One that is not connected
        is no error."""

    async def attach(self, container: ContainerId, settings: EndpointSettings) -> None:
        """Connects a container that has a sandbox to one more network."""
        raise Unsupported(NOT_YET.format(settings.network))

    async def detach(self, container: ContainerId, network: str, force: bool = False) -> None:
        """Takes a container that has a sandbox off a network. `force`: a container that is not
        there is no error."""
        self.get(network)

    def rename(self, container: ContainerId, name: str) -> None:
        """The container has another name from now on."""

    # --- what running containers have

    def sandbox(self, container: ContainerId) -> LocalSandbox | None:
        """None for a container that is not connected."""
        return None

    def has_names(self, container: ContainerId) -> bool:
        """Whether a name server answers in the container's sandbox, at `RESOLVER_ADDRESS`: on
        networks that users made. Otherwise the host's name servers are for the container."""
        return False

    def ports(self, container: ContainerId) -> tuple[PublishedPort, ...]:
        """With the host's ports that were chosen."""
        return ()

    def endpoints(self, container: ContainerId) -> Mapping[str, tuple[LocalNetwork, LocalEndpoint]]:
        """By the network's name, in the order of the container's interfaces."""
        return {}

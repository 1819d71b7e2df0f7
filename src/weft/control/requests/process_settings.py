"""Checks of a container's process: what no host could start is refused when it is asked for.

Docker Swarm accepts most of this, and its tasks fail one after the other. The texts are those with
which Docker's containers fail."""

from weft.errors import InvalidArgument, clip
from weft.model.capabilities import capability
from weft.model.kernel_settings import check_sysctls, check_ulimit
from weft.model.service import ContainerSpec
from weft.model.signals import signal_number

MAX_HOSTNAME = 64
"""Characters; the kernel's limit."""


def validate_process(spec: ContainerSpec, *, host_network: bool) -> None:
    """`spec`: with the values of its templates. Raises `InvalidArgument`."""
    try:
        check_process(spec, host_network=host_network)
    except InvalidArgument as error:
        raise InvalidArgument(f"ContainerSpec: {error}") from None


def check_process(spec: ContainerSpec, *, host_network: bool) -> None:
    """As `validate_process`, without the name of the service's part."""
    for name in spec.cap_add:
        capability("CapabilityAdd", name)
    for name in spec.cap_drop:
        capability("CapabilityDrop", name)
    if spec.stop_signal:
        signal_number(spec.stop_signal)
    if spec.dir and not spec.dir.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{clip(spec.dir)}' is invalid, it needs to be an absolute path"
        )
    check_sysctls(spec.sysctls, host_network=host_network)
    for limit in spec.ulimits:
        check_ulimit(limit)


def validate_hostname(hostname: str) -> None:
    """`hostname`: as given, without templates. Raises `InvalidArgument`."""
    check_host_name("ContainerSpec: Hostname", hostname)


def check_host_name(field: str, name: str) -> None:
    """The kernel keeps 64 characters of it; /etc/hosts has it among others. Raises
    `InvalidArgument`, which begins with `field`."""
    if len(name) > MAX_HOSTNAME:
        raise InvalidArgument(f"{field}: {clip(name)} has more than {MAX_HOSTNAME} characters")
    if not name.isprintable() or " " in name:
        raise InvalidArgument(f"{field}: {clip(name)!r} is not a name")

"""A plain container as a user asks for it, before the engine has made it."""

import msgspec

from weft.model.limits import NO_FURTHER, FurtherLimits
from weft.model.log_options import DEFAULT
from weft.model.plain_container import PlainContainer
from weft.model.service import ContainerSpec, Resources


class ContainerRequest(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    spec: ContainerSpec
    plain: PlainContainer
    limits: Resources = Resources()
    further: FurtherLimits = NO_FURTHER
    log_driver: str = DEFAULT
    log_options: dict[str, str] = {}
    stdin_once: bool = False
    shm_size: int = 0
    console_size: tuple[int, int] = (0, 0)

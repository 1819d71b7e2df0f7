"""The JSON of what a service changes about the confinement of its containers."""

from base64 import b64decode, b64encode
from typing import ClassVar, Literal

from msgspec import field

from weft.api.schema.common import Json, Wire, omit_empty
from weft.errors import InvalidArgument, Unsupported
from weft.model.privileges import Privileges

PATH = "TaskTemplate.ContainerSpec.Privileges"


class SeccompWire(Wire, frozen=True):
    mode: Literal["", "default", "unconfined", "custom"] = ""
    profile: str = ""
    """Base64."""


class AppArmorWire(Wire, frozen=True):
    mode: Literal["", "default", "disabled"] = ""


class SeLinuxWire(Wire, frozen=True):
    disable: bool = False
    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


class PrivilegesWire(Wire, frozen=True):
    lacks: ClassVar[tuple[str, ...]] = ("CredentialSpec",)

    se_linux_context: SeLinuxWire | None = field(name="SELinuxContext", default=None)
    seccomp: SeccompWire | None = None
    app_armor: AppArmorWire | None = None
    no_new_privileges: bool = False


def privileges_from(wire: PrivilegesWire | None) -> Privileges:
    """Raises `InvalidArgument` or `Unsupported`."""
    if wire is None:
        return Privileges()
    context = wire.se_linux_context or SeLinuxWire()
    if context.user or context.role or context.type or context.level:
        raise Unsupported(f"{PATH}.SELinuxContext: SELinux labels are not supported by Weft")
    seccomp = wire.seccomp or SeccompWire()
    return Privileges(
        selinux_disabled=context.disable,
        seccomp=seccomp.mode or "default",
        seccomp_profile=_profile(seccomp),
        apparmor=(wire.app_armor or AppArmorWire()).mode or "default",
        no_new_privileges=wire.no_new_privileges,
    )


def _profile(wire: SeccompWire) -> bytes:
    try:
        return b64decode(wire.profile, validate=True)
    except ValueError as error:
        raise InvalidArgument(f"{PATH}.Seccomp.Profile is not base64: {error}") from None


def privileges_json(privileges: Privileges) -> Json:
    """Empty for the defaults."""
    profile = b64encode(privileges.seccomp_profile).decode()
    is_default = privileges.seccomp == "default"
    seccomp = {} if is_default else {"Mode": privileges.seccomp} | omit_empty({"Profile": profile})
    apparmor = {} if privileges.apparmor == "default" else {"Mode": privileges.apparmor}
    selinux = {"Disable": True} if privileges.selinux_disabled else {}
    return omit_empty({
        "SELinuxContext": selinux, "Seccomp": seccomp, "AppArmor": apparmor, "NoNewPrivileges": privileges.no_new_privileges,
    })  # fmt: skip

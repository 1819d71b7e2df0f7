"""`--security-opt` and `--privileged` of a plain container: the same confinement that a service
states in `Privileges`, written in another way."""

from weft.api.schema.container_wire import HostConfigWire
from weft.errors import InvalidArgument, Unsupported, clip
from weft.model.privileges import Privileges
from weft.model.seccomp_profile import profile_from

_SECCOMP_DEFAULT = ("builtin", "default")
_APPARMOR_DEFAULT = ("docker-default", "")
_LABELS_OFF = ("disable",)


def privileges_written(host: HostConfigWire) -> Privileges:
    """Raises `InvalidArgument` or `Unsupported`, with the option."""
    found = {"privileged": host.privileged} | _paths(host)
    for option in host.security_opt:
        found |= _one(option)
    return Privileges(**found)  # type: ignore[arg-type]  # the options differ in type


def _paths(host: HostConfigWire) -> dict[str, object]:
    """`systempaths=unconfined` comes as two empty lists."""
    lists = (host.masked_paths, host.readonly_paths)
    if lists == (None, None):
        return {}
    if lists == ((), ()):
        return {"system_paths": "unconfined"}
    name = "MaskedPaths" if host.masked_paths is not None else "ReadonlyPaths"
    raise Unsupported(f"HostConfig.{name}: a list other than Docker's own is not supported by Weft")


def _one(option: str) -> dict[str, object]:
    mark = "=" if "=" in option else ":"
    name, given, value = option.partition(mark)
    match name:
        case "no-new-privileges":
            if not given or value == "true":
                return {"no_new_privileges": True}
            if value == "false":
                return {"no_new_privileges": False}
        case "seccomp" if given:
            return _seccomp(value)
        case "apparmor" if given:
            return _apparmor(value)
        case "label" if value in _LABELS_OFF:
            return {}  # without SELinux there are no labels
        case "label" if given:
            raise Unsupported(f"HostConfig.SecurityOpt: {clip(option)}: SELinux labels are not"
                              " supported by Weft")  # fmt: skip
        case "writable-cgroups" if value in ("", "false"):
            return {}
        case "writable-cgroups":
            raise Unsupported(f"HostConfig.SecurityOpt: {clip(option)} is not supported by Weft")
    raise InvalidArgument(f'invalid --security-opt 2: "{clip(option)}"')


def _seccomp(value: str) -> dict[str, object]:
    if value == "unconfined":
        return {"seccomp": "unconfined"}
    if value in _SECCOMP_DEFAULT:
        return {"seccomp": "default"}
    profile = value.encode()
    profile_from(profile)
    return {"seccomp": "custom", "seccomp_profile": profile}


def _apparmor(value: str) -> dict[str, object]:
    if value == "unconfined":
        return {"apparmor": "disabled"}
    if value in _APPARMOR_DEFAULT:
        return {"apparmor": "default"}
    raise Unsupported(
        f"HostConfig.SecurityOpt: apparmor={clip(value)}: profiles other than docker-default are"
        " not supported by Weft"
    )

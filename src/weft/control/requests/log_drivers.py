"""Checks of the log driver of a service's containers and of its options, with Docker's texts.
Docker checks the names when a service is created and the values when a task starts; here both are
refused at once."""

from collections.abc import Mapping

from weft.errors import InvalidArgument, Unsupported, clip
from weft.model import log_details
from weft.model.log_options import DOCKERS, OPTIONS, UNSUPPORTED, file_policy
from weft.model.service import TaskSpec
from weft.model.syslog import syslog_target


def validate_log_driver(task: TaskSpec) -> None:
    """Raises the errors of `check_log_driver`."""
    check_log_driver(task.log_driver, task.log_options, "TaskTemplate.LogDriver.Name")


def check_log_driver(
    driver: str, options: Mapping[str, str], field: str = "HostConfig.LogConfig.Type"
) -> None:
    """Raises `InvalidArgument`, or `Unsupported` for a driver that Weft does not have. `field`: the
    request's, with the driver."""
    if driver not in (*OPTIONS, *DOCKERS):
        raise InvalidArgument(f"logger: no log driver named '{clip(driver)}' is registered")
    if driver not in OPTIONS:
        raise Unsupported(f"{field}: the log driver {clip(driver)} is not supported by Weft")
    _check_mode(options)
    for name in options:
        if name in UNSUPPORTED.get(driver, ()):
            raise Unsupported(
                f"the log opt {name} for {driver} log driver is not supported by Weft"
            )
        if name not in (*OPTIONS[driver], "mode"):
            raise InvalidArgument(_unknown(name, driver))
    file_policy(driver, options)
    log_details.check(options)
    if driver == "syslog":
        syslog_target(options)


def _check_mode(options: Mapping[str, str]) -> None:
    """Options of all drivers. conmon reads a container's output as fast as it can write it to disk,
    and drops nothing: Docker's mode `blocking`."""
    mode = options.get("mode", "")
    if mode == "non-blocking":
        raise Unsupported("the log mode non-blocking (log opt mode) is not supported by Weft")
    if mode not in ("", "blocking"):
        raise InvalidArgument(f"logger: logging mode not supported: {clip(mode)}")
    if "max-buffer-size" in options:
        raise InvalidArgument(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
        )


def _unknown(name: str, driver: str) -> str:
    if driver == "local":
        return f"unknown log opt '{clip(name)}' for log driver local"
    return f"unknown log opt '{clip(name)}' for {driver} log driver"

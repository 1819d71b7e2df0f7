"""Which ESP engine this host uses, the kernel's or a process of Weft's; and the end of what the other one left.

An engine goes on without a daemon, so it may outlive the choice: the next daemon may find an ESP that the kernel did not have,
or miss one that it had. What the former engine left would be in the way: a process holds the ledger of sequence numbers, and
policies of the kernel refuse plain networks, whose datagrams nobody marks any more.
"""

import logging

from weft.daemon.options import DaemonOptions
from weft.errors import OperationFailed, WeftError
from weft.linux import xfrm
from weft.linux.base import EspEngine
from weft.linux.esp import datapath
from weft.linux.esp.client import UserspaceEngine
from weft.linux.xfrm import KernelEngine
from weft.network.ownership import ESP_DEVICE, ESP_SANDBOX

log = logging.getLogger(__name__)


def choose(options: DaemonOptions) -> tuple[EspEngine | None, str]:
    """Chooses by trying the kernel, not by its version: (engine, "") or (None, the missing
    features)."""
    why_not = xfrm.why_not()
    if why_not is None:
        return _kernel(options), ""
    missing = [why_not, *datapath.what_is_missing()]
    if len(missing) > 1:
        return None, "; ".join(missing)
    return _userspace(options), ""


async def end_others(options: DaemonOptions, chosen: EspEngine | None) -> None:
    """Ends what engines other than `chosen` left on this host, as far as possible."""
    for name, make in (("kernel", _kernel), ("userspace", _userspace)):
        if chosen is not None and chosen.name == name:
            continue
        try:
            other = make(options)
        except OperationFailed:  # the kernel has no IPsec at all
            continue
        try:
            await other.apply(None)
        except WeftError as error:
            log.error("encryption.other_engine_left engine=%s cause=%s", name, error)
        finally:
            await other.close()


def _kernel(options: DaemonOptions) -> EspEngine:
    return KernelEngine(options.data_root / "esp")


def _userspace(options: DaemonOptions) -> EspEngine:
    namespace = options.netns_dir / ESP_SANDBOX
    return UserspaceEngine(
        options.run_dir, options.data_root / "esp", ESP_DEVICE, namespace=namespace
    )

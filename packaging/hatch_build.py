"""Build hook: the optional C helper of the userspace ESP engine goes into the wheel where it can be built.

Without a compiler or OpenSSL's library the wheel is a pure one, and the engine works in Python; the reason is printed, nothing fails.
"""

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_DIRECTORY = "src/weft/linux/esp"


class EspHelper(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        reason = runpy.run_path(str(Path(self.root, _DIRECTORY, "build.py")))["build"]()
        if reason:
            self.app.display_warning(f"the C helper of the ESP engine is left out: {reason}")
            return
        build_data["artifacts"].append(f"{_DIRECTORY}/esp.so")
        build_data["pure_python"] = False
        # ctypes loads it: any Python of this platform will do.
        build_data["tag"] = (
            f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        )

"""The build hook: where AGENTMESH_COMPILE is 1, a wheel gets the compiled calls of agentmesh/primitives/_fast.c.

Else it is the pure wheel, whether there is a compiler or not: what is installed must not depend on what happens to lie
about. Where it is asked for and cannot be had, the build fails and says so.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SWITCH = "AGENTMESH_COMPILE"
MODULE = "agentmesh.primitives._fast"
SOURCE = "agentmesh/primitives/_fast.c"


def _is_wanted() -> bool:
    return os.environ.get(SWITCH, "") not in ("", "0")


class CompiledCalls(BuildHookInterface[Any]):
    """Compile one extension module with setuptools, which knows the compilers of each system."""

    def dependencies(self) -> list[str]:
        """Return what the build needs: nothing but hatchling for the pure wheel."""
        return ["setuptools>=77"] if _is_wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tell the wheel of the module and of its tag; for an editable installation, beside the source."""
        if not _is_wanted():
            return
        if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
            raise RuntimeError(f"{SWITCH}: the compiled calls are for CPython with its lock; unset it here")
        from setuptools import Distribution, Extension

        extension = Extension(MODULE, [SOURCE], py_limited_api=True)
        command: Any = Distribution({"ext_modules": [extension]}).get_command_obj("build_ext")
        command.build_lib = command.build_temp = str(Path(self.directory) / "compiled")
        command.inplace = version == "editable"
        command.force = True  # flags count too, and a source may be older than what was built of another release
        os.chdir(self.root)
        command.ensure_finalized()
        command.run()
        built = Path(command.get_ext_fullpath(MODULE))
        build_data["force_include"][str(built)] = str(Path(SOURCE).with_name(built.name))
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"cp311-abi3-{platform}"

"""Who else is installed under the name `agentmesh`: two packages of one name overwrite each other's files."""

from __future__ import annotations

import sys
import warnings
from os import listdir
from typing import Final

from agentmesh.errors import NameShared

DISTRIBUTION: Final = "agentmesh-e2ee"
_PACKAGE: Final = "agentmesh"
# Those that are known to hold a package of our name. Their metadata is looked for by the name of its folder, which is
# quick: to import what reads metadata, and to ask every distribution, takes longer than to make an agent.
_NAMESAKES: Final = ("agentmesh-platform", "agentmesh")


def namesakes() -> tuple[str, ...]:
    """Return every other distribution here that has a package of our name: all are asked, which takes its time."""
    from importlib.metadata import packages_distributions

    return tuple(sorted({name for name in packages_distributions().get(_PACKAGE, ()) if name != DISTRIBUTION}))


_once = iter((True,))  # taken by whoever asks first, in whichever thread


def warn_of_namesake() -> None:
    """Warn where a distribution that is known to have a package of our name stands in this environment; once a process.

    Where a filter makes errors of warnings, the first call alone fails.

    Raises:
        NameShared: as a warning.
    """
    told = about_namesake()
    if told:
        warnings.warn(told, NameShared, stacklevel=2)


def about_namesake() -> str:
    """Return the sentence on such a distribution, the first time in a process; empty again, or where there is none.

    What cannot be read is passed over.
    """
    found = next(filter(_is_here, _NAMESAKES), None) if next(_once, False) else None
    if found is None:
        return ""
    return (
        f"{found} is installed beside {DISTRIBUTION}, and both are imported as `{_PACKAGE}`: each overwrites files of "
        "the other, so give each an environment of its own"
    )


def _is_here(name: str) -> bool:
    try:
        if not any(_lists(folder, f"{name.replace('-', '_')}-") for folder in sys.path):
            return False
        from importlib.metadata import files

        found = files(name)
    except Exception:  # an environment that is damaged is no reason for an agent not to start
        return False
    return found is None or any(file.parts[0] == _PACKAGE for file in found)


def _lists(folder: str, beginning: str) -> bool:
    try:
        return any(entry.startswith(beginning) and entry.endswith("-info") for entry in listdir(folder or "."))
    except OSError:
        return False  # not there, or an archive

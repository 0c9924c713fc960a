"""Who else is installed under the name `agentmesh`: two packages of one name overwrite each other's files."""

from __future__ import annotations

import warnings
from importlib import metadata
from typing import Final

from agentmesh.errors import NameShared

DISTRIBUTION: Final = "agentmesh-e2ee"
_PACKAGE: Final = "agentmesh"
# Those that are known to hold a package of our name. Looked up by name, which reads no file where there is none; to ask
# every distribution for its packages takes longer the more there are.
_NAMESAKES: Final = ("agentmesh-platform", "agentmesh")


def namesakes() -> tuple[str, ...]:
    """Return every other distribution here that has a package of our name: all are asked, which takes its time."""
    return tuple(sorted({name for name in metadata.packages_distributions().get(_PACKAGE, ()) if name != DISTRIBUTION}))


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
        files = metadata.files(name)
    except Exception:  # an environment that is damaged is no reason for an agent not to start
        return False
    return files is None or any(file.parts[0] == _PACKAGE for file in files)

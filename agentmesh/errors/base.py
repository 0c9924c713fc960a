"""The roots of the error tree."""

from __future__ import annotations

from typing import Any, ClassVar


class AgentMeshError(Exception):
    """The root of every error of this library.

    Attributes:
        code: A stable, dotted name, safe to log, count and compare.
        text: One fixed sentence. It never carries a secret or text that a peer chose.
        hint: What to do next.
    """

    code: ClassVar[str] = "agentmesh"
    text: ClassVar[str] = "AgentMesh failed"
    hint: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()

    def __reduce__(self) -> tuple[type[AgentMeshError], tuple[Any, ...]]:
        # So that an error crosses a process pool: attributes stand in the order of the constructor's arguments.
        return type(self), tuple(value for name, value in vars(self).items() if not name.startswith("__"))

    def __str__(self) -> str:
        return f"{self.text} [{self.code}]" + (f"; {self.hint}" if self.hint else "")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(code={self.code!r})"


class LocalError(AgentMeshError):
    """This call was wrong or cannot be served now. Nothing changed."""

    code = "local"


class RemoteError(AgentMeshError):
    """These bytes are bad. Nothing changed; drop them; sessions live on."""

    code = "remote"


class TryAgain(RemoteError):
    """These bytes may be good, but not now. Nothing was stored; keep them and offer them again."""

    code = "remote.try_again"


class StoreError(AgentMeshError):
    """State at rest cannot be read or written."""

    code = "store"

"""The roots of the error tree."""

from __future__ import annotations

from typing import Any, ClassVar


class AgentMeshError(Exception):
    """The root of every error of this library.

    Attributes:
        code: A stable, dotted name, safe to log, count and compare.
        text: One fixed sentence. `str` adds numbers and names of the library's own, never a secret or a peer's text.
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

    def _detail(self) -> str:
        """Return what `str` adds to the text: numbers, and names that the library gives."""
        return ""

    def __str__(self) -> str:
        detail = self._detail()
        said = f"{self.text}: {detail}" if detail else self.text
        return f"{said} [{self.code}]" + (f"; {self.hint}" if self.hint else "")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(code={self.code!r})"


def numbers(got: int | None, allowed: int | None) -> str:
    """Return the numbers that are known, as `str` of an error shows them."""
    known = (("got", got), ("allowed", allowed))
    return ", ".join(f"{name} {number}" for name, number in known if number is not None)


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

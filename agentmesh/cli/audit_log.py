"""The files of an audit log as a command reads them, and how it ends where they are not what they should be."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, cast

from attrs import define, field

from agentmesh.audit import Handover, Record
from agentmesh.audit.exports import record_data
from agentmesh.cli.streams import overwrite, remark
from agentmesh.cli.text import Exit, amount, escaped, fail, reason
from agentmesh.errors import AgentMeshError, ArgumentInvalid, LogBroken, StoreFailed
from agentmesh.store import read_log_parts
from agentmesh.store.frames import CONTINUED, MAGIC

_WATCHED_FROM_BYTES: Final = 8 << 20
_FAULTS: Final = {
    "entry": "entry {} is not an entry of a log",
    "sequence": "entry {} has another number",
    "previous": "entry {} does not follow the one before it",
    "torn": "what stands behind {} whole entries is torn: by a crash, or it is being written now",
    "cut": "it ends after {} entries, before the checkpoint does",
    "root": "the first {} entries are not those that the checkpoint was signed over",
    "handover": "the file does not go on behind {} entries, where the one before it ends",
}


class Input:
    """Standard input as a file, of which the beginning is remembered."""

    def __init__(self) -> None:
        self.begun: bytes = b""
        self._file: Any = getattr(sys.stdin, "buffer", None)

    def read(self, size: int) -> bytes:
        """Return up to so many bytes."""
        if self._file is None:
            raise OSError("standard input is closed")
        data: bytes = self._file.read(size)
        self.begun = (self.begun + data[: len(MAGIC)])[: len(MAGIC)]
        return data


@define
class Log:
    """The files of a log: their paths, and how they are named in what is printed.

    Attributes:
        handover: What the first of them begins with, once it is read.
    """

    paths: list[str]
    shown: str = field(init=False)
    handover: Handover | None = field(init=False, default=None)
    _input: Input = field(init=False, factory=Input)

    @shown.default
    def _(self) -> str:
        return ", ".join("standard input" if path == "-" else escaped(path) for path in self.paths)

    def fail(self, error: AgentMeshError) -> NoReturn:
        """End the command, saying what is wrong with this log."""
        if isinstance(error, LogBroken):
            fault = _FAULTS.get(error.fault, "entry {} is wrong").format(f"{error.sequence:,}")
            status = Exit.TORN if error.fault == "torn" else Exit.TAMPERED
            if (error.fault, error.sequence) == ("entry", 0) and not self._begin_as_logs():
                status, fault = Exit.MALFORMED, f"not an audit log: {fault}"
            fail(f"{self.shown}: {fault} [{error.code}: {error.fault} at {error.sequence}]", status)
        if isinstance(error, StoreFailed) and isinstance(error.__cause__, OSError):
            fail(f"cannot read {self.shown}: {reason(error.__cause__)}", Exit.UNREADABLE)
        if isinstance(error, StoreFailed):
            fail(f"{self.shown}: {reason(error)}", Exit.UNREADABLE)
        if isinstance(error, ArgumentInvalid) and error.argument == "checkpoint":
            fail(f"{self.shown}: the checkpoint is of before; give the earlier files too, in order", Exit.USAGE)
        fail(f"{self.shown}: {reason(error)}", Exit.TAMPERED)

    def _begin_as_logs(self) -> bool:
        for path in self.paths:
            begun = self._input.begun
            if path != "-":
                with Path(path).open("rb") as file:
                    begun = file.read(len(MAGIC))
            if begun not in (MAGIC, CONTINUED):
                return False
        return True

    @contextmanager
    def watched(self, wanted: bool) -> Iterator[tuple[Iterator[bytes | Handover], Callable[[int], None]]]:
        """Yield the entries, and what tells on stderr how many have been verified."""
        on_terminal = sys.stderr.isatty()
        size = sum(map(_size_of, self.paths))
        read = 0
        told = False

        def entries() -> Iterator[bytes | Handover]:
            nonlocal read
            sources = [cast(BinaryIO, self._input) if path == "-" else path for path in self.paths]
            for entry in read_log_parts(*sources):
                if isinstance(entry, bytes):
                    read += len(entry) + 4
                elif self.handover is None and not read:
                    self.handover = entry
                yield entry

        def tell(count: int) -> None:
            nonlocal told
            if wanted or (on_terminal and size >= _WATCHED_FROM_BYTES):
                text = f"verifying {min(99, read * 100 // max(1, size)):3d} %  {amount(count, 'entries')}"
                (overwrite if on_terminal else remark)(text)
                told = True

        try:
            yield entries(), tell
        except AgentMeshError as error:
            self.fail(error)
        finally:
            if told and on_terminal:
                overwrite("")


def _size_of(path: str) -> int:
    try:
        return 0 if path == "-" else Path(path).stat().st_size
    except (OSError, ValueError):
        return 0  # whoever reads it will say why


@lru_cache(maxsize=1)  # a log has many records of one second
def _second(seconds: int) -> str | None:
    try:
        return f"{datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, OSError, ValueError):
        return None


def log_time(time_ms: int) -> str:
    """Return a time as tables of a log have it, `2026-01-01 00:00:00.000`, or the number where no calendar has it."""
    second = _second(time_ms // 1000)
    return f"{time_ms} ms" if second is None else f"{second}.{time_ms % 1000:03d}"


def record_value(record: Record) -> dict[str, Any]:
    """Return a record in the types of JSON, by the names of its attributes."""
    return {"at_ms": record.at_ms, "event": str(record.event), **record_data(record)}

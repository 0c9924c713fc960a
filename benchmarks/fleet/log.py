"""The audit logs of a fleet: thousands of sinks in one file."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from typing import Final, final

from agentmesh.audit import MemorySink

_BUFFER_BYTES: Final = 1 << 20


@final
class CommonFile:
    """One temporary file without a name, to which the sinks of all agents append. Memory holds where entries begin."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=_BUFFER_BYTES)  # noqa: SIM115 - closed by `close`
        self.size = 0

    def write(self, data: bytes) -> int:
        """Append, and return where it begins."""
        at = self.size
        self._file.write(data)
        self.size += len(data)
        return at

    def read(self, at: int, size: int) -> bytes:
        """Return what stands there."""
        return os.pread(self._file.fileno(), size, at)

    def flush(self) -> None:
        """Let what was written be read."""
        self._file.flush()

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


@final
class SharedSink:
    """A sink for one `AuditLog`, in the file of all."""

    __slots__ = ("_file", "_places")

    def __init__(self, file: CommonFile) -> None:
        self._file = file
        self._places = array("Q")

    def append(self, entries: Sequence[bytes], /) -> None:
        """Keep these entries."""
        for entry in entries:
            self._places.append(self._file.write(entry) << 16 | len(entry))

    def entries(self) -> Iterator[bytes]:
        """Yield the entries kept so far, in order."""
        self._file.flush()
        for place in self._places:
            yield self._file.read(place >> 16, place & 0xFFFF)


FleetSink = SharedSink | MemorySink

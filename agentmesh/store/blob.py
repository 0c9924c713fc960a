"""Where the sealed bytes of an attachment come from: a file, a call that fetches ranges, or bytes that come in order.

Nothing here believes a store. Ranges are computed from the reference, no more bytes than the blob has are put on disk,
and what comes is only ever handed to what verifies it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Final, Protocol, final

from agentmesh.attachments import Attachment
from agentmesh.errors import AgentMeshError, ArgumentInvalid, FetchFailed, IndexBroken, StoreFailed, TooLarge
from agentmesh.primitives.aead import OVERHEAD_BYTES
from agentmesh.primitives.arguments import BytesLike, received_argument
from agentmesh.store import files


class Readable(Protocol):
    """What is read from its beginning to its end: a file, a pipe, the body of a response."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        ...


_END: Final = object()
Fetch = Callable[[int, int], bytes]
Source = Fetch | files.Path | Readable | Iterable[bytes]


@final
class Blob:
    """The sealed bytes of one attachment, as some store gives them. Threads may share it if they may share the source.

    Args:
        attachment: Whose blob it is.
        source: See `open_file`.
        folder: Where bytes that come in order are put; the system's folder for temporary files if `None`.

    Raises:
        ArgumentInvalid: no source.
        StoreFailed: the file cannot be opened, or bytes cannot be put on disk.
        FetchFailed: what gives bytes in order raised.
        IndexBroken: a file, or bytes that came in order, of another length than the blob's.
    """

    def __init__(self, attachment: Attachment, source: Source, folder: str | None = None) -> None:
        self._layout = attachment.layout
        self._descriptor = -1
        self._spool: IO[bytes] | None = None
        self._fetch: Fetch = self._read
        if isinstance(source, str | os.PathLike):
            self._descriptor = files.open_file(files.path_argument("source", source), os.O_RDONLY)
            if os.fstat(self._descriptor).st_size != self._layout.blob_bytes:
                self.close()
                raise IndexBroken
        elif callable(source):
            self._fetch = source
        else:
            self._put_on_disk(self._pieces(source), folder)

    def chunk(self, number: int) -> bytes:
        """Return what the source gives for a chunk, of whatever length.

        Raises:
            ArgumentInvalid: it gives something else than bytes.
            FetchFailed: it raised.
        """
        return self._range(number, *self._layout.range_of(number))

    def tail(self) -> bytes:
        """Return what the source gives for the last chunk and the index, of whatever length.

        Raises:
            ArgumentInvalid: it gives something else than bytes.
            FetchFailed: it raised.
        """
        return self._range(self._layout.last, *self._layout.tail_range)

    def close(self) -> None:
        """Close what was opened here. Closing twice is no error."""
        spool, self._spool = self._spool, None
        descriptor, self._descriptor = self._descriptor, -1
        if spool is not None:
            spool.close()
        elif descriptor >= 0:
            os.close(descriptor)

    def _range(self, number: int, offset: int, length: int) -> bytes:
        failed = None
        data: Any = b""
        try:
            data = self._fetch(offset, length)
        except Exception as error:
            failed = error
        if failed is not None:
            raise FetchFailed(number) from failed
        try:
            return received_argument("source", data, length)
        except TooLarge:
            return b""  # as wrong as any other length, and nothing of it was copied
        except ArgumentInvalid:
            pass
        raise ArgumentInvalid("source", "gives something else than bytes")

    def _read(self, offset: int, length: int) -> bytes:
        return files.read_fully(self._descriptor, length, offset)

    def _put_on_disk(self, pieces: Iterator[Any], folder: str | None) -> None:
        """Write what comes in order to a file without a name, as it is, and not a byte more than there must be."""
        try:
            self._spool = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115 - closed with this
            self._descriptor = self._spool.fileno()
        except (OSError, ValueError) as error:
            raise StoreFailed from error
        try:
            self._fill(pieces)
        except BaseException:
            self.close()
            raise

    def _fill(self, pieces: Iterator[Any]) -> None:
        came = 0
        while (piece := self._next(pieces, came)) is not None:
            try:
                files.write_at(self._descriptor, piece, came)
            except OSError as error:
                raise StoreFailed from error
            came += len(piece)  # where it is too little, the end that is missing says so

    def _next(self, pieces: Iterator[Any], came: int) -> bytes | None:
        failed = None
        piece: Any = None
        try:
            piece = next(pieces, _END)
        except Exception as error:
            failed = error
        if failed is not None:
            number = min(came // (self._layout.piece_bytes + OVERHEAD_BYTES), self._layout.last)
            raise FetchFailed(number) from failed
        if piece is _END:
            return None
        wrong: AgentMeshError = IndexBroken()
        try:
            return received_argument("source", piece, self._layout.blob_bytes - came)
        except TooLarge:
            pass
        except ArgumentInvalid:
            wrong = ArgumentInvalid("source", "gives something else than bytes")
        raise wrong

    def _pieces(self, source: Any) -> Iterator[Any]:
        """Return what comes in order. What can be read is: its lines would have any length."""
        if isinstance(source, BytesLike):
            raise ArgumentInvalid("source", "bytes, not what gives them: pass a path, a call or an iterator")
        try:
            if hasattr(source, "read"):
                return iter(lambda: source.read(files.READ_BYTES), b"")
            if isinstance(source, Iterable):
                return iter(source)
        except Exception as error:
            failed = error
        else:
            raise ArgumentInvalid("source")
        raise FetchFailed(0) from failed

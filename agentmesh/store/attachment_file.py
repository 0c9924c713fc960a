"""An attachment as a file that can be read: whatever store it lies on, every byte is verified before it is handed over.

Section 6.6 of docs/protocol.md.
"""

from __future__ import annotations

import errno
import io
import operator
import os
import threading
from typing import Any, Final, NoReturn, final

from agentmesh.attachments import Attachment, AttachmentOpener
from agentmesh.limits import Limits
from agentmesh.primitives.arguments import frameless
from agentmesh.store import files
from agentmesh.store.blob import Blob, Source

_CLOSED: Final = "I/O operation on closed file"


@final
class AttachmentFile(io.RawIOBase):
    """The data of an attachment, readable and seekable, from any place in any order. A context manager.

    As a raw file of the standard library it raises `ValueError` once it is closed, `OSError` for a place before the
    beginning and `io.UnsupportedOperation` for what it is not for; and what `open_file` raises where a chunk is not
    the one that was sealed or cannot be had: then nothing was read and its place is the old one, so the same call can
    be made again. It gives as many bytes as it is asked for, and fewer only at the end.

    One chunk is kept, so small reads in order cost one fetch a chunk. `io.BufferedReader` around it makes them cheaper
    still; after an error, seek before you go on with that. Each call is whole where threads share one, but so is its
    place: threads that read different places want a file each.

    It has no `name`, because what opens files by the names of others is led by what a peer chose.

    Attributes:
        attachment: What is read.
        size: Bytes of the data.
    """

    @frameless
    def __init__(
        self,
        attachment: Attachment,
        source: Source,
        *,
        limits: Limits | None = None,
        folder: files.Path | None = None,
    ) -> None:
        """Fetch and verify the end of the blob: key, size and number of chunks are proved before anything is read.

        Args, Raises: those of `open_file`.
        """
        super().__init__()
        self._opener = AttachmentOpener(attachment, limits=limits)
        self.attachment: Attachment = attachment
        self.size: int = attachment.size
        self._place = 0
        self._lock = threading.RLock()  # a source may ask this file where it is
        self._blob = Blob(attachment, source, None if folder is None else files.path_argument("folder", folder))
        try:
            # The last chunk comes with the index, so a small file is fetched once.
            self._kept = attachment.layout.last, self._opener.take_tail(self._blob.tail())
        except BaseException:
            self._blob.close()
            raise

    def readable(self) -> bool:
        """Return that it is, unless it is closed."""
        self._open_or_refused()
        return True

    def seekable(self) -> bool:
        """Return that it is, unless it is closed."""
        self._open_or_refused()
        return True

    def tell(self) -> int:
        """Return the place that is read next."""
        self._open_or_refused()
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place, counted from the beginning, the present place or the end; return it. It may be behind the end.

        Raises:
            ValueError: closed, or `whence` is none of the three.
            OSError: a place before the beginning.
        """
        offset = operator.index(offset)
        with self._lock:
            self._open_or_refused()
            if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
                raise ValueError("whence is none of SEEK_SET, SEEK_CUR and SEEK_END")
            place = offset + (0, self._place, self.size)[whence]
            if place < 0:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            self._place = place
            return place

    @frameless
    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer with what comes next, verified; return how many bytes that are: fewer only at the end.

        Raises:
            ChunkBroken, FetchFailed, ArgumentInvalid: as `open_file`; nothing was read.
        """
        with self._lock, memoryview(buffer).cast("B") as view:
            self._open_or_refused()
            place = self._place
            filled = 0
            for number in self.attachment.layout.chunks_for(place, len(view)):
                data = self._data_of(number)
                begins = max(0, place - (number << self.attachment.chunk_exponent))
                piece = memoryview(data)[begins : begins + len(view) - filled]
                view[filled : filled + len(piece)] = piece
                filled += len(piece)
            self._place = place + filled
            return filled

    @frameless
    def read(self, size: int | None = -1, /) -> bytes:
        """Return what comes next, verified: `size` bytes, fewer only at the end; without a size, all that is left.

        Raises:
            ChunkBroken, FetchFailed, ArgumentInvalid: as `open_file`; nothing was read.
        """
        with self._lock:
            left = max(0, self.size - self.tell())
            wanted = -1 if size is None else operator.index(size)
            # No more is set aside than there is, however much is asked for.
            buffer = bytearray(left if wanted < 0 else min(wanted, left))
            self.readinto(buffer)
            return bytes(buffer)

    @frameless
    def readall(self) -> bytes:
        """Return all that is left, verified: ask for less of what does not fit into memory.

        Raises:
            ChunkBroken, FetchFailed, ArgumentInvalid: as `open_file`; nothing was read.
        """
        return self.read()

    def close(self) -> None:
        """Close it, and the file that it opened. A call or an iterator that it was given stays the caller's."""
        if not self.closed:
            blob = getattr(self, "_blob", None)  # none where it was refused
            if blob is not None:
                blob.close()
            self._kept = -1, b""
            super().close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("an AttachmentFile is open, and is neither copied nor pickled: open another")

    def _data_of(self, number: int) -> bytes:
        if self._kept[0] != number:
            self._kept = -1, b""  # before the next is there: one chunk is kept, not two
            self._kept = number, self._opener.open(number, self._blob.chunk(number))
        return self._kept[1]

    def _open_or_refused(self) -> None:
        if self.closed:
            raise ValueError(_CLOSED)


def open_file(
    attachment: Attachment,
    source: Source,
    *,
    limits: Limits | None = None,
    folder: files.Path | None = None,
) -> AttachmentFile:
    """Open an attachment, wherever its blob lies, and return it as a file to read, in any order. Section 6.6.

    The library fetches nothing by itself: it asks `source`. A peer chose `attachment.where`, and whoever fetches from
    whatever address a peer names is led into its own network: hold it against a list of your own, follow no redirect
    off it, and read no more than was asked for. The peer chose name and type too: a name is never a path, and a type no
    verdict.

    Args:
        attachment: What a message named.
        source: `fetch(offset, length)`, which returns `length` bytes of the blob from `offset` on; or a path; or what
            gives the whole blob in order, by `read` or by iterating, where a store has no ranges: it is put on disk
            first, sealed as it is. What a call answers is verified, so it may answer anything; what it raises is
            the cause of `FetchFailed`. A length of its own patience is the caller's to set.
        limits: `attachment_max_bytes`.
        folder: Where bytes that come in order are put, in a file without a name. The system's folder for temporary
            files if `None`; that may be memory.

    Raises:
        ArgumentInvalid: an argument of another type, or a source that gives something else than bytes.
        TooLarge: the attachment is larger than the limits allow; nothing was fetched.
        IndexBroken: the end of the blob, or its length, is not this attachment's.
        ChunkBroken: a chunk is not this attachment's; here the last one.
        FetchFailed: the source raised. Nothing is lost: call again.
        StoreFailed: the file cannot be opened, or the bytes cannot be put on disk.
    """
    return AttachmentFile(attachment, source, limits=limits, folder=folder)

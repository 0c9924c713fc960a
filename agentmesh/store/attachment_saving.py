"""An attachment saved to a file: the whole of it, verified before the file has its name; broken off, it goes on.

While it grows the file is the data, as far as it came, and behind it the nonce of each chunk:

    data || nonce_0 || ... || nonce_(m-1)            m chunks hold data; those behind it are zeros and are not fetched

A nonce is the first 24 bytes of a chunk. With it and the data of a piece the chunk can be made again, and its leaf is
either the index's or not: so what stands on disk after a crash is verified as strictly as what comes from a store, and
needs no second copy of the data. A chunk is there if it passes; nothing says so otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from agentmesh.attachments import Attachment, AttachmentOpener
from agentmesh.errors import ChunkBroken
from agentmesh.limits import Limits
from agentmesh.primitives.arguments import frameless
from agentmesh.store import files
from agentmesh.store.blob import Blob, Source
from agentmesh.store.growing_file import GrowingFile, refuse_own
from agentmesh.store.in_order import check_working, in_order

_NONCE_BYTES: Final = 24
Progress = Callable[[int, int], object]


@frameless
def save_file(
    attachment: Attachment,
    source: Source,
    path: files.Path,
    *,
    limits: Limits | None = None,
    threads: int = 1,
    progress: Progress | None = None,
    resume: bool = True,
) -> None:
    """Save the data of an attachment to a new file, mode 0600. It has its name once all of it is there and verified.

    Until then it grows at `path` + `.agentmesh-part`. Whatever breaks this off leaves that, and the same call goes on
    with it: what is there is verified, not trusted, and only the rest is fetched. To give up, delete it.

    `path` is yours to choose: never make it of `attachment.name`, which a peer chose. `open_file` says what holds for
    `source`, and for the address that a peer names.

    Args:
        attachment: What a message named.
        source: As `open_file` takes it; with more than one thread a call is called by several at once.
        path: Where the file is to stand. Nothing may be there: nothing is replaced.
        limits: `attachment_max_bytes`.
        threads: 1 to 64 that fetch and open at once. Each holds a chunk or two.
        progress: Called with the bytes that are done, verified ones of before included, and the bytes in all, after
            each chunk, in order, in the caller's thread. What it raises ends the call.
        resume: Go on with what a call before left; `False` begins anew.

    Raises:
        ArgumentInvalid: an argument of another type, or a source that gives something else than bytes.
        TooLarge: the attachment is larger than the limits allow; nothing was fetched.
        IndexBroken: the end of the blob, or its length, is not this attachment's.
        ChunkBroken: a chunk is not this attachment's: call again, or with another source.
        FetchFailed: the source raised: call again.
        StoreFailed: something stands at `path`, or the operating system refuses.
        StoreLocked: another call saves there at this moment.
        StoreMoved: somebody removes the growing file, or puts another in its place.
    """
    check_working(threads, progress, resume)
    path = files.path_argument("path", path)
    opener = AttachmentOpener(attachment, limits=limits)
    if isinstance(source, str | os.PathLike):
        refuse_own("source", files.path_argument("source", source), path)
    with GrowingFile(path) as file:
        if not resume:
            file.cut(0)
        blob = Blob(attachment, source, os.path.dirname(path))
        try:
            saving = _Saving(opener, blob, file)
            for done in in_order(threads, saving.take, opener.chunks_for(0, attachment.size)):
                if progress is not None:
                    progress(done, attachment.size)
        finally:
            blob.close()
        file.cut(attachment.size)
        file.finish()


class _Saving:
    """What the threads of one call share: nothing of it changes."""

    def __init__(self, opener: AttachmentOpener, blob: Blob, file: GrowingFile) -> None:
        self._layout = opener.layout
        self._opener = opener
        self._blob = blob
        self._file = file
        self._had_bytes = file.size()
        tail = blob.tail()
        # The last chunk comes with the index, so a small file is fetched once.
        self._last_data, self._last_nonce = opener.take_tail(tail), tail[:_NONCE_BYTES]

    def take(self, number: int) -> int:
        """Have the data of a chunk in the file, verified; return how many bytes there are up to its end."""
        layout = self._layout
        begins = number << layout.chunk_exponent
        size = layout.data_size(number)
        nonce_at = layout.size + _NONCE_BYTES * number
        if not (nonce_at < self._had_bytes and self._has(number, begins, size, nonce_at)):
            data, nonce = self._fetched(number)
            self._file.write(begins, data)
            self._file.write(nonce_at, nonce)
        return begins + size

    def _fetched(self, number: int) -> tuple[bytes, bytes]:
        if number == self._layout.last:
            return self._last_data, self._last_nonce
        chunk = self._blob.chunk(number)
        return self._opener.open(number, chunk), chunk[:_NONCE_BYTES]

    def _has(self, number: int, begins: int, size: int, nonce_at: int) -> bool:
        nonce = self._file.read(nonce_at, _NONCE_BYTES)
        if len(nonce) != _NONCE_BYTES or not any(nonce):
            return False
        try:
            self._opener.check(number, self._file.read(begins, size), nonce)
            return True
        except ChunkBroken:
            return False

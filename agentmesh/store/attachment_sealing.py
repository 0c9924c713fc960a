"""A file sealed as an attachment: a blob that any store may have, and the reference that opens it.

While it is sealed the blob grows beside its place, as `.agentmesh-part`, and `.agentmesh-key` beside that has what a
later call needs to go on: the key, so it is as secret as the file, mode 0600, and removed at the end. It does not say
how far the blob came. A chunk of before is kept where it opens and is of the very piece that stands in the
source now; any other is sealed anew, under a fresh nonce: so what was sealed in the end is what stands there.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from attrs import evolve

from agentmesh.attachments import Attachment, AttachmentSealer
from agentmesh.attachments.sizes import Layout
from agentmesh.errors import ChunkBroken, FileChanged, StateMalformed, StateVersionUnknown, StoreFailed
from agentmesh.primitives.arguments import frameless
from agentmesh.primitives.entropy import Entropy
from agentmesh.store import files
from agentmesh.store.attachment_saving import Progress
from agentmesh.store.growing_file import KEY_SUFFIX, GrowingFile, is_private, refuse_own
from agentmesh.store.in_order import check_working, in_order

_STATE_MAX_BYTES: Final = 4096


@frameless
def seal_file(
    path: files.Path,
    blob_path: files.Path,
    *,
    name: str | None = None,
    media_type: str = "",
    where: str = "",
    chunk_exponent: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
    entropy: Entropy | None = None,
    resume: bool = False,
) -> Attachment:
    """Seal a file into a new file, mode 0600, that any store may have; return what names and opens it. Section 6.6.

    The blob has its name once it is whole. Whatever breaks this off leaves two files beside it, of which the one that
    ends with `.agentmesh-key` is as secret as the file: delete both to give up, or call again with `resume`. What is
    returned is as secret as the file too. Send it once the blob can be fetched.

    Args:
        path: A regular file that nobody writes to meanwhile.
        blob_path: Where the blob is to stand. Nothing may be there: nothing is replaced.
        name: What the recipient is to call it, 0 to 255 bytes; the last part of `path` if `None`.
        media_type: What it is, 0 to 127 bytes.
        where: Where the blob will lie, 0 to 2048 bytes; `Attachment.located` says it later.
        chunk_exponent: 16 to 24, chunks of 64 KiB to 16 MiB; 18, or what the size needs for 65,536 chunks, if `None`.
        threads: 1 to 64 that read and seal at once. Each holds a chunk or two.
        progress: Called with the bytes that are done and the bytes in all, after each chunk, in order, in the caller's
            thread. What it raises ends the call.
        entropy: A source of randomness; the operating system's if `None`. Threads share it.
        resume: Go on under the key that a call before left, with what is of the file as it is now; `False` begins anew.

    Raises:
        ArgumentInvalid: an argument of another type, length or range; a file that needs more than 2^20 chunks.
        FileChanged: it was written to while it was sealed.
        RandomnessFailed: the source of randomness is stuck or broken.
        StoreFailed: something stands at `blob_path`, or the operating system refuses.
        StoreLocked: another call seals to it at this moment.
        StoreMoved: somebody removes the growing file, or puts another in its place.
    """
    check_working(threads, progress, resume)
    path, blob_path = files.path_argument("path", path), files.path_argument("blob_path", blob_path)
    texts = {"name": _last_part(path) if name is None else name, "media_type": media_type, "where": where}
    refuse_own("path", path, blob_path)
    descriptor = files.open_file(path, os.O_RDONLY)
    try:
        before = _version(descriptor)
        sealer = AttachmentSealer(**texts, size=before[0], chunk_exponent=chunk_exponent, entropy=entropy)
        with GrowingFile(blob_path) as blob:
            state = _State(blob_path + KEY_SUFFIX)
            sealer = _begun(state, sealer, state.read(entropy) if resume else None)
            _fill(blob, descriptor, sealer, threads, progress)
            if _version(descriptor) != before:
                raise FileChanged
            blob.finish()
            state.remove()
    finally:
        os.close(descriptor)
    # A sealer of before has the texts of the call that began it.
    return evolve(sealer.attachment, name=texts["name"], media_type=media_type, where=where)


def _last_part(path: str) -> str:
    """Return what a path is called; nothing where that is no text."""
    name = os.path.basename(path)
    try:
        name.encode()
        return name
    except UnicodeEncodeError:
        return ""


def _version(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns


def _begun(state: _State, new: AttachmentSealer, found: AttachmentSealer | None) -> AttachmentSealer:
    """Return the sealer that was found, if it is of such a file; else the new one, once it can be found."""
    if found is not None and found.layout == new.layout:
        return found
    state.write(new.export())
    return new


def _fill(
    blob: GrowingFile, descriptor: int, sealer: AttachmentSealer, threads: int, progress: Progress | None
) -> None:
    """Have all of the blob in its file: in any order, and by what is there already."""
    layout = sealer.layout
    assert layout is not None, "its size was given"
    had_bytes = blob.size()

    def leaf_of(number: int) -> bytes:
        return _sealed(blob, descriptor, sealer, layout, number, had_bytes)

    for number, leaf in enumerate(in_order(threads, leaf_of, range(layout.chunks))):
        sealer.take_leaf(number, leaf)
        if progress is not None:
            progress(min((number + 1) << layout.chunk_exponent, layout.size), layout.size)
    [index] = sealer.finish()
    blob.write(layout.blob_bytes - len(index), index)
    blob.cut(layout.blob_bytes)


def _sealed(
    blob: GrowingFile, descriptor: int, sealer: AttachmentSealer, layout: Layout, number: int, had_bytes: int
) -> bytes:
    """Have a chunk in the blob, of what stands in the source now; return its leaf."""
    size = layout.data_size(number)
    try:
        piece = files.read_fully(descriptor, size, number << layout.chunk_exponent) if size else b""
    except OSError as error:
        raise StoreFailed from error
    if len(piece) != size:
        raise FileChanged
    offset, length = layout.range_of(number)
    if offset + length <= had_bytes:
        try:
            return sealer.leaf_of_kept(number, piece, blob.read(offset, length))
        except ChunkBroken:
            pass  # a crash, or another version of the source
    chunk, leaf = sealer.seal_chunk(number, piece)
    blob.write(offset, chunk)
    return leaf


class _State:
    """What a later call needs to go on, in a file that is this user's alone."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self, entropy: Entropy | None) -> AttachmentSealer | None:
        """Return the sealer that was written; `None` where there is none, or one that may not be this user's."""
        with contextlib.suppress(StoreFailed):
            descriptor = files.open_file(self._path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            try:
                exported = files.read_fully(descriptor, _STATE_MAX_BYTES, 0) if _is_own(descriptor) else b""
            except OSError as error:
                raise StoreFailed from error
            finally:
                os.close(descriptor)
            with contextlib.suppress(StateMalformed, StateVersionUnknown):
                return AttachmentSealer.restore(exported, entropy=entropy)
        return None

    def write(self, exported: bytes) -> None:
        """Write it to a new file."""
        try:
            self.remove()
            descriptor = files.open_file(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                files.write_at(descriptor, exported, 0)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreFailed from error

    def remove(self) -> None:
        """Remove it, if it is there."""
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        except OSError as error:
            raise StoreFailed from error


def _is_own(descriptor: int) -> bool:
    return is_private(os.fstat(descriptor))

"""The form of a log file (docs/protocol.md, section 8.2): what it begins with, and its frames.

file  = magic, then frames;   frame = len32 || entry
magic = "agentmesh-log-1" 0x0a, or "agentmesh-log-1" 0x2b and then len32 || handover
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from agentmesh.audit.handover import HANDOVER_MAX_BYTES, Handover
from agentmesh.audit.merkle import leaf_hash
from agentmesh.audit.record import ENTRY_MAX_BYTES
from agentmesh.errors import ArgumentInvalid, LogBroken, RemoteError, StoreFailed
from agentmesh.store import files

MAGIC: Final = b"agentmesh-log-1\n"
CONTINUED: Final = b"agentmesh-log-1+"
LENGTH_BYTES: Final = 4
_LENGTH: Final = struct.Struct(">I")
Read = Callable[[], bytes]
Source = files.Path | BinaryIO


def framed(data: bytes) -> bytes:
    """Return the frame of an entry or a handover."""
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def read_head(data: bytes) -> tuple[bytes, int]:
    """Return (handover, where the first frame begins) of a file that begins with `data`; 4 KiB of it suffice.

    Raises:
        LogBroken: not a log file (`entry`), or what follows its first 16 bytes is no handover (`handover`).
    """
    if data.startswith(MAGIC):
        return b"", len(MAGIC)
    if not data.startswith(CONTINUED):
        raise LogBroken(0, "entry")
    start = len(CONTINUED) + LENGTH_BYTES
    length = int.from_bytes(data[len(CONTINUED) : start], "big")
    handover = data[start : start + length]
    if not 0 < length <= HANDOVER_MAX_BYTES or len(handover) < length:
        raise LogBroken(0, "handover")
    return handover, start + length


def handed_over(raw: bytes) -> Handover | None:
    """Return the handover in these bytes, `None` for none.

    Raises:
        LogBroken: they are no handover.
    """
    try:
        return Handover.decode(raw) if raw else None
    except RemoteError:
        pass
    raise LogBroken(0, "handover")


def read_entries(read: Read, sequence: int) -> Iterator[bytes]:
    """Yield the whole frames' entries, the first of which has number `sequence`; a torn tail ends it.

    Raises:
        LogBroken: a length that no entry has.
    """
    buffer, length_at = b"", _LENGTH.unpack_from
    while True:
        piece = read()
        buffer += piece
        start, begins, available = 0, LENGTH_BYTES, len(buffer)  # of a frame, and of the entry in it
        while begins <= available:
            (length,) = length_at(buffer, start)
            if not 0 < length <= ENTRY_MAX_BYTES:
                if length == 0 and is_zero(buffer[start:], read):
                    return
                raise LogBroken(sequence, "entry")
            end = begins + length
            if end > available:
                break
            yield buffer[begins:end]
            start, begins = end, end + LENGTH_BYTES
            sequence += 1
        buffer = buffer[start:]
        if not piece:
            return


def is_zero(begun: bytes, read: Read) -> bool:
    """Say whether nothing but zeros follows: a power cut leaves them where a length was written first."""
    piece = begun
    while True:
        if piece.strip(b"\x00"):
            return False
        piece = read()
        if not piece:
            return True


# --- for those who only read -----------------------------------------------------------------------------------------


def read_log_file(*sources: Source) -> Iterator[bytes]:
    """Yield the entries of a log, one file behind the other; somebody else may be writing the last. Nothing is changed.

    Args:
        sources: The files of one log, in order: paths, or binary files that are open for reading.

    Raises:
        ArgumentInvalid: not a path, nor a file.
        StoreFailed: the operating system refuses, or it is not a regular file.
        LogBroken: not a log file (`entry` at 0), one that does not go on where the file before it ends (`handover`), or
            its last frame is torn (`torn`, after all whole ones): cut off by a crash, or being written at this moment.
    """
    return (entry for entry in read_log_parts(*sources) if isinstance(entry, bytes))


def read_log_parts(*sources: Source) -> Iterator[bytes | Handover]:
    """Yield the entries as `read_log_file`, and before those of a file that goes on with a log its `Handover`.

    That is what `verify_entries` takes: so the files of one log are verified as one, or the last of them alone.
    """
    if not sources:
        raise ArgumentInvalid("sources")
    sequence, last = 0, b""
    for number, source in enumerate(sources):
        read, close = _opened(source)
        try:
            for entry in _read_file(read, sequence if number else None):
                if isinstance(entry, Handover):
                    if number and (entry.size != sequence or (last and leaf_hash(last) != entry.head)):
                        raise LogBroken(sequence, "handover")
                    sequence = entry.size
                else:
                    last = entry
                    sequence += 1
                yield entry
        except (OSError, ValueError) as error:
            raise StoreFailed from error
        finally:
            close()


def _read_file(read: Read, follows: int | None) -> Iterator[bytes | Handover]:
    """Yield a file's handover, if it has one, and its entries; where it `follows` so many, it must have one."""
    head = b""
    while len(head) < len(CONTINUED) + LENGTH_BYTES + HANDOVER_MAX_BYTES:
        piece = read()
        if not piece:
            break
        head += piece
    raw, start = read_head(head)
    handover = handed_over(raw)
    if follows is not None and handover is None:
        raise LogBroken(follows, "handover")
    if handover is not None:
        yield handover
    sequence = 0 if handover is None else handover.size
    begun: bytes | None = head[start:]
    total = len(head) - start

    def rest() -> bytes:
        nonlocal begun, total
        if begun:
            piece, begun = begun, None
            return piece
        piece = read()
        total += len(piece)
        return piece

    end = 0
    for entry in read_entries(rest, sequence):
        yield entry
        end += LENGTH_BYTES + len(entry)
        sequence += 1
    if end != total:
        raise LogBroken(sequence, "torn")


def _opened(source: Source) -> tuple[Read, Callable[[], None]]:
    if not isinstance(source, str | os.PathLike):
        if not callable(getattr(source, "read", None)):
            raise ArgumentInvalid("sources")
        return lambda: _bytes(source.read(files.READ_BYTES)), lambda: None
    descriptor = files.open_file(files.path_argument("sources", source), os.O_RDONLY)
    try:
        total = os.fstat(descriptor).st_size
    except OSError as error:
        os.close(descriptor)
        raise StoreFailed from error
    return files.reader(descriptor, 0, total), lambda: os.close(descriptor)


def _bytes(piece: bytes | None) -> bytes:
    if not isinstance(piece, bytes):
        raise ArgumentInvalid("sources")
    return piece

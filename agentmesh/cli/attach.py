"""`agentmesh attach seal|open|info`: a file sealed for any store, opened again, and what its reference says.

A reference is as secret as the file: it is read from a file or standard input, never from an argument, and written to a
file of mode 0600, or to standard output where that was asked for and is no terminal.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any, Final, NoReturn

from agentmesh.attachments import Attachment, parse_reference
from agentmesh.cli.command import Commands, add_command, add_group, answer
from agentmesh.cli.streams import overwrite
from agentmesh.cli.text import Exit, amount, escaped, fail, reason
from agentmesh.cli.whole_files import read
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    AttachmentBroken,
    FetchFailed,
    StoreFailed,
    StoreLocked,
    TooLarge,
)
from agentmesh.limits import CHUNK_EXPONENT_MAX, CHUNK_EXPONENT_MIN, REFERENCE_MAX_BYTES
from agentmesh.store import files, save_file, seal_file
from agentmesh.store.growing_file import is_private, refuse_own
from agentmesh.store.in_order import THREADS_MAX

_BAR_COLUMNS: Final = 30
_WATCHED_FROM_BYTES: Final = 8 << 20
_STATUSES: Final[dict[type[AgentMeshError], Exit]] = {
    StoreLocked: Exit.LOCKED,
    ArgumentInvalid: Exit.USAGE,
    TooLarge: Exit.MALFORMED,
}


def add(commands: Commands) -> None:
    """Add `attach` and its commands to the command line."""
    attaches = add_group(
        commands, "attach",
        what="seal a file for any store, and open it again",
        description="Seal a file of any size into a blob that any store may have, and a reference that opens it.",
    )  # fmt: skip
    seal = add_command(
        attaches, "seal", _seal,
        what="seal a file into a blob and a reference",
        description="Seal FILE into BLOB, and write the reference to REFERENCE. Whoever has both has the file: give "
        "the blob to a store, the reference to nobody but in a message. Nothing is replaced. Broken off, run it again "
        "with --resume; to give up, delete what stands beside BLOB: the key is in it.",
        example="q3.pdf q3.blob q3.reference",
    )  # fmt: skip
    seal.add_argument("file", metavar="FILE", help="a regular file that nobody writes to meanwhile")
    seal.add_argument("blob", metavar="BLOB", help="where the blob is to stand")
    seal.add_argument("reference", metavar="REFERENCE", help="where the reference is to stand, mode 0600; `-` for "
                      "standard output, which must be no terminal")  # fmt: skip
    seal.add_argument("--name", metavar="TEXT", help="what the recipient is to call it; FILE's own name if left out")
    seal.add_argument("--media-type", metavar="TEXT", default="", help="what it is, as application/pdf")
    seal.add_argument("--where", metavar="TEXT", default="", help="where the blob will lie; no secret goes here, "
                      "because others can read arguments")  # fmt: skip
    seal.add_argument(
        "--chunk-exponent", type=int, choices=range(CHUNK_EXPONENT_MIN, CHUNK_EXPONENT_MAX + 1), metavar="C",
        help="chunks of 2 to the power of C bytes, 16 to 24; 18 if left out, or what the size needs",
    )  # fmt: skip
    seal.add_argument("--resume", action="store_true", help="go on with what a run before left")

    opened = add_command(
        attaches, "open", _open,
        what="open a blob with its reference",
        description="Verify BLOB against the reference, and let TO stand, mode 0600, once all of it has passed. Broken "
        "off, run it again. Nothing is replaced, and no name that a peer chose is used.",
        example="q3.reference q3.blob opened.pdf",
    )  # fmt: skip
    opened.add_argument("reference", metavar="REFERENCE", help="the reference's file, `-` for standard input")
    opened.add_argument("blob", metavar="BLOB", help="the blob's file, `-` for standard input")
    opened.add_argument("to", metavar="TO", help="where the file is to stand")
    opened.add_argument("--anew", action="store_true", help="do not go on with what a run before left")

    info = add_command(
        attaches, "info", _info,
        what="show what a reference says that is not secret",
        description="Show the sizes and the receipt of an attachment: nothing that is secret. Its name, type and "
        "address are content, and shown only where asked for.",
        example="q3.reference",
    )  # fmt: skip
    info.add_argument("reference", metavar="REFERENCE", help="the reference's file, `-` for standard input")
    info.add_argument("--texts", action="store_true", help="show name, type and address too: texts that a peer chose")

    for one in (seal, opened):
        one.add_argument("--threads", type=int, default=1, choices=range(1, THREADS_MAX + 1), metavar="N",
                         help=f"how many work at once, 1 to {THREADS_MAX}")  # fmt: skip


# --- how it ends, and what is seen meanwhile -------------------------------------------------------------------------


def _refused(shown: str, error: AgentMeshError) -> NoReturn:
    if isinstance(error, AttachmentBroken):
        fail(f"{shown}: {reason(error)}", Exit.TAMPERED)
    if isinstance(error, FetchFailed | StoreFailed) and isinstance(error.__cause__, FileExistsError):
        fail(f"{shown} is there already; nothing is replaced", Exit.USAGE)
    if isinstance(error, FetchFailed | StoreFailed) and isinstance(error.__cause__, OSError):
        fail(f"cannot read or write {shown}: {reason(error.__cause__)}", Exit.UNREADABLE)
    fail(f"{shown}: {reason(error)}", _STATUSES.get(type(error), Exit.FAILED))


@contextmanager
def _progress(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what shows a bar on stderr, where somebody watches and it takes long enough."""
    watched = sys.stderr.isatty()
    told = -1

    def show(done: int, size: int) -> None:
        nonlocal told
        percent = done * 100 // max(1, size)
        if watched and size >= _WATCHED_FROM_BYTES and percent != told:
            bar = "#" * (percent * _BAR_COLUMNS // 100)
            overwrite(f"{doing} {percent:3d} %  [{bar:<{_BAR_COLUMNS}}]  {done:,} of {amount(size, 'bytes')}")
            told = percent

    try:
        yield show
    finally:
        if told >= 0:
            overwrite("")


# --- references ------------------------------------------------------------------------------------------------------


def _reference(path: str) -> Attachment:
    shown = "standard input" if path == "-" else escaped(path)
    encoded = read(path, REFERENCE_MAX_BYTES)
    try:
        found = parse_reference(encoded)
    except AgentMeshError as error:
        fail(f"{shown}: no reference: {reason(error)}", Exit.MALFORMED)
    if not isinstance(found, Attachment):
        fail(f"{shown}: a reference of kind {found.kind}, which this release does not know", Exit.MALFORMED)
    return found


@contextmanager
def _reference_file(path: str, blob: str, *, resume: bool) -> Iterator[Callable[[Attachment], None]]:
    """Yield what writes the reference to a new file, which is there before anything is sealed; gone if nothing was.

    What is sealed is lost without its reference. A run that was killed leaves it empty: one that goes on takes it.
    """
    written = False
    try:
        descriptor = files.open_file(path, os.O_WRONLY | os.O_CREAT | (0 if resume else os.O_EXCL))
    except StoreFailed as error:
        _refused(escaped(path), error)

    def write(attachment: Attachment) -> None:
        nonlocal written
        try:
            files.write_at(descriptor, attachment.encode(), 0)
            os.fsync(descriptor)
            written = True
        except OSError as error:
            fail(f"cannot write {escaped(path)}: {reason(error)}", Exit.UNREADABLE)

    try:
        found = os.fstat(descriptor)
        if found.st_size or not is_private(found):
            written = True
            fail(f"{escaped(path)} is there already; nothing is replaced", Exit.USAGE)
        refuse_own("reference", path, blob)
        yield write
    finally:
        if not written and files.is_at(path, descriptor):
            os.unlink(path)
        os.close(descriptor)


def _write_to_output(attachment: Attachment) -> None:
    sys.stdout.buffer.write(attachment.encode())
    sys.stdout.buffer.flush()


# --- the commands ----------------------------------------------------------------------------------------------------


def _seal(arguments: argparse.Namespace) -> int:
    to = arguments.reference
    if to == "-" and arguments.json:
        fail("standard output is the reference's or the answer's, and not both", Exit.USAGE)
    if to == "-" and sys.stdout.isatty():
        fail("a reference is binary, and secret: give a file, or standard output that is no terminal", Exit.USAGE)
    writing = (
        nullcontext(_write_to_output) if to == "-" else _reference_file(to, arguments.blob, resume=arguments.resume)
    )
    try:
        with writing as write:
            with _progress("sealing") as show:
                attachment = seal_file(
                    arguments.file, arguments.blob, name=arguments.name, media_type=arguments.media_type,
                    where=arguments.where, chunk_exponent=arguments.chunk_exponent, threads=arguments.threads,
                    progress=show, resume=arguments.resume,
                )  # fmt: skip
            write(attachment)
    except AgentMeshError as error:
        _refused(f"{escaped(arguments.file)}, {escaped(arguments.blob)}", error)
    if to != "-":
        answer(arguments, _sizes_value(attachment), _sizes_lines(attachment))
    return Exit.OK


def _open(arguments: argparse.Namespace) -> int:
    if arguments.reference == arguments.blob == "-":
        fail("only one of the two can be standard input", Exit.USAGE)
    attachment = _reference(arguments.reference)
    source: Any = sys.stdin.buffer if arguments.blob == "-" else arguments.blob
    try:
        with _progress("opening") as show:
            save_file(
                attachment, source, arguments.to,
                threads=arguments.threads, progress=show, resume=not arguments.anew,
            )  # fmt: skip
    except AgentMeshError as error:
        blob = "standard input" if arguments.blob == "-" else escaped(arguments.blob)
        _refused(f"{blob}, {escaped(arguments.to)}", error)
    line = f"{escaped(arguments.to)}: {amount(attachment.size, 'bytes')}, all verified"
    answer(arguments, {"path": arguments.to, "size_bytes": attachment.size}, (line,))
    return Exit.OK


def _info(arguments: argparse.Namespace) -> int:
    attachment = _reference(arguments.reference)
    texts = {"name": attachment.name, "media_type": attachment.media_type, "where": attachment.where}
    value = {**_sizes_value(attachment), **(texts if arguments.texts else {})}
    lines = (
        "What a peer chose to call it: a name is no path, a type no verdict, an address not to be followed blindly",
        f"name      {escaped(attachment.name, 255)}",
        f"type      {escaped(attachment.media_type, 127)}",
        f"where     {escaped(attachment.where, 2048)}",
    )
    answer(arguments, value, chain(_sizes_lines(attachment), lines if arguments.texts else ()))
    return Exit.OK


def _sizes_value(attachment: Attachment) -> dict[str, Any]:
    return {
        "size_bytes": attachment.size,
        "blob_bytes": attachment.blob_bytes,
        "chunks": attachment.chunks,
        "chunk_bytes": 1 << attachment.chunk_exponent,
        "blob_id": attachment.blob_id.hex(),
        "receipt": attachment.receipt.hex(),
    }


def _sizes_lines(attachment: Attachment) -> Iterator[str]:
    yield f"size      {amount(attachment.size, 'bytes')}"
    chunk_bytes = f"{1 << attachment.chunk_exponent:,} bytes"
    yield f"blob      {amount(attachment.blob_bytes, 'bytes')}: {amount(attachment.chunks, 'chunks')} of {chunk_bytes}"
    yield f"blob id   {attachment.blob_id.hex()}"
    yield f"receipt   {attachment.receipt.hex()}"

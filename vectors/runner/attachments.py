"""The operations of attachments: references, sealing, opening, and the disclosure of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agentmesh.attachments import (
    Attachment,
    AttachmentDisclosure,
    AttachmentOpener,
    AttachmentSealer,
    UnknownReference,
    parse_reference,
    verify_attachment,
)
from agentmesh.errors import Malformed
from agentmesh.primitives import _crypto
from agentmesh.primitives.keys import Receipt
from runner.values import Json, limits_of, unhex

_PERIOD: Final = 251
_SHOWN_MAX_BYTES: Final = 4096


def data_of(size: int) -> bytes:
    """Return the data of the attachments of vectors: byte i is i mod 251."""
    return (bytes(range(_PERIOD)) * (size // _PERIOD + 1))[:size]


class _Draws:
    """The key, then the nonces, behind two draws that decide nothing: a sealer tries its source before it uses it."""

    def __init__(self, given: Json) -> None:
        self._values = [bytes(range(32)), bytes(range(1, 33)), unhex(given["key"]), *map(unhex, given["nonces"])]

    def token(self, size: int, /) -> bytes:
        value = self._values.pop(0)
        if len(value) != size:
            raise ValueError("a draw of another size")
        return value

    def encapsulate(self, _public_key: bytes, /) -> tuple[bytes, bytes]:
        raise LookupError("an attachment needs no encapsulation")


def sealed(given: Json) -> tuple[Attachment, list[bytes], bytes]:
    """Return an attachment, its chunks and its index."""
    sealer = AttachmentSealer(
        chunk_exponent=given["chunk_exponent"],
        entropy=_Draws(given),
        **{name: given.get(name, "") for name in ("name", "media_type", "where")},
    )
    *chunks, index = [*sealer.update(data_of(given["size"])), *sealer.finish()]
    return sealer.attachment, chunks, index


def blob_of(given: Json) -> bytes:
    """Return the blob that an input describes: its bytes, or how it is sealed, and what is then done to it."""
    if "bytes" in given:
        return unhex(given["bytes"])
    _, chunks, index = sealed(given)
    original = b"".join([*chunks, index])
    blob = original
    for edit in given["edits"]:
        put = unhex(edit["insert"])
        if "copy" in edit:
            begin, length = edit["copy"]
            put += original[begin : begin + length]
        blob = blob[: edit["at"]] + put + blob[edit["at"] + edit["remove"] :]
    return blob


def _reference_parse(given: Json) -> Json:
    reference = parse_reference(unhex(given["reference"]))
    if isinstance(reference, UnknownReference):
        return {"kind": reference.kind}
    return {
        "kind": 1,
        "key": reference.key.reveal().hex(),
        "size": reference.size,
        "chunk_exponent": reference.chunk_exponent,
        "receipt": reference.receipt.hex(),
        "name": reference.name,
        "media_type": reference.media_type,
        "where": reference.where,
        "blob_id": reference.blob_id.hex(),
        "padded_bytes": reference.padded_bytes,
        "chunks": reference.chunks,
        "blob_bytes": reference.blob_bytes,
    }


def _seal(given: Json) -> Json:
    attachment, chunks, index = sealed(given)
    blob = b"".join([*chunks, index])
    shown = {"blob": blob.hex()} if len(blob) <= _SHOWN_MAX_BYTES else {}
    return {
        "reference": attachment.encode().hex(),
        "receipt": attachment.receipt.hex(),
        "blob_id": attachment.blob_id.hex(),
        "index": index.hex(),
        "blob_sha256": _crypto.sha256(blob).hex(),
        **shown,
    }


def _open(given: Json) -> Json:
    attachment = parse_reference(unhex(given["reference"]))
    if isinstance(attachment, UnknownReference):
        raise Malformed
    blob = blob_of(given["blob"])

    def fetch(offset: int, length: int) -> bytes:
        return blob[offset : offset + length]

    opener = AttachmentOpener(attachment, limits=limits_of(given))
    pieces = [opener.take_tail(fetch(*opener.tail_range))]
    pieces += [opener.open(number, fetch(*opener.range_of(number))) for number in given["numbers"]]
    return {
        "piece_bytes": [len(piece) for piece in pieces],
        "pieces_sha256": [_crypto.sha256(piece).hex() for piece in pieces],
    }


def _disclose(given: Json) -> Json:
    blob = blob_of(given["blob"])
    attachment = verify_attachment(
        AttachmentDisclosure(unhex(given["disclosure"])),
        lambda offset, length: blob[offset : offset + length],
        receipt=Receipt(unhex(given["receipt"])),
        size_bytes=given["blob_bytes"],
        limits=limits_of(given),
    )
    return {"size": attachment.size, "chunk_exponent": attachment.chunk_exponent}


CALLS: dict[str, Callable[[Json], Json]] = {
    "attachment.parse": _reference_parse,
    "attachment.seal": _seal,
    "attachment.open": _open,
    "attachment.disclose": _disclose,
}

"""Attachments, references to them, and the disclosure of one: sections 6.5, 6.6 and 8.4."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from verifier.common import Json, Refused, Trace, Unusable, limits_of, refuse, unhex
from verifier.encoding import encode, exactly, is_uint, text_of, unpack
from verifier.primitives import kdf, label_of, open_sealed, padme, seal

REFERENCE_MAX_BYTES = 4096
CHUNK_EXPONENT_MIN, CHUNK_EXPONENT_MAX = 16, 24
CHUNKS_MAX = 2**20
SEALED_MORE = 72  # bytes of a chunk beyond its piece
LEAF_BYTES = 32
DISCLOSURE_BYTES = 41
ATTACHMENT = 1  # the kind
BLOB_SHOWN = 4096  # a blob that is longer is told by its hash alone
DISCLOSURE_REFUSAL = "audit.disclosure"


@dataclass(frozen=True)
class Shape:
    """What follows from size and exponent alone; with the exponent of a stranger only where `fits` holds."""

    size: int
    exponent: int

    @property
    def fits(self) -> bool:
        """Whether there is such an attachment."""
        return CHUNK_EXPONENT_MIN <= self.exponent <= CHUNK_EXPONENT_MAX and self.chunks <= CHUNKS_MAX

    @property
    def padded(self) -> int:
        """P."""
        return padme(max(self.size, 1))

    @property
    def chunks(self) -> int:
        """How many chunks there are, n."""
        return -(-self.padded >> self.exponent)

    @property
    def index_bytes(self) -> int:
        """How long the index is."""
        return LEAF_BYTES * self.chunks

    @property
    def blob_bytes(self) -> int:
        """How long the blob is."""
        return self.padded + SEALED_MORE * self.chunks + self.index_bytes

    def begins(self, i: int) -> int:
        """Where chunk i begins in the blob."""
        return i * ((1 << self.exponent) + SEALED_MORE)

    def piece_bytes(self, i: int) -> int:
        """How long piece i is."""
        return min(1 << self.exponent, self.padded - (i << self.exponent))

    def data_bytes(self, i: int) -> int:
        """How much of piece i is data."""
        return max(0, min(1 << self.exponent, self.size - (i << self.exponent)))

    def context(self, i: int) -> bytes:
        """The context of chunk i: *outer* for the last, else *inner*."""
        begin = i.to_bytes(8, "big") + bytes([self.exponent])
        return begin + (b"\x01" + self.size.to_bytes(8, "big") if i == self.chunks - 1 else b"\x00")

    def receipt(self, index: bytes) -> bytes:
        """The receipt that an index gives."""
        head = label_of("attachment") + bytes([self.exponent]) + self.padded.to_bytes(8, "big")
        return hashlib.sha256(head + index).digest()


@dataclass(frozen=True)
class Reference:
    """A reference of kind 1."""

    key: bytes
    shape: Shape
    receipt: bytes
    name: str
    media_type: str
    where: str


def leaf_of(chunk: bytes) -> bytes:
    """What stands for a chunk in the index."""
    return kdf(b"", "am1-leaf", chunk, LEAF_BYTES)


def blob_id_of(key: bytes) -> bytes:
    """The name of a blob."""
    return kdf(key, "am1-blob", b"", 16)


def read_reference(data: bytes) -> tuple[int, Reference | None]:
    """The table "References" of section 6.6: the kind, and what a reference of kind 1 says."""
    if len(data) > REFERENCE_MAX_BYTES:
        refuse("wire.too_large")
    if len(data) < 2 or not 0x91 <= data[0] <= 0x9F or not 0x01 <= data[1] <= 0x7F:
        refuse("wire.malformed")
    if data[1] != ATTACHMENT:
        return data[1], None
    forms = (is_uint, exactly(32), is_uint, is_uint, exactly(32), text_of(0, 255), text_of(0, 127), text_of(0, 2048))
    _, key, size, exponent, receipt, name, media_type, where = unpack(data, *forms)
    shape = Shape(size, exponent)
    if not shape.fits:
        refuse("wire.malformed")
    return ATTACHMENT, Reference(key, shape, receipt, name, media_type, where)


def piece_of(shape: Shape, i: int) -> bytes:
    """Piece i of the data that README.md says all attachments here have."""
    begin, size = i << shape.exponent, shape.data_bytes(i)
    return bytes(j % 251 for j in range(begin, begin + size)).ljust(shape.piece_bytes(i), b"\x00")


def seal_blob(key: bytes, shape: Shape, nonces: list[bytes], trace: Trace) -> tuple[bytes, bytes]:
    """The blob and its index."""
    if len(nonces) != shape.chunks:
        raise Unusable("not a nonce for each chunk")
    blob = index = b""
    for i, nonce in enumerate(nonces):
        trace["context"] = shape.context(i)
        chunk = seal(key, "am1-chunk", trace["context"], piece_of(shape, i), nonce, trace)
        trace["leaf"] = leaf_of(chunk)
        blob, index = blob + chunk, index + trace["leaf"]
    return blob + index, index


@dataclass(frozen=True)
class Reader:
    """Who has key, shape and receipt, and a blob that may be anything."""

    key: bytes
    shape: Shape
    receipt: bytes
    blob: bytes

    def tail(self) -> tuple[bytes, bytes]:
        """Steps 2 and 3 of "Opening": the index, and the data of the last chunk."""
        last = self.shape.chunks - 1
        size = self.shape.piece_bytes(last) + SEALED_MORE
        begin = self.shape.begins(last)
        tail = self.blob[begin : begin + size + self.shape.index_bytes]
        index = tail[size:]
        if len(index) != self.shape.index_bytes or not hmac.compare_digest(self.shape.receipt(index), self.receipt):
            refuse("attachment.index")
        return index, self.opened(last, index)

    def opened(self, i: int, index: bytes) -> bytes:
        """Step 4: the data of chunk i."""
        begin, size = self.shape.begins(i), self.shape.piece_bytes(i) + SEALED_MORE
        chunk = self.blob[begin : begin + size]
        if len(chunk) != size or leaf_of(chunk) != index[LEAF_BYTES * i : LEAF_BYTES * (i + 1)]:
            raise Refused("attachment.chunk", {"number": i})
        try:
            piece = open_sealed(self.key, "am1-chunk", self.shape.context(i), chunk, {})
        except Refused:
            raise Refused("attachment.chunk", {"number": i}) from None
        if any(piece[self.shape.data_bytes(i) :]):
            raise Refused("attachment.chunk", {"number": i})
        return piece[: self.shape.data_bytes(i)]


def blob_in(given: Json) -> bytes:
    """The blob of an input, edits made."""
    if "bytes" in given:
        return unhex(given["bytes"])
    shape = Shape(given["size"], given["chunk_exponent"])
    sealed, _ = seal_blob(unhex(given["key"]), shape, [unhex(nonce) for nonce in given["nonces"]], {})
    blob = sealed
    for edit in given["edits"]:
        at, begin, length = edit["at"], *edit.get("copy", (0, 0))
        more = unhex(edit["insert"]) + sealed[begin : begin + length]
        blob = blob[:at] + more + blob[at + edit["remove"] :]
    return blob


def attachment_parse(given: Json, _: Trace) -> Json:
    """attachment.parse."""
    kind, reference = read_reference(unhex(given["reference"]))
    if reference is None:
        return {"kind": kind}
    return {
        "kind": kind,
        "key": reference.key,
        "size": reference.shape.size,
        "chunk_exponent": reference.shape.exponent,
        "receipt": reference.receipt,
        "name": reference.name,
        "media_type": reference.media_type,
        "where": reference.where,
        "blob_id": blob_id_of(reference.key),
        "padded_bytes": reference.shape.padded,
        "chunks": reference.shape.chunks,
        "blob_bytes": reference.shape.blob_bytes,
    }


def attachment_seal(given: Json, trace: Trace) -> Json:
    """attachment.seal."""
    key, shape = unhex(given["key"]), Shape(given["size"], given["chunk_exponent"])
    blob, index = seal_blob(key, shape, [unhex(nonce) for nonce in given["nonces"]], trace)
    receipt = shape.receipt(index)
    texts = [given[name] for name in ("name", "media_type", "where")]
    result = {
        "reference": encode([ATTACHMENT, key, shape.size, shape.exponent, receipt, *texts]),
        "receipt": receipt,
        "blob_id": blob_id_of(key),
        "index": index,
        "blob_sha256": hashlib.sha256(blob).digest(),
    }
    return result | ({"blob": blob} if len(blob) <= BLOB_SHOWN else {})


def attachment_open(given: Json, _: Trace) -> Json:
    """attachment.open."""
    _kind, reference = read_reference(unhex(given["reference"]))
    if reference is None:
        refuse("wire.malformed")
    if reference.shape.size > limits_of(given)["attachment_max_bytes"]:
        refuse("wire.too_large")
    reader = Reader(reference.key, reference.shape, reference.receipt, blob_in(given["blob"]))
    index, last = reader.tail()
    pieces = [last, *(reader.opened(i, index) for i in given["numbers"])]
    return {
        "piece_bytes": [len(piece) for piece in pieces],
        "pieces_sha256": [hashlib.sha256(piece).digest() for piece in pieces],
    }


def attachment_disclose(given: Json, _: Trace) -> Json:
    """attachment.disclose: the table of section 8.4, in its order."""
    disclosure, limits = unhex(given["disclosure"]), limits_of(given)
    if len(disclosure) != DISCLOSURE_BYTES:
        refuse(DISCLOSURE_REFUSAL)
    shape = Shape(int.from_bytes(disclosure[32:40], "big"), disclosure[40])
    holds = shape.fits and given["blob_bytes"] == shape.blob_bytes and shape.size <= limits["attachment_max_bytes"]
    if not holds:
        refuse(DISCLOSURE_REFUSAL)
    reader = Reader(disclosure[:32], shape, unhex(given["receipt"]), blob_in(given["blob"]))
    try:
        index, _last = reader.tail()
        for i in range(shape.chunks):
            reader.opened(i, index)
    except Refused:
        refuse(DISCLOSURE_REFUSAL)
    return {"size": shape.size, "chunk_exponent": shape.exponent}


OPERATIONS = {
    "attachment.parse": attachment_parse,
    "attachment.seal": attachment_seal,
    "attachment.open": attachment_open,
    "attachment.disclose": attachment_disclose,
}

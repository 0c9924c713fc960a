"""The family attachment: references, chunks, index and receipt, and what a store or a holder of the key can try."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from attrs import evolve
from runner.attachments import data_of, sealed

from agentmesh.attachments import Attachment, AttachmentDisclosure, Layout
from agentmesh.attachments.chunks import leaf_of, receipt_of
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import CHUNK
from agentmesh.primitives.aead import seal
from agentmesh.primitives.keys import AttachmentKey
from generator import wire
from generator.codes import MALFORMED, TOO_LARGE
from generator.world import Files, token

Json = dict[str, Any]
Case = tuple[str, str, Json, str]

SPEC: Final = "6.6"
INDEX: Final = "attachment.index"
BROKEN: Final = "attachment.chunk"
DISCLOSURE: Final = "audit.disclosure"
C: Final = 1 << 16
SEALED: Final = C + 72
SIZES: Final = {
    "0": 0, "1": 1, "63": 63, "64": 64, "65": 65, "a-piece-less-one": C - 1, "a-piece": C, "a-piece-and-one": C + 1,
    "two-pieces": 2 * C,
}  # fmt: skip
THREE: Final = 2 * C + 9  # three chunks, the last of 4,096 bytes, of which 9 are data


def making(size: int, exponent: int = 16, of: str = "attachment") -> Json:
    """Return what an attachment of this size is sealed with."""
    return {
        "key": token(f"{of}/{size}/key").hex(),
        "chunk_exponent": exponent,
        "size": size,
        "nonces": [token(f"{of}/{size}/nonce/{i}", 24).hex() for i in range(Layout(size, exponent).chunks)],
    }


class Sealed:
    """An attachment with everything about it."""

    def __init__(self, size: int, exponent: int = 16, of: str = "attachment") -> None:
        self.making = making(size, exponent, of)
        self.attachment, self.chunks, self.index = sealed(self.making)
        self.blob = b"".join([*self.chunks, self.index])

    @property
    def layout(self) -> Layout:
        """How it lies in its blob."""
        return self.attachment.layout

    def given(self, *edits: Json, reference: Attachment | None = None, numbers: list[int] | None = None) -> Json:
        """Return the input of `attachment.open`: this blob after some edits."""
        return {
            "reference": (self.attachment if reference is None else reference).encode().hex(),
            "blob": {**self.making, "edits": list(edits)},
            "numbers": list(range(self.layout.chunks)) if numbers is None else numbers,
        }

    def disclosing(self, *edits: Json, **changes: Any) -> Json:
        """Return the input of `attachment.disclose`."""
        return {
            "disclosure": AttachmentDisclosure.of(self.attachment).reveal().hex(),
            "receipt": self.attachment.receipt.hex(),
            "blob_bytes": len(self.blob),
            "blob": {**self.making, "edits": list(edits)},
            **changes,
        }


@cache
def of_size(size: int) -> Sealed:
    """Return the attachment of this size, which several files have."""
    return Sealed(size)


def edit(at: int, remove: int, insert: bytes = b"", copy: tuple[int, int] | None = None) -> Json:
    """Return an edit of a blob."""
    made: Json = {"at": at, "remove": remove, "insert": insert.hex()}
    return made if copy is None else {**made, "copy": list(copy)}


def flip(blob: bytes, at: int) -> Json:
    """Return the edit that flips a bit."""
    return edit(at, 1, bytes([blob[at] ^ 1]))


def attachment() -> Files:
    """Return the family attachment."""
    files = Files("attachment")
    files.add_each("attachment.parse", SPEC, [*_references(), *_foreign_references()])
    for name, size in SIZES.items():
        one = of_size(size)
        files.add(
            f"seal-{name}", "attachment.seal", f"{size} bytes of data", spec=SPEC,
            given={**one.making, "name": "", "media_type": "", "where": ""}, intermediate=_last_keys(one),
        )  # fmt: skip
        files.add(f"open-{name}", "attachment.open", f"{size} bytes of data", spec=SPEC, given=one.given())
    files.add(
        "seal-named", "attachment.seal", "with a name, a type and an address", spec=SPEC,
        given={**making(1000, 18), "name": "résumé.pdf", "media_type": "application/pdf",
               "where": "https://store.example/x"},
        intermediate=_last_keys(Sealed(1000, 18)),
    )  # fmt: skip
    files.add_each("attachment.open", SPEC, [*_opened(), *_stores(), *_lies(), *_holders(), *_forms()])
    files.add_each("attachment.disclose", "8.4", _disclosures())
    return files


def _last_keys(one: Sealed) -> Json:
    layout = one.layout
    context = _context(layout.last, layout.chunk_exponent, layout.size)
    chunk = one.chunks[-1]
    derived = _crypto.kdf(bytes.fromhex(one.making["key"]), CHUNK, chunk[:24] + context, 64)
    return {"context": context.hex(), "bk": derived[:32].hex(), "kc": derived[32:].hex(), "leaf": one.index[-32:].hex()}


def _context(number: int, exponent: int, last_of: int | None) -> bytes:
    head = number.to_bytes(8, "big") + bytes([exponent])
    return head + b"\x00" if last_of is None else head + b"\x01" + last_of.to_bytes(8, "big")


# --- references ------------------------------------------------------------------------------------------------------

FIELDS: Final = [
    b"\x01", wire.binary(token("attachment/reference/key")), wire.uint(1_000_000), b"\x12",
    wire.binary(token("attachment/reference/receipt")), wire.text(b"q3.parquet"), wire.text(b"text/csv"),
    wire.text(b"https://store.example/1"),
]  # fmt: skip


def _given(encoded: bytes) -> Json:
    return {"reference": encoded.hex()}


def _references() -> Iterator[tuple[str, str, Json]]:
    def changed(index: int, item: bytes) -> Json:
        return _given(wire.with_item(FIELDS, index, item))

    yield "parse", "a reference with an address", _given(wire.array(*FIELDS))
    yield "parse-empty-texts", "no name, type and address", _given(wire.array(*FIELDS[:5], b"\xa0", b"\xa0", b"\xa0"))
    longest = (wire.text(b"n" * 255), wire.text(b"m" * 127), wire.text(b"w" * 2048))
    yield "parse-longest-texts", "the longest name, type and address", _given(wire.array(*FIELDS[:5], *longest))
    yield "parse-size-0", "no data", changed(2, b"\x00")
    yield "parse-size-over-32-bits", "4 GiB and one byte", changed(2, wire.uint((1 << 32) + 1))
    yield "parse-exponent-16", "the smallest chunks, and the most of them", _given(
        wire.array(*FIELDS[:2], wire.uint(1 << 36), b"\x10", *FIELDS[4:]))  # fmt: skip
    yield "parse-exponent-24", "the largest chunks, and the most of them: 16 TiB", _given(
        wire.array(*FIELDS[:2], wire.uint(1 << 44), b"\x18", *FIELDS[4:]))  # fmt: skip
    yield (
        "parse-name-is-a-path",
        "a name that is a path: hostile, and of the form",
        changed(5, wire.text(b"../../etc/x")),
    )
    yield "parse-unknown-kind", "kind 2, whatever is behind it", _given(b"\x92\x02\xff\xff")
    yield "parse-unknown-kind-127", "kind 127, in the longest of arrays", _given(b"\x9f\x7f")
    yield "parse-unknown-kind-4096", "as long as a reference may be", _given(b"\x92\x03" + bytes(4094))


def _foreign_references() -> Iterator[Case]:
    def changed(name: str, comment: str, index: int, item: bytes) -> Case:
        return f"refuse-{name}", comment, _given(wire.with_item(FIELDS, index, item)), MALFORMED

    for name, comment, encoded in wire.foreign_arrays(FIELDS):
        yield f"refuse-{name}", comment, _given(encoded), MALFORMED
    yield changed("kind-0", "kind 0", 0, b"\x00")
    yield changed("kind-128", "a kind of two bytes", 0, b"\xcc\x80")
    yield changed("kind-longer-form", "kind 1 in the two-byte form", 0, wire.uint8(1))
    yield changed("key-31", "a key of 31 bytes", 1, wire.binary(bytes(31)))
    yield changed("key-33", "a key of 33 bytes", 1, wire.binary(bytes(33)))
    yield changed("key-text", "a key as a string", 1, wire.text(b"k" * 32))
    yield changed("key-longer-form", "a key with a two-byte length", 1, wire.binary16(bytes(32)))
    yield changed("size-longer-form", "a size in the nine-byte form", 2, wire.uint64(1_000_000))
    yield changed("size-negative", "a negative size", 2, b"\xff")
    yield changed("size-nil", "nil as the size", 2, wire.NIL)
    yield changed("size-of-too-many-chunks", "a byte more than 2^20 chunks of this exponent have", 2,
                  wire.uint((1 << 38) + 1))  # fmt: skip
    yield changed("size-over-53-bits", "a size of 2^53", 2, wire.uint(1 << 53))
    yield "refuse-size-over-16-tib", "a byte more than any attachment has", _given(
        wire.array(*FIELDS[:2], wire.uint((1 << 44) + 1), b"\x18", *FIELDS[4:])), MALFORMED  # fmt: skip
    yield changed("exponent-15", "exponent 15", 3, b"\x0f")
    yield changed("exponent-25", "exponent 25", 3, b"\x19")
    yield changed("exponent-longer-form", "exponent 18 in the two-byte form", 3, wire.uint8(18))
    yield changed("receipt-31", "a receipt of 31 bytes", 4, wire.binary(bytes(31)))
    yield changed("receipt-nil", "no receipt", 4, wire.NIL)
    yield changed("name-256", "a name of 256 bytes", 5, wire.text(b"n" * 256))
    yield changed("name-bytes", "a name as bytes", 5, wire.binary(b"name"))
    yield changed("name-not-utf-8", "a name that is no UTF-8", 5, wire.text(b"\xff"))
    yield changed("type-128", "a type of 128 bytes", 6, wire.text(b"m" * 128))
    yield changed("type-longer-form", "a type with a two-byte length", 6, wire.text16(b"text/csv"))
    yield changed("address-2049", "an address of 2,049 bytes", 7, wire.text(b"w" * 2049))
    yield "refuse-unknown-kind-long-array", "an unknown kind in an array of 16", _given(
        b"\xdc\x00\x10\x02" + bytes(15)), MALFORMED  # fmt: skip
    yield "refuse-reference-4097", "a byte over the longest reference, of an unknown kind", _given(
        b"\x92\x03" + bytes(4095)), TOO_LARGE  # fmt: skip


# --- opening ---------------------------------------------------------------------------------------------------------


def _opened() -> Iterator[tuple[str, str, Json]]:
    three = of_size(THREE)
    yield "open-three-chunks", "three chunks, in order", three.given()
    yield "open-backwards", "chunks in the reverse order, and one of them twice", three.given(numbers=[2, 1, 0, 1])
    yield "open-tail-alone", "the tail alone", three.given(numbers=[])
    yield "open-behind-the-blob", "bytes behind the blob are not asked for", three.given(
        edit(len(three.blob), 0, b"more"))  # fmt: skip
    yield "open-around-a-broken-chunk", "chunk 0 is broken, and the others are not", three.given(
        flip(three.blob, 100), numbers=[1, 2])  # fmt: skip
    yield "open-at-the-limit", "as large as the reader allows", {
        **three.given(), "limits": {"attachment_max_bytes": THREE}}  # fmt: skip


def _stores() -> Iterator[Case]:
    """Yield what a store can do to a blob."""
    three, other = of_size(THREE), Sealed(THREE, of="other")
    blob, size, last = three.blob, len(three.blob), len(three.chunks[2])
    index_at = 2 * SEALED + last

    def case(name: str, comment: str, code: str, *edits: Json) -> Case:
        return f"refuse-{name}", comment, three.given(*edits), code

    yield case("cut-by-one", "the last byte is missing", INDEX, edit(size - 1, 1))
    yield case("cut-by-a-leaf", "the last leaf is missing", INDEX, edit(size - 32, 32))
    yield case("no-index", "the index is missing", INDEX, edit(index_at, 96))
    yield case("cut-at-a-chunk", "chunk 2 is missing", INDEX, edit(2 * SEALED, last))
    yield case("cut-at-a-chunk-and-its-leaf", "chunk 2 is missing, and its leaf", INDEX,
               edit(size - 32, 32), edit(2 * SEALED, last))  # fmt: skip
    yield case("no-first-byte", "the first byte is missing", INDEX, edit(0, 1))
    yield case("dropped", "chunk 1 is missing", INDEX, edit(SEALED, SEALED))
    yield case("empty-blob", "nothing at all", INDEX, edit(0, size))
    yield case("shifted", "a byte before the blob", INDEX, edit(0, 0, b"\x00"))
    yield case("longer-last-chunk", "a byte between the last chunk and the index", INDEX, edit(index_at, 0, b"\x00"))
    yield case("swapped", "chunks 0 and 1 in each other's place", BROKEN,
               edit(0, SEALED, copy=(SEALED, SEALED)), edit(SEALED, SEALED, copy=(0, SEALED)))  # fmt: skip
    yield case("swapped-with-leaves", "with their leaves", INDEX,
               edit(0, SEALED, copy=(SEALED, SEALED)), edit(SEALED, SEALED, copy=(0, SEALED)),
               edit(index_at, 64, three.index[32:64] + three.index[:32]))  # fmt: skip
    yield case("twice", "chunk 0 in the place of chunk 1", BROKEN, edit(SEALED, SEALED, copy=(0, SEALED)))
    yield case("foreign-chunk", "the last chunk of another attachment", BROKEN,
               edit(2 * SEALED, last, other.chunks[2]))  # fmt: skip
    yield case("foreign-chunk-and-leaf", "with its leaf", INDEX,
               edit(2 * SEALED, last, other.chunks[2]), edit(size - 32, 32, other.index[64:]))  # fmt: skip
    yield case("foreign-index", "the index of another attachment", INDEX, edit(index_at, 96, other.index))
    for name, at in (("nonce", 0), ("commitment", 24), ("tag", 56), ("box", 72)):
        yield case(f"flipped-{name}", f"a bit of chunk 1, its {name}", BROKEN, flip(blob, SEALED + at))
        yield case(f"flipped-{name}-last", f"a bit of the last chunk, its {name}", BROKEN, flip(blob, 2 * SEALED + at))
    yield case("flipped-padding", "a bit behind the data", BROKEN, flip(blob, index_at - 1))
    yield case("flipped-leaf", "a bit of the first leaf", INDEX, flip(blob, index_at))
    yield case("flipped-last-leaf", "a bit of the last byte", INDEX, flip(blob, size - 1))
    yield "refuse-cut-in-the-last-chunk-asked", "all of it is there but what chunk 1 has at its end", {
        **three.given(edit(2 * SEALED - 1, 1, b"\x00")), "numbers": [0, 1]}, BROKEN  # fmt: skip


def _lies() -> Iterator[Case]:
    """Yield references that say something else of a blob that is as it was."""
    one, three = of_size(65), of_size(THREE)

    def case(name: str, comment: str, code: str, of: Sealed, **changes: Any) -> Case:
        return f"refuse-lie-{name}", comment, of.given(reference=evolve(of.attachment, **changes)), code

    yield case("key", "another key", BROKEN, three, key=AttachmentKey(token("attachment/lie")))
    yield case("size", "another size that is padded to the same", BROKEN, three, size=THREE + 1)
    yield case("size-0", "no data", INDEX, three, size=0)
    yield case("size-padded", "another size that is padded to another", INDEX, three, size=THREE + 5000)
    yield case("exponent", "another exponent", INDEX, three, chunk_exponent=17)
    yield case("receipt", "another receipt", INDEX, three, receipt=token("attachment/receipt"))
    lie = evolve(one.attachment, chunk_exponent=17)
    yield case("exponent-with-receipt", "another exponent, with the receipt that then follows", BROKEN, one,
               chunk_exponent=17, receipt=receipt_of(lie.layout, one.index))  # fmt: skip
    swapped = three.index[32:64] + three.index[:32] + three.index[64:]
    lie = evolve(three.attachment, receipt=receipt_of(three.layout, swapped))
    index_at = 2 * SEALED + len(three.chunks[2])
    yield "refuse-lie-order", "chunks 0 and 1 in each other's place, with leaves and a receipt of it", three.given(
        edit(0, SEALED, copy=(SEALED, SEALED)), edit(SEALED, SEALED, copy=(0, SEALED)),
        edit(index_at, 64, swapped[:64]), reference=lie), BROKEN  # fmt: skip
    cut = evolve(three.attachment, size=2 * C)
    cut = evolve(cut, receipt=receipt_of(cut.layout, three.index[:64]))
    yield "refuse-lie-cut", "two chunks of three, with their leaves and a receipt of it", three.given(
        edit(len(three.blob) - 32, 32), edit(2 * SEALED, len(three.chunks[2])),
        reference=cut, numbers=[0, 1]), BROKEN  # fmt: skip


def _small(size: int, piece: bytes, context: bytes, exponent: int = 16) -> Json:
    """Return an attachment of one chunk that is whatever its sealer, or who has the key, wanted it to be."""
    one = Sealed(size, exponent)
    nonce = bytes.fromhex(one.making["nonces"][0])
    chunk = seal(bytes.fromhex(one.making["key"]), CHUNK, context, piece, nonce)
    index = leaf_of(chunk)
    reference = evolve(one.attachment, receipt=receipt_of(one.layout, index))
    return {"reference": reference.encode().hex(), "blob": {"bytes": (chunk + index).hex()}, "numbers": [0]}


def _holders() -> Iterator[Case]:
    """Yield what whoever has the key can seal, with leaves and receipts that fit, or without."""
    piece = data_of(10) + bytes(54)
    honest = _small(10, piece, _context(0, 16, 10))
    if honest["reference"] != of_size(10).attachment.encode().hex():
        raise ValueError("what is forged here is not what is sealed")
    for name, comment, context in (
        ("inner", "the one chunk sealed as one that others follow", _context(0, 16, None)),
        ("other-size", "the last chunk says another size", _context(0, 16, 11)),
        ("other-number", "the last chunk says another number", _context(1, 16, 10)),
        ("other-exponent", "the last chunk says another exponent", _context(0, 17, 10)),
        ("no-context", "a chunk without a context", b""),
    ):
        yield f"refuse-sealed-{name}", comment, _small(10, piece, context), BROKEN
    for name, at in (("first", 10), ("last", 63)):
        hidden = piece[:at] + b"\x01" + piece[at + 1 :]
        yield f"refuse-hidden-{name}", f"byte {at}, behind the data, is not zero", _small(
            10, hidden, _context(0, 16, 10)), BROKEN  # fmt: skip
    yield "refuse-padded-as-a-message", "0x80 behind the data, as pad has it", _small(
        10, data_of(10) + b"\x80" + bytes(53), _context(0, 16, 10)), BROKEN  # fmt: skip
    for name, comment, length in (("short", "a piece that is a byte shorter", 63), ("long", "a byte longer", 65)):
        yield f"refuse-sealed-{name}", comment, _small(
            10, (piece + b"\x00")[:length], _context(0, 16, 10)), INDEX  # fmt: skip
    one = of_size(C + 1)
    chunk = seal(bytes.fromhex(one.making["key"]), CHUNK, _context(1, 16, C + 1), b"x" + bytes(2047), bytes(24))
    last = edit(SEALED, len(chunk), chunk)
    yield "refuse-resealed", "the last chunk sealed again by who has the key", one.given(last), BROKEN
    yield "refuse-resealed-with-leaf", "with its leaf", one.given(
        last, edit(len(one.blob) - 32, 32, leaf_of(chunk))), INDEX  # fmt: skip


def _forms() -> Iterator[Case]:
    three = of_size(THREE)
    yield "refuse-open-no-reference", "no reference", {**three.given(), "reference": ""}, MALFORMED
    yield "refuse-over-the-limit", "a byte more than the reader allows; the blob is not looked at", {
        **three.given(edit(0, len(three.blob))), "limits": {"attachment_max_bytes": THREE - 1}}, TOO_LARGE  # fmt: skip


# --- disclosure ------------------------------------------------------------------------------------------------------


def _disclosures() -> Iterator[tuple[Any, ...]]:
    small, three = of_size(65), of_size(THREE)
    for name, one in (("small", small), ("three-chunks", three)):
        yield f"disclose-{name}", f"{one.layout.size} bytes of data", one.disclosing()
    disclosure = AttachmentDisclosure.of(three.attachment).reveal()
    cases: tuple[tuple[str, str, Json], ...] = (
        ("key", "another key", three.disclosing(disclosure=wire.flipped(disclosure, 0).hex())),
        ("size", "another size, padded to the same", three.disclosing(disclosure=wire.flipped(disclosure, 39).hex())),
        ("size-huge", "a size of 2^63", three.disclosing(disclosure=wire.flipped(disclosure, 32, 0x80).hex())),
        ("exponent", "another exponent", three.disclosing(disclosure=wire.flipped(disclosure, 40).hex())),
        ("exponent-0", "no exponent", three.disclosing(disclosure=(disclosure[:40] + b"\x00").hex())),
        ("receipt", "the receipt of another record", three.disclosing(receipt=small.attachment.receipt.hex())),
        ("record-size", "a record that says another size", three.disclosing(blob_bytes=len(three.blob) + 1)),
        ("blob", "the blob of another attachment", {**three.disclosing(), "blob": {**small.making, "edits": []}}),
        ("first-chunk", "a bit of the first chunk", three.disclosing(flip(three.blob, 80))),
        ("last-chunk", "a bit of the last chunk", three.disclosing(flip(three.blob, 2 * SEALED + 80))),
        ("index", "a bit of the index", three.disclosing(flip(three.blob, len(three.blob) - 1))),
        ("cut", "the last byte is missing", three.disclosing(edit(len(three.blob) - 1, 1))),
        ("limit", "more than the verifier allows", three.disclosing(limits={"attachment_max_bytes": THREE - 1})),
    )  # fmt: skip
    for name, comment, given in cases:
        yield f"refuse-disclose-{name}", comment, given, DISCLOSURE

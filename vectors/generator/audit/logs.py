"""The family log: built, verified as a whole and entry by entry, and everything that was done to one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from agentmesh.primitives import _crypto
from generator import wire
from generator.audit import files as log_files
from generator.audit.checkpoints import against, signed_over
from generator.audit.entries import COUNT, ENTRIES, FIRST_PREVIOUS, RECORDS, SPEC, chained, entry, items, leaf, record
from generator.audit.trees import EMPTY_ROOT, tree_of
from generator.codes import BAD_SIGNATURE, BROKEN, MALFORMED, PROOF, TOO_LARGE, VERSION
from generator.world import BOB, NOW_MS, Files, token

Json = dict[str, Any]


# Another value for each field, which is well formed too.
OTHERS: Final[Json] = {
    "at_ms": NOW_MS + 1_000_000,
    "event": "session.closed",
    "mesh": "example/other",
    "sender": "did:agentmesh:2Forged",
    "recipient": "did:agentmesh:2Forged",
    "envelope_time_ms": NOW_MS + 1_000_000,
    "receipt": token("audit/receipt/other").hex(),
    "session_id": token("audit/session/other", 16).hex(),
    "number": 41,
    "size": 4242,
    "reason": "stale",
    "count": 1000,
}


def root_of(entries: list[bytes]) -> bytes:
    """Return the root over these entries."""
    return tree_of(entries).root()


def over(entries: list[bytes]) -> Json:
    """Return Alice's checkpoint over exactly these entries, with what verifies it."""
    return against(signed_over(len(entries), root_of(entries)))


def _given(entries: list[bytes], checkpoint: Json | None = None) -> Json:
    return {"entries": [data.hex() for data in entries], **(checkpoint or {})}


def log() -> Files:
    """Return the family log."""
    files = Files("log")
    for count in (0, 1, COUNT):
        files.add(
            f"build-{count}",
            "log.build",
            f"a log of {count} records: each entry holds its number and the hash of the one before",
            spec=SPEC,
            given={"records": RECORDS[:count]},
            output={"entries": [data.hex() for data in ENTRIES[:count]], "root": root_of(ENTRIES[:count]).hex()},
        )
    _good(files)
    for name, comment, given, fault, number in (*_altered(), *_moved(), *_no_entries(), *_against_a_checkpoint()):
        files.add(
            f"refuse-{name}",
            "log.verify",
            comment,
            spec=SPEC,
            given=given,
            expect=BROKEN,
            output={"fault": fault, "number": number},
        )
    _bad_checkpoints(files)
    _entries(files)
    log_files.read(files)
    log_files.appended(files)
    return files


# --- a whole log -----------------------------------------------------------------------------------------------------


def _good(files: Files) -> None:
    rewritten = chained([record(place + 20) for place in range(COUNT)])
    last = chained([*RECORDS[:-1], {**RECORDS[-1], "count": 1}])
    grown = chained([*RECORDS, record(6), record(7)])
    foreign = chained([{**fields, "mesh": "example/other"} for fields in RECORDS])
    files.add_each("log.verify", SPEC, (
        (f"verify-{name}", comment, _given(entries, checkpoint))
        for name, comment, entries, checkpoint in (
            ("empty", "a log without entries", [], None),
            ("one", "one entry", ENTRIES[:1], None),
            ("whole", "five entries", ENTRIES, None),
            ("whole-with-checkpoint", "five entries and a checkpoint over them", ENTRIES, over(ENTRIES)),
            ("with-earlier-checkpoint", "a checkpoint over the first three", ENTRIES, over(ENTRIES[:3])),
            ("with-checkpoint-over-nothing", "a checkpoint over the empty log, which every log begins with", ENTRIES,
             over([])),
            ("empty-with-checkpoint", "an empty log and its checkpoint", [], over([])),
            ("grown-behind-the-checkpoint", "two entries behind those that the checkpoint covers", grown,
             over(ENTRIES)),
            ("tail-cut-without-checkpoint", "a tail that was cut goes unnoticed without a checkpoint", ENTRIES[:3],
             None),
            ("last-altered-without-checkpoint", "so does another last entry", last, None),
            ("last-altered-behind-checkpoint", "and one that the checkpoint does not cover", last, over(ENTRIES[:4])),
            ("rewritten-without-checkpoint", "and a whole log written anew", rewritten, None),
            ("other-mesh",
             "records of another mesh under the owner's checkpoint: a verifier does not hold the one against the other",
             foreign, over(foreign)),
            ("clock-set-back", "the owner's clock went back: an entry's time decides nothing",
             chained([record(9), record(3), record(3)]), None),
        )
    ))  # fmt: skip


def _altered() -> Iterator[tuple[str, str, Json, str, int]]:
    """Yield each record with each field another one, the rest of the log as it was."""
    for place, fields in enumerate(RECORDS):
        decision = "info" if fields["decision"] == "allow" else "allow"
        changes = {**OTHERS, "decision": decision, "class": 2 if fields["class"] == 1 else 1}
        for name, value in changes.items():
            if value == fields[name]:
                raise ValueError(f"{name} of record {place} is that already")
            previous = leaf(ENTRIES[place - 1]) if place else FIRST_PREVIOUS
            altered = list(ENTRIES)
            altered[place] = entry({**fields, name: value}, place, previous)
            short = name.removesuffix("_ms").replace("_", "-")
            is_last = place == COUNT - 1
            checkpoint = over(ENTRIES) if is_last else None
            tells = ", the last: only a checkpoint tells" if is_last else ": the next one does not follow it"
            fault, number = ("root", COUNT) if is_last else ("previous", place + 1)
            comment = f"another {short} in entry {place}{tells}"
            yield f"altered-{place}-{short}", comment, _given(altered, checkpoint), fault, number
        own = items(fields, place, leaf(ENTRIES[place - 1]) if place else FIRST_PREVIOUS)
        for name, comment, index, item, fault in (
            ("version", "another version", 0, wire.uint(2), "entry"),
            ("sequence", "another sequence", 1, wire.uint(place + 1), "sequence"),
            ("previous", "another hash of the entry before", 2, wire.binary(token("audit/previous")), "previous"),
        ):
            altered = list(ENTRIES)
            altered[place] = wire.with_item(own, index, item)
            yield f"altered-{place}-{name}", f"{comment} in entry {place}", _given(altered), fault, place


def _moved() -> Iterator[tuple[str, str, Json, str, int]]:
    e = ENTRIES
    other = chained([record(place + 40) for place in range(COUNT)])
    swapped = [*e[:2], other[2], *e[3:]]
    twice = [*e[:3], entry(RECORDS[3], 2, leaf(e[2]))]
    fork = [*e[:3], entry(record(30), 2, leaf(e[1]))]
    gap = chained(RECORDS[:2]) + chained(RECORDS[2:], 3, leaf(e[1]))
    yield from (
        ("first-cut", "the first entry is missing", _given(e[1:]), "sequence", 0),
        ("middle-cut", "entry 2 is missing", _given(e[:2] + e[3:]), "sequence", 2),
        ("middle-cut-two", "entries 1 and 2 are missing", _given(e[:1] + e[3:]), "sequence", 1),
        ("first-entry-of-a-longer-log", "one entry, which is not the first", _given(e[3:4]), "sequence", 0),
        ("reordered", "entries 2 and 3 have changed places", _given([*e[:2], e[3], e[2], e[4]]), "sequence", 2),
        ("reversed", "the last entry first", _given(e[::-1]), "sequence", 0),
        ("repeated", "entry 2 twice", _given([*e[:3], e[2], *e[3:]]), "sequence", 3),
        ("repeated-last", "the last entry twice", _given([*e, e[-1]]), "sequence", COUNT),
        ("two-logs-joined", "a whole log behind a whole log", _given(e + other), "sequence", COUNT),
        ("spliced", "the beginning of one log and the end of another", _given(e[:3] + other[3:]), "previous", 3),
        ("entry-of-another-log", "entry 2 is that of another log of the owner", _given(swapped), "previous", 2),
        ("one-sequence-twice", "two entries with the number 2, the second chained to the first", _given(twice),
         "sequence", 3),
        ("one-sequence-forked", "two entries with the number 2, both behind entry 1", _given(fork), "sequence", 3),
        ("number-left-out", "entry 2 has the number 3, and all hashes are right", _given(gap), "sequence", 2),
        ("numbered-from-1", "the first entry has the number 1", _given(chained(RECORDS, 1)), "sequence", 0),
    )  # fmt: skip
    for name, comment, previous in (
        ("hash-of-nothing", "the SHA-256 of nothing", EMPTY_ROOT),
        ("some-hash", "the hash of something", token("audit/previous")),
    ):
        data = chained(RECORDS, 0, previous)
        yield f"first-previous-{name}", f"before the first entry stands {comment}", _given(data), "previous", 0
    plain = [e[0], entry(RECORDS[1], 1, _crypto.sha256(e[0]))]
    noded = [*e[:2], entry(RECORDS[2], 2, root_of(e[:2]))]
    zero = [e[0], entry(RECORDS[1], 1, FIRST_PREVIOUS)]
    mixed = list(e)
    mixed[3] = entry({**RECORDS[3], "receipt": RECORDS[1]["receipt"]}, 3, leaf(e[2]))
    yield from (
        ("previous-without-its-byte", "SHA-256 of the entry before, without the byte 0x00", _given(plain), "previous",
         1),
        ("previous-is-the-root", "the root over the entries before, in the place of the last one's hash", _given(noded),
         "previous", 2),
        ("previous-zero", "32 zero bytes before an entry that is not the first", _given(zero), "previous", 1),
        ("receipt-of-another-message", "entry 3 has the receipt of another envelope of the log", _given(mixed),
         "previous", 4),
    )  # fmt: skip


def _no_entries() -> Iterator[tuple[str, str, Json, str, int]]:
    e = ENTRIES
    pair = leaf(e[0]) + leaf(e[1])
    for name, comment, data in (
        ("inner-node", "what an inner node is the hash of, for an entry", pair),
        ("inner-node-hash", "the hash of an inner node, for an entry", _crypto.sha256(b"\x01" + pair)),
        ("leaf-hash", "an entry's hash, for the entry", leaf(e[2])),
        ("zero-leaf", "32 zero bytes, for an entry", bytes(32)),
        ("no-bytes", "no bytes, for an entry", b""),
        ("text", "a text, for an entry", b"message.sealed"),
        ("truncated", "the last byte of an entry missing", e[2][:-1]),
        ("trailing-byte", "a byte behind an entry", e[2] + b"\x00"),
        ("1025", "1,025 bytes, for an entry", e[2].ljust(1025, b"\x00")),
        ("longer-form", "an entry with its number in a longer form", b"\xdc\x00\x11\x01\xcc\x02" + e[2][5:]),
        ("checkpoint", "a checkpoint, for an entry", bytes.fromhex(over(e)["checkpoint"])),
    ):
        yield f"entry-{name}", comment, _given([*e[:2], data, *e[3:]]), "entry", 2
    yield ("entry-behind-the-checkpoint", "no entry, behind those that the checkpoint covers",
           _given([*e, b"\x00"], over(e)), "entry", COUNT)  # fmt: skip
    yield ("previous-behind-the-checkpoint", "what the checkpoint does not cover is chained all the same",
           _given([*e, entry(record(6), COUNT, leaf(e[0]))], over(e)), "previous", COUNT)  # fmt: skip


def _against_a_checkpoint() -> Iterator[tuple[str, str, Json, str, int]]:
    e = ENTRIES
    yield from (
        ("tail-cut", "the last entry is missing", _given(e[:-1], over(e)), "cut", COUNT - 1),
        ("tail-cut-to-one", "all but the first are missing", _given(e[:1], over(e)), "cut", 1),
        ("emptied", "nothing is left of the log", _given([], over(e)), "cut", 0),
    )
    for name, comment, changed in (
        ("rewritten", "the whole log written anew, with good hashes", [record(place + 20) for place in range(COUNT)]),
        ("rewritten-first", "entry 0 altered and all behind it hashed anew", [{**RECORDS[0], "size": 1}, *RECORDS[1:]]),
        ("rewritten-receipt", "entry 3 with the receipt of another message, and all behind it hashed anew",
         [*RECORDS[:3], {**RECORDS[3], "receipt": RECORDS[1]["receipt"]}, *RECORDS[4:]]),
        ("rewritten-without-one", "entry 2 left out, another appended, all hashed anew",
         [*RECORDS[:2], *RECORDS[3:], record(6)]),
        ("rewritten-order", "entries 2 and 3 swapped and hashed anew",
         [*RECORDS[:2], RECORDS[3], RECORDS[2], RECORDS[4]]),
        ("rewritten-last", "the last entry altered", [*RECORDS[:-1], {**RECORDS[-1], "count": 1}]),
    ):  # fmt: skip
        yield name, f"{comment}: only the checkpoint tells", _given(chained(changed), over(e)), "root", COUNT
    grown = chained([*RECORDS[:4], record(20), record(21), record(22)])
    early = chained([RECORDS[0], {**RECORDS[1], "size": 1}, *RECORDS[2:]])
    nothing = against(signed_over(0, token("audit/root")))
    yield from (
        ("rewritten-and-grown", "entry 4 altered, and more behind it", _given(grown, over(e)), "root", COUNT),
        ("rewritten-under-an-early-checkpoint", "entry 1 altered under a checkpoint over two",
         _given(early, over(e[:2])), "root", 2),
        ("root-before-what-follows",
         "entry 1 altered under a checkpoint over two, and entry 4 is none: the root comes first",
         _given([*early[:4], b"\x00"], over(e[:2])), "root", 2),
        ("entry-before-the-root", "entry 1 is none, under a checkpoint over two: it never comes to the root",
         _given([e[0], b"\x00"], over(e[:2])), "entry", 1),
        ("entry-before-the-cut", "entry 1 is none, and the last is missing: the entry comes first",
         _given([e[0], b"\x00", *e[2:-1]], over(e)), "entry", 1),
        ("previous-before-the-cut", "entry 2 does not follow entry 1, and the last is missing",
         _given([*e[:2], entry(RECORDS[2], 2, token("audit/previous")), *e[3:-1]], over(e)), "previous", 2),
        ("entry-before-the-root-of-nothing",
         "a checkpoint of size 0 with another root, and entry 1 is none: that root is looked at behind the last",
         _given([e[0], b"\x00", *e[2:]], nothing), "entry", 1),
        ("sequence-before-the-root-of-nothing", "a checkpoint of size 0 with another root, and entry 2 is missing",
         _given(e[:2] + e[3:], nothing), "sequence", 2),
    )  # fmt: skip
    for name, comment, size, root in (
        ("size-one-more", "the right root under a size of one more", COUNT + 1, root_of(e)),
        ("size-one-less", "the right root under a size of one less", COUNT - 1, root_of(e)),
        ("other-root", "another root under the right size", COUNT, token("audit/root")),
        ("zero-root", "32 zero bytes as the root", COUNT, bytes(32)),
        ("last-hash-as-root", "the last entry's hash as the root", COUNT, leaf(e[-1])),
        ("nothing-other-root", "a size of 0 and a root that is not the empty one's", 0, root_of(e)),
    ):
        fault, number = ("cut", COUNT) if size > COUNT else ("root", size)
        yield (f"checkpoint-{name}", f"well signed: {comment}", _given(e, against(signed_over(size, root))), fault,
               number)  # fmt: skip
    mine = chained([record(place + 40) for place in range(COUNT)])
    yield ("checkpoint-of-another-log", "the owner's checkpoint over another log of its own", _given(e, over(mine)),
           "root", COUNT)  # fmt: skip


def _bad_checkpoints(files: Files) -> None:
    good = over(ENTRIES)
    data = bytes.fromhex(good["checkpoint"])
    files.add_each("log.verify", SPEC, (
        (f"refuse-with-checkpoint-{name}", f"{comment}: a good log proves nothing under it",
         {**_given(ENTRIES), **good, **change}, expect)
        for name, comment, change, expect in (
            ("flipped-signature", "a bit of the checkpoint's signature flipped",
             {"checkpoint": wire.flipped(data, -1).hex()}, BAD_SIGNATURE),
            ("other-owner", "a checkpoint that is not of the log's owner", {"owner": BOB.key.raw.hex()},
             BAD_SIGNATURE),
            ("other-mesh", "a checkpoint of another mesh", {"mesh": "example/other"}, PROOF),
            ("rubbish", "what is no checkpoint", {"checkpoint": "c0"}, MALFORMED),
        )
    ))  # fmt: skip


# --- one entry -------------------------------------------------------------------------------------------------------


def _entry(place: int, entries: list[bytes], **changes: Any) -> Json:
    proof = tree_of(entries).inclusion_proof(place)
    return {"entry": entries[place].hex(), "proof": [step.hex() for step in proof], **over(entries), **changes}


def _entries(files: Files) -> None:
    e = ENTRIES
    for place in range(COUNT):
        files.add(
            f"verify-entry-{place}",
            "log.verify_entry",
            f"entry {place} of a log of five, without the others",
            spec=SPEC,
            given=_entry(place, e),
            output=RECORDS[place],
        )
    files.add_each("log.verify_entry", SPEC, (
        ("verify-entry-only", "the only entry of a log: its hash is the root", _entry(0, e[:1])),
        ("verify-entry-unchained",
         "the entry before it is not the one that it names: inclusion does not show that, the whole log does",
         _entry(2, [*e[:2], entry(RECORDS[2], 2, token("audit/previous")), *e[3:]])),
        ("verify-entry-first-unchained", "the first entry names one before it: inclusion does not show that either",
         _entry(0, [entry(RECORDS[0], 0, token("audit/previous")), *e[1:]])),
    ))  # fmt: skip
    foreign = [*e[:2], entry({**RECORDS[2], "mesh": "example/other"}, 2, leaf(e[1])), *e[3:]]
    files.add(
        "verify-entry-other-mesh",
        "log.verify_entry",
        "a record of another mesh than the checkpoint's: what it says is for the caller to read",
        spec=SPEC,
        given=_entry(2, foreign),
    )
    files.add_each("log.verify_entry", SPEC, (
        (f"refuse-verify-entry-{name}", comment, given, expect)
        for name, comment, given, expect in _bad_entries()
    ))  # fmt: skip


def _bad_entries() -> Iterator[tuple[str, str, Json, str]]:
    e = ENTRIES
    moved = [*e[:2], entry(RECORDS[2], 1, leaf(e[1])), *e[3:]]
    beyond = [*e[:2], entry(RECORDS[2], COUNT, leaf(e[1])), *e[3:]]
    rewritten = entry({**RECORDS[3], "receipt": RECORDS[1]["receipt"]}, 3, leaf(e[2]))
    newer = wire.with_item(items(RECORDS[2], 2, leaf(e[1])), 0, wire.uint(2))
    nodes = [*e[:2], leaf(e[0]) + leaf(e[1]), *e[3:]]
    zero = [*e[:2], bytes(32), *e[3:]]
    unsigned = wire.flipped(bytes.fromhex(over(e)["checkpoint"]), -1).hex()
    yield from (
        ("other-entry", "another entry under this one's proof", _entry(2, e, entry=e[1].hex()), PROOF),
        ("altered", "entry 3 with the receipt of another message", _entry(3, e, entry=rewritten.hex()), PROOF),
        ("proof-of-another", "another entry's proof", _entry(2, e, proof=_entry(0, e)["proof"]), PROOF),
        ("no-proof", "no proof", _entry(2, e, proof=[]), PROOF),
        ("own-number", "it stands at place 2 and says that it has the number 1", _entry(2, moved), PROOF),
        ("number-at-size", "it stands at place 2 and says that it has the number 5, of five", _entry(2, beyond), PROOF),
        ("other-log", "the owner's checkpoint over another log", _entry(2, e, **over(moved)), PROOF),
        ("earlier-checkpoint", "a checkpoint from before it was written", _entry(3, e, **over(e[:3])), PROOF),
        ("newer-version", "an entry of another version that is in the log", _entry(2, [*e[:2], newer, *e[3:]]),
         VERSION),
        ("inner-node", "two hashes that are in the tree like an entry", _entry(2, nodes), MALFORMED),
        ("zero-leaf", "32 zero bytes that are in the tree like an entry", _entry(2, zero), MALFORMED),
        ("too-long", "1,025 bytes", _entry(2, e, entry=bytes(1025).hex()), TOO_LARGE),
        ("form-before-the-proof", "no entry, and no proof of it: the entry comes first",
         _entry(2, e, entry="00", proof=[]), MALFORMED),
        ("checkpoint-before-the-entry", "no entry, under a checkpoint that does not verify: the checkpoint comes first",
         _entry(2, e, entry="00", checkpoint=unsigned), BAD_SIGNATURE),
        ("checkpoint-mesh-before-the-entry", "no entry, under a checkpoint of another mesh",
         _entry(2, e, entry="00", mesh="example/other"), PROOF),
        ("flipped-signature", "a bit of the checkpoint's signature flipped", _entry(2, e, checkpoint=unsigned),
         BAD_SIGNATURE),
        ("other-owner", "another owner was wanted", _entry(2, e, owner=BOB.key.raw.hex()), BAD_SIGNATURE),
    )  # fmt: skip

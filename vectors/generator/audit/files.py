"""For the family log: logs in files, whole, torn and damaged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from generator import wire
from generator.audit.entries import COUNT, ENTRIES
from generator.codes import BROKEN, NOT_ALLOWED
from generator.world import Files

SPEC: Final = "8.2"
MAGIC: Final = b"agentmesh-log-1\n"

# --- files -----------------------------------------------------------------------------------------------------------


def framed(entries: list[bytes]) -> bytes:
    """Return the file of a log."""
    return MAGIC + b"".join(len(data).to_bytes(4, "big") + data for data in entries)


def read(files: Files) -> None:
    """Add what a reader makes of a file."""
    whole = framed(ENTRIES)
    for name, comment, content, entries in (
        ("empty-log", "a log file without entries: its first 16 bytes", MAGIC, []),
        ("whole", "five entries", whole, ENTRIES),
        ("one-byte", "an entry of one byte: a reader looks at frames alone", framed([b"\x00"]), [b"\x00"]),
        ("1024", "a frame of 1,024 bytes", framed([bytes(1024)]), [bytes(1024)]),
        ("zeros-in-a-frame", "a length and as many zeros: a whole frame, whose entry is none when it is verified",
         framed([*ENTRIES, bytes(300)]), [*ENTRIES, bytes(300)]),
    ):  # fmt: skip
        files.add(
            f"read-{name}",
            "log.read",
            comment,
            spec=SPEC,
            given={"file": content.hex()},
            output={"entries": [data.hex() for data in entries]},
        )
    for name, comment, content, fault, number in (
        ("no-file", "no bytes: not even the first 16", b"", "entry", 0),
        ("zeros-alone", "a thousand zeros: new to a writer, no log to a reader", bytes(1000), "entry", 0),
        ("magic-torn-zeros", "nine bytes of the first 16, then zeros", MAGIC[:9] + bytes(1000), "entry", 0),
        ("magic-torn", "15 bytes of the first 16", MAGIC[:-1], "entry", 0),
        ("magic-flipped", "a bit of the first 16 bytes flipped", wire.flipped(whole, 10), "entry", 0),
        ("magic-version", "agentmesh-log-2", whole.replace(b"log-1", b"log-2"), "entry", 0),
        ("no-magic", "frames alone", whole[16:], "entry", 0),
        *_torn(whole),
        *_bad_frames(),
    ):
        files.add(
            f"refuse-read-{name}",
            "log.read",
            comment,
            spec=SPEC,
            given={"file": content.hex()},
            expect=BROKEN,
            output={"fault": fault, "number": number},
        )


def _torn(whole: bytes) -> Iterator[tuple[str, str, bytes, str, int]]:
    before = framed(ENTRIES[:-1])
    for name, comment, content, number in (
        ("torn-last-byte", "the last byte is missing", whole[:-1], COUNT - 1),
        ("torn-entry", "the last frame ends in its middle", whole[:-100], COUNT - 1),
        ("torn-behind-length", "the last frame has its length alone", before + whole[len(before) :][:4], COUNT - 1),
        ("torn-length", "three bytes of the last frame's length", before + whole[len(before) :][:3], COUNT - 1),
        *((f"torn-ff-{size}", f"{size} of the four bytes of a length, all 255: not read as one", whole + b"\xff" * size,
           COUNT)
          for size in (1, 2, 3)),
        ("torn-first", "the first frame ends in its middle", whole[:60], 0),
        ("zeros", "a thousand zeros behind the last frame", whole + bytes(1000), COUNT),
        ("zeros-four", "four zeros behind the last frame", whole + bytes(4), COUNT),
        ("zeros-one", "one zero behind the last frame", whole + bytes(1), COUNT),
    ):  # fmt: skip
        yield name, comment, content, "torn", number


def _bad_frames() -> Iterator[tuple[str, str, bytes, str, int]]:
    two = framed(ENTRIES[:2])
    after = framed(ENTRIES[2:])[16:]
    for name, comment, content in (
        ("length-0", "a frame of no bytes, and more behind it", two + bytes(4) + after),
        ("length-0-and-a-byte", "zeros, and at their end a byte that is none", two + bytes(500) + b"\x01"),
        ("length-1025", "a frame of 1,025 bytes", two + (1025).to_bytes(4, "big") + bytes(1025) + after),
        ("length-1025-torn", "a length of 1,025 and nothing behind it", two + (1025).to_bytes(4, "big")),
        ("length-largest", "a length of 2^32 - 1", two + b"\xff" * 4 + after),
        ("length-little-endian", "a length in the other order of bytes",
         two + len(ENTRIES[2]).to_bytes(4, "little") + after[4:]),
    ):  # fmt: skip
        yield name, comment, content, "entry", 2


def appended(files: Files) -> None:
    """Add what a writer makes of a file."""
    whole, more = framed(ENTRIES[:3]), ENTRIES[3:]
    for name, comment, content, kept, torn, after in _appended(whole, more):
        added = [] if name.endswith("nothing") else more
        files.add(
            f"append-{name}",
            "log.append",
            comment,
            spec=SPEC,
            given={"file": content.hex(), "more": [data.hex() for data in added]},
            output={
                "entries": [data.hex() for data in ENTRIES[:kept]],
                "torn_bytes": torn,
                "file": after.hex(),
            },
        )
    for name, comment, content, number in (
        ("no-log", "a file of something else", b"hello, world\n", 0),
        ("zeros-and-a-byte", "zeros, and at their end a byte that is none", bytes(1000) + b"\x01", 0),
        ("zeros-before", "a zero before the first 16 bytes", b"\x00" + whole, 0),
        ("magic-torn-zeros-and-a-byte", "nine of the first bytes, zeros, and a byte that is none",
         MAGIC[:9] + bytes(500) + b"\x01", 0),
        ("magic-flipped", "a bit of the first 16 bytes flipped", wire.flipped(whole, 0), 0),
        ("length-1025", "a frame of 1,025 bytes", framed(ENTRIES[:1]) + (1025).to_bytes(4, "big") + bytes(1025), 1),
        ("length-0-and-a-byte", "zeros, and at their end a byte that is none", whole + bytes(500) + b"\x01", 3),
    ):  # fmt: skip
        files.add(
            f"refuse-append-{name}",
            "log.append",
            comment,
            spec=SPEC,
            given={"file": content.hex(), "more": [data.hex() for data in more]},
            expect=BROKEN,
            output={"fault": "entry", "number": number},
        )
    _taken(files, whole)


def _appended(whole: bytes, more: list[bytes]) -> Iterator[tuple[str, str, bytes, int, int, bytes]]:
    """Yield (name, comment, file, entries kept, bytes cut off, file afterwards)."""
    yield from (
        ("whole", "behind a whole log", whole, 3, 0, framed(ENTRIES)),
        ("nothing", "a whole log opened, and nothing appended: the file is as it was", whole, 3, 0, whole),
        ("new", "an empty file is a new log", b"", 0, 0, framed(more)),
        ("torn-while-new", "a file that was torn within its first 16 bytes", MAGIC[:9], 0, 9, framed(more)),
        ("torn-entry", "a torn last frame is cut off", whole[:-5], 2, 4 + len(ENTRIES[2]) - 5,
         framed(ENTRIES[:2] + more)),
        ("torn-length", "two bytes of a length are cut off", whole + b"\x00\x01", 3, 2, framed(ENTRIES)),
        ("zeros", "zeros are cut off", whole + bytes(700), 3, 700, framed(ENTRIES)),
        ("torn-nothing", "a torn log opened, and nothing appended: its tail is there still", whole[:-5], 2,
         4 + len(ENTRIES[2]) - 5, whole[:-5]),
        ("new-nothing", "an empty file opened, and nothing appended: it has its first 16 bytes", b"", 0, 0, MAGIC),
        ("torn-while-new-nothing", "a file torn while it was new, and nothing appended", MAGIC[:9], 0, 9, MAGIC),
        ("zeros-alone", "zeros alone are a new file", bytes(1000), 0, 1000, framed(more)),
        ("zeros-alone-nothing",
         "zeros alone, and nothing appended: the first 16 bytes, and behind them the zeros that were there",
         bytes(1000), 0, 1000, MAGIC + bytes(984)),
        ("zeros-16", "as many zeros as the first bytes are", bytes(16), 0, 16, framed(more)),
        ("zeros-one-alone", "one zero", bytes(1), 0, 1, framed(more)),
        ("torn-while-new-zeros", "nine of the first bytes, then seven zeros", MAGIC[:9] + bytes(7), 0, 16,
         framed(more)),
        ("torn-while-new-more-zeros", "fifteen of the first bytes, then zeros past the sixteenth",
         MAGIC[:15] + bytes(500), 0, 515, framed(more)),
        ("torn-ff", "three bytes of a length, all 255, are cut off", whole + b"\xff" * 3, 3, 3, framed(ENTRIES)),
    )  # fmt: skip


def _taken(files: Files, whole: bytes) -> None:
    """Add what a writer makes of entries: it looks at their length alone."""
    one, largest = b"\x00", bytes(1024)
    for name, comment, content, found, added, after in (
        ("no-entries", "what is no entry, behind what is none", framed([one]), [one], [largest],
         framed([one, largest])),
        ("zeros-in-a-frame", "a length and as many zeros are a whole frame", framed([largest]), [largest], [],
         framed([largest])),
    ):  # fmt: skip
        files.add(
            f"append-{name}",
            "log.append",
            comment,
            spec=SPEC,
            given={"file": content.hex(), "more": [data.hex() for data in added]},
            output={"entries": [data.hex() for data in found], "torn_bytes": 0, "file": after.hex()},
        )
    files.add_each("log.append", SPEC, (
        (f"refuse-append-{name}", comment, {"file": content.hex(), "more": [data.hex() for data in added]}, expect)
        for name, comment, content, added, expect in (
            ("element-0", "an element of no bytes behind a good one", whole, [ENTRIES[3], b""], NOT_ALLOWED),
            ("element-1025", "an element of 1,025 bytes", whole, [bytes(1025)], NOT_ALLOWED),
        )
    ))  # fmt: skip
    files.add(
        "refuse-append-file-before-element",
        "log.append",
        "an element of no bytes, and a file of something else: the file comes first",
        spec=SPEC,
        given={"file": b"hello, world\n".hex(), "more": [""]},
        expect=BROKEN,
        output={"fault": "entry", "number": 0},
    )

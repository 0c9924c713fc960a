"""What is aimed at: each row is a ratio of two medians of one interleaved run. Times are never compared across runs.

A quantity is `party:name`, where the party is `ours`, `bare` (the floor) or a peer, and the name is a workload or a
figure. A plain number stands for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Target(NamedTuple):
    """One row: `ours` may be at most `at_most` times `versus`; `says` what is compared with what.

    `note` says what stands in the way of a row that is not met, and is shown for no other. Its numbers are those of the
    machine of docs/benchmarks.md in this repository.
    """

    ours: str
    versus: str | float
    at_most: float
    says: str
    note: str = ""


class Outcome(NamedTuple):
    """A row as measured: the ratio, and the middle half of the ratios of the rounds; or why there is none."""

    target: Target
    ratio: float | None
    low: float | None
    high: float | None
    missing: str | None

    @property
    def met(self) -> bool | None:
        """Whether the ratio is within the target; `None` where it was not measured."""
        return None if self.ratio is None else self.ratio <= self.target.at_most


_MB: Final = "1048576"
TARGETS: Final = (
    Target("ours:handshake_pair", "agt:handshake_pair", 1.4,
           "a pair whose identities have met, signed and post-quantum, beside AGT's unsigned classical set-up",
           "the floor alone is 1.3 times AGT's set-up: signatures, their verification and ML-KEM"),
    Target("ours:handshake_pair_cold", "agt:handshake_pair", 1.9,
           "the same when the identities have not met and the KEM key is at rest",
           "the floor alone is 1.7 times AGT's set-up"),
    Target("ours:handshake_pair", "bare:handshake_pair", 1.35,
           "a warm pair beside the bare primitives that it needs",
           "strict reading of 1.5 KB structures, and caches that a loop of primitives keeps warm"),
    Target("ours:handshake_pair_cold", "bare:handshake_pair_cold", 1.25,
           "a cold pair beside the bare primitives that it needs",
           "as the row before"),
    Target("ours:frame_256", "agt:frame_256", 0.50, "256 bytes to the wire and back, no audit, beside AGT's frame",
           "above the floor are a hundred calls of Python: lock, policy, layouts, and the objects of a step"),
    Target("ours:frame_256", "vodozemac:frame_256", 0.75, "the same beside vodozemac's",
           "as the row before"),
    Target("ours:frameaudit_256", "agt:frameaudit_256", 0.18,
           "the same with an audit record on both sides, in memory, beside AGT's frame and audit",
           "a record costs about 10 us a side: receipt, checks, msgpack, two hashes, the commit"),
    Target("ours:framefile_256", "agt:frameaudit_256", 0.21, "the same with a log in a file",
           "as the row before, and a write to a file"),
    Target(f"ours:frameaudit_{_MB}", f"agt:frameaudit_{_MB}", 0.35, "1 MiB with an audit record on both sides",
           "the floor alone is 0.33 of AGT's"),
    Target(f"ours:frameaudit_{_MB}", f"bare:box_and_hash_{_MB}", 1.10, "the same beside bare secretbox and SHA-256",
           "copies of a megabyte: padding, joining, and the box that is cut out to be opened"),
    Target("ours:pingpong", "agt:pingpong", 0.95,
           "a message of a ping-pong, whole frames, beside AGT's ratchet without frames",
           "the floor alone is 0.9 of AGT's ratchet"),
    Target("ours:pingpong", "bare:pingpong", 1.20, "the same beside the bare primitives that it needs",
           "the objects of a turn, and the calls of Python above the primitives"),
    Target("ours:reverse100", "ours:inorder100", 1.15, "a message of a hundred opened in reverse, beside in order",
           "opening in order became cheaper, as it changes one object; in reverse each takes a key that was kept"),
    Target("ours:refused_header_256", "ours:genuine_256", 2.0,
           "refusing a random header, beside opening a genuine envelope"),
    Target("ours:refused_commitment_256", "ours:genuine_256", 0.8, "refusing a changed commitment"),
    Target("ours:refused_body_256", "ours:genuine_256", 1.1, "refusing a changed body"),
    Target("ours:refused_duplicate_256", "ours:genuine_256", 0.6, "refusing a duplicate"),
    Target(f"ours:refused_header_{_MB}", f"ours:genuine_{_MB}", 0.05, "refusing a random header on 1 MiB"),
    Target("ours:overhead_bytes", "agt:overhead_bytes", 0.75,
           "bytes on the wire beyond a plaintext of 256, mesh name of 12, beside AGT's JSON frame with real DIDs"),
    Target("ours:mem_session_alone_bytes", "agt:mem_session_bytes", 2.2,
           "an idle session's object in memory, beside AGT's channel object"),
    Target("ours:mem_session_bytes", "agt:mem_session_bytes", 2.0,
           "the same with all that an agent keeps beside it, against AGT's channel object alone",
           "a seventh of it is the peer's identity, name and entry, of which AGT's object has none"),
    Target("ours:exported_bytes", 1024, 1.0, "an idle session exported, unsealed, in 1 KiB"),
    Target("ours:serialise", "agt:serialise", 1.0, "exporting a session, beside AGT's to_dict and JSON",
           "what lies packed in memory, so that a session is small, is unpacked to be exported"),
    Target("ours:restore", "agt:restore", 2.5, "restoring it, every field checked, beside the inverse",
           "type, range and canonical form of 40 fields are checked, in Python; AGT checks none"),
    Target("ours:audit_growth.slope", 1, 1.2,
           "an audit append on the way to a million records, amortised, beside one on the way to a thousand"),
    Target("ours:audit_growth.100000.append", "agt:audit_growth.100000.append", 0.05,
           "an audit append on the way to 100,000 records, beside AGT's",
           "near it: another run gave 0.04"),
    Target("ours:long_log.opening", 1, 1.0, "opening a log of a million records in a file, in one second"),
    Target("ours:audit_verify_1k", "bare:audit_verify_1k", 4.55,
           "verifying a record, beside its two hashes alone: half of the 9.1 that it was"),
    Target("ours:long_log.showing_of_bare", 1, 2.0,
           "`audit show` of a million records, beside two hashes of each: a tenth of the 20 that it was",
           "to decode a record, encode it again for its one form, and hash it takes more than that"),
    Target("ours:audit_hashes.of_allowed", 1, 1.0, "the most hashes that one append made, of log2(n) + 3, counted"),
    Target("ours:audit_memory", "agt:audit_memory", 0.1, "memory for a record with a file sink"),
    Target("ours:audit_growth.proof_growth", 2, 1.25,
           "an inclusion proof at a million records beside one at a thousand: twice the steps, so logarithmic"),
    Target("ours:audit_growth.proof_ms", 0.1, 1.0, "an inclusion proof at a million records is of the class of 0.1 ms"),
    Target("ours:attach_seal_262144", "bare:attach_seal_262144", 1.1,
           "256 KiB of an attachment sealed, beside bare secretbox and BLAKE2b of the same bytes"),
    Target("ours:attach_open_262144", "bare:attach_open_262144", 1.12, "the same opened, beside the same"),
    Target("ours:attach_threads.two", "ours:attach_threads.one", 0.59,
           "8 MiB sealed by two threads, beside one: 1.7 times as fast",
           "the bare primitives gained nothing by a second thread either: others used the machine's two cores"),
    Target("ours:attach_memory.of_allowed", 1, 1.0,
           "the memory that 1 GiB, sealed and opened, takes above the start, of 16 MiB"),
    Target("ours:hub_curve.of_one", 1, 1.5,
           "a message of an agent with 10,000 sessions, beside one of an agent with one"),
    Target("ours:many_100", "ours:each_100", 0.95, "a message to 100 peers by `send_many`, beside 100 calls of `send`",
           "a call of `send` became cheaper, and with it what one call for all of them saves"),
)  # fmt: skip
COMPILED: Final = (
    Target("compiled:frame_256", "agt:frame_256", 0.35, "256 bytes to the wire and back, compiled, beside AGT's frame",
           "the calls of Python around the compiled ones, as in the pure build"),
    Target("compiled:frame_256", "vodozemac:frame_256", 0.50, "the same, compiled, beside vodozemac's",
           "as the row before"),
    Target("compiled:pingpong", "agt:pingpong", 0.90,
           "a message of a ping-pong, compiled, whole frames, beside AGT's ratchet without frames",
           "the floor alone is 0.9 of AGT's ratchet"),
    Target("compiled:restore", "agt:restore", 1.0, "restoring a session, compiled, every field checked, beside AGT's",
           "restoring calls no primitive, so the compiled calls give it nothing"),
)  # fmt: skip
STORES: Final = (
    Target("ours:store_out_100", "bare:store_out_100", 1.5,
           "a message sent, in a batch of 100 on SQLite, beside the same agent without a store and a bare transaction",
           "the outbox and its index, and of each row a hidden key, a commitment and a share in the hash of the set"),
    Target("ours:store_in_100", "bare:store_in_100", 1.5, "a message received, likewise", "as the row before"),
    Target("ours:store_out_1", "bare:store_out_1", 1.3, "a single message sent, forced to disk, likewise",
           "what a disk takes to be forced hides it where that takes a millisecond"),
    Target("ours:store_in_1", "bare:store_in_1", 1.3, "a single message received, forced to disk, likewise",
           "as the row before"),
    Target("ours:store_written.of_needed", 1, 3,
           "bytes that a single message writes, beside its session's row, sealed, and its envelope"),
    Target("ours:store_opening.of_restored", 1, 1.3,
           "opening an agent of 10,000 idle sessions, beside restoring their exports one by one",
           "of each session two rows are opened, of which one is the peer's"),
)  # fmt: skip

Measured = Mapping[str, list[float]]


def middle(values: list[float]) -> float:
    """Return the median."""
    ranked = sorted(values)
    half = len(ranked) // 2
    return ranked[half] if len(ranked) % 2 else (ranked[half - 1] + ranked[half]) / 2


def ratio_of(measured: Measured, ours: str, versus: str | float) -> tuple[float, float, float]:
    """Return (ratio of the medians, and the quartiles of the rounds' ratios).

    Raises:
        KeyError: one of the two was not measured.
    """
    mine = measured[ours]
    theirs = measured[versus] if isinstance(versus, str) else [float(versus)] * len(mine)
    each = sorted(a / b for a, b in zip(mine, theirs, strict=False) if b)
    if not each or not middle(theirs):
        raise KeyError(versus)
    return middle(mine) / middle(theirs), each[len(each) // 4], each[-1 - len(each) // 4]


def outcome(target: Target, measured: Measured, missing: Mapping[str, str]) -> Outcome:
    """Return a row as measured; `missing` says why a party or a quantity is not there."""
    try:
        return Outcome(target, *ratio_of(measured, target.ours, target.versus), None)
    except KeyError as error:
        quantity = str(error.args[0])
        party, _, name = quantity.partition(":")
        whole = f"{party}:{name.partition('.')[0]}"
        reasons = (missing[key] for key in (quantity, whole, party) if key in missing)
        return Outcome(target, None, None, None, next(reasons, f"no value of {quantity}"))

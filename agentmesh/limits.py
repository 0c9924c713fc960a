"""Every limit of the library, with its reason.

The constants at the top are fixed by the protocol: both sides must agree on them, so they cannot be set. `Limits` holds
what an agent may set for itself.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import Attribute, field, frozen

from agentmesh.errors import ArgumentInvalid

# --- fixed by version 1 of the protocol (docs/protocol.md) -----------------------------------------------------------

CLOCK_TOLERANCE_MS: Final = 300_000  # one tolerance everywhere: the spread of clocks among honest machines
KNOCK_LIFETIME_MAX_MS: Final = 14 * 86_400_000  # how long a KNOCK, and so the memory against its replay, can live
PENDING_GRACE_MS: Final = 86_400_000  # an ACCEPT given in the last second may lie at a relay for a day
LATE_WINDOW_MS: Final = 600_000  # late data after a close, or after a session was superseded
KEPT_CHAINS: Final = 5  # past receiving chains whose headers open in any case, so that duplicates are known
LATE_CHAINS: Final = 64  # chains before them that late messages are awaited of: with the two that are in use and the
# five, a header costs 71 openings at most, and seven where nothing is missing
OPEN_SESSIONS_PER_PEER: Final = 5  # in both roles, pending and undecided included
SCORE_MAX: Final = 1000
SIGNAL_MAX: Final = 200  # what one signal, and one issuer within a window, can move a score
DID_MAX_BYTES: Final = 128
MESH_MAX_BYTES: Final = 64
ACTION_MAX_BYTES: Final = 128
CAPABILITY_MAX_BYTES: Final = 128
_FRAMING_MAX_BYTES: Final = 4096  # more than header, keys, KEM ciphertext, commitments, tags and signature together
ACK_RANGES_MAX: Final = 16  # that one acknowledgement names: 129 bytes at most
PADDED_MIN_BYTES: Final = 64  # short messages all look alike
CHUNK_EXPONENT_MIN: Final = 16  # chunks of an attachment have 64 KiB at least: below, work per chunk counts
CHUNK_EXPONENT_MAX: Final = 24  # and 16 MiB at most: above, memory does
CHUNKS_MAX: Final = 1 << 20  # of an attachment: bounds the index that a reader holds at 32 MiB
REFERENCE_MAX_BYTES: Final = 4096  # a usual one has 180, the longest of an attachment 2,517
REFERENCES_MAX: Final = 16  # of one message: 64 KiB and their heads
COUNTER_MAX: Final = 2**32 - 1  # message numbers are 32 bits; a chain ends before they wrap
UINT_MAX: Final = 2**53 - 1  # every number stays exact in languages whose numbers are doubles
_LIFETIME_MAX_SECONDS: Final = UINT_MAX // 2000  # half of all times are left to the clock that it begins at


def _positive(_instance: object, attribute: Attribute[Any], value: Any) -> None:
    if type(value) is not int:
        raise ArgumentInvalid(attribute.name, "not an int")
    if value < 1:
        raise ArgumentInvalid(attribute.name, "under the least", allowed=1)
    if value > UINT_MAX:
        raise ArgumentInvalid(attribute.name, "over the limit", allowed=UINT_MAX)


def _limit(default: int, most: int = UINT_MAX) -> Any:
    def bounded(instance: object, attribute: Attribute[Any], value: Any) -> None:
        _positive(instance, attribute, value)
        if value > most:
            raise ArgumentInvalid(attribute.name, "over the limit", value, most)

    return field(default=default, validator=bounded)


@frozen(kw_only=True)
class Limits:
    """What one agent allows. Every value is a positive integer; anything else raises `ArgumentInvalid`.

    The defaults are those of docs/protocol.md. Sizes are bytes on this side only: a peer with smaller ones refuses what
    is larger, so lower them together.
    """

    # Sizes: refused by length alone, before anything is parsed or allocated.
    plaintext_max_bytes: int = _limit(1 << 20)
    envelope_max_bytes: int = _limit(2 << 20)
    intent_detail_max_bytes: int = _limit(64 << 10)
    capabilities_max: int = _limit(64)

    # Attachments: what is refused by the reference alone, before anything is fetched; 2^40 is 1 TiB.
    attachment_max_bytes: int = _limit(1 << 40)

    # Ratchet: what a peer can make this side derive at a step, and keep.
    skipped_keys_per_step: int = _limit(1000)
    skipped_keys_per_session: int = _limit(2000)
    skipped_key_lifetime_seconds: int = _limit(30 * 86_400)

    # Acknowledging, where an agent is told to: it has to be quicker than a sender's patience, and rarer than messages.
    ack_after_messages: int = _limit(16)
    ack_delay_ms: int = _limit(250)

    # Outbox: what the application may have under way, so that a peer that never acknowledges fills no memory or disk;
    # what peers cause, apart, so that they cannot keep it from sending; and how often the same bytes are offered: soon
    # enough for a lost envelope, seldom enough for a peer that is away for days.
    outbox_max_envelopes: int = _limit(10_000)
    outbox_max_bytes: int = _limit(64 << 20)
    outbox_max_answers: int = _limit(1000)  # answers and signals; the oldest makes room
    resend_first_ms: int = _limit(5000)
    resend_longest_ms: int = _limit(600_000)

    # Inbox: what peers may have an application leave undone, in all; a quarter of each for one of them. And how long a
    # message waits for those before it: longer than a relay reorders, and as long as a first resending takes.
    inbox_max_events: int = _limit(10_000)
    inbox_max_bytes: int = _limit(64 << 20)
    in_order_wait_ms: int = _limit(30_000)

    # Epochs: after how many own chains, or how long, an initiator offers the next key. Its own choice: nothing on the
    # wire depends on it. 16 turns cost a twentieth of the time of small messages; ten minutes cost nobody anything.
    epoch_turns: int = _limit(16)
    epoch_seconds: int = _limit(600)

    # Prekeys: how many a publication makes, when the shelf is low, how long they serve.
    one_time_bundles: int = _limit(100)
    one_time_bundles_low: int = _limit(20)
    one_time_lifetime_seconds: int = _limit(30 * 86_400, _LIFETIME_MAX_SECONDS)
    last_resort_lifetime_seconds: int = _limit(21 * 86_400, _LIFETIME_MAX_SECONDS)
    last_resort_rotation_seconds: int = _limit(7 * 86_400)
    bundles_max: int = _limit(10_000)  # that hold secrets; of used ones the bare memory is kept, ten times as many

    # KNOCKs: lifetime of one's own, and what strangers can make this agent do or keep.
    knock_lifetime_seconds: int = _limit(86_400, KNOCK_LIFETIME_MAX_MS // 1000)
    signature_checks_per_second: int = _limit(2000)  # about a tenth of a core for a flood of forged KNOCKs
    knocks_per_identity: int = _limit(20)  # a burst; see the next
    knock_refill_seconds: int = _limit(1)  # one KNOCK of an identity comes back so often
    answers_per_knock: int = _limit(5)  # how often one answer is repeated before the next
    answer_refill_seconds: int = _limit(60)
    remembered_knocks: int = _limit(65_536)  # memory of those that opened, in all; full means busy
    unopened_knocks: int = _limit(1024)  # memory of genuine ones that did not open; the oldest makes room
    remembered_knocks_per_identity: int = _limit(8192)
    undecided_knocks: int = _limit(1024)  # waiting for the application, in all; those per peer count as sessions
    tracked_identities: int = _limit(65_536)  # peers, and rate-limit buckets; full means busy
    reserved_one_in: int = _limit(4)  # one part in so many of what strangers share is kept for known identities

    # Trust: what statements can make this agent keep.
    trust_window_seconds: int = _limit(86_400)  # late updates still count, and one issuer moves a score by 200 at most
    trust_subjects: int = _limit(100_000)
    trust_updates_per_issuer: int = _limit(256)  # on one subject, within the window
    trust_edges: int = _limit(400_000)  # in a graph; strangers' at most a quarter of them
    trust_edges_per_issuer: int = _limit(1000)
    revocations: int = _limit(100_000)

    # Sessions in all, every peer together; one peer is bounded by the protocol's five.
    sessions_max: int = _limit(100_000)
    refusal_records_per_minute: int = _limit(64)  # reasons and senders told apart in the audit trail; the rest is one
    ended_session_seconds: int = _limit(86_400)  # how long the status of an ended session can be asked for

    def __attrs_post_init__(self) -> None:
        # One step's keys must fit what a session may keep, or a step would evict its own.
        if self.skipped_keys_per_step > self.skipped_keys_per_session:
            raise ArgumentInvalid(
                "skipped_keys_per_step", "over the limit", self.skipped_keys_per_step, self.skipped_keys_per_session
            )
        if self.resend_first_ms > self.resend_longest_ms:
            raise ArgumentInvalid("resend_first_ms", "over the limit", self.resend_first_ms, self.resend_longest_ms)
        # A new last-resort bundle is due while the old one serves, or there is none between.
        if self.last_resort_rotation_seconds > self.last_resort_lifetime_seconds:
            raise ArgumentInvalid(
                "last_resort_rotation_seconds",
                "over the limit",
                self.last_resort_rotation_seconds,
                self.last_resort_lifetime_seconds,
            )
        # The largest KNOCK and the largest message must fit an envelope: padding adds an eighth at most.
        intent_max_bytes = self.intent_detail_max_bytes + self.capabilities_max * (CAPABILITY_MAX_BYTES + 3)
        least = (self.plaintext_max_bytes + intent_max_bytes) * 9 // 8 + _FRAMING_MAX_BYTES
        if least > self.envelope_max_bytes:
            raise ArgumentInvalid("envelope_max_bytes", "under the least", self.envelope_max_bytes, least)

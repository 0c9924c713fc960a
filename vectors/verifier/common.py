"""What all modules share: refusals, constants and limits (section 11), and the values of a vector."""

from __future__ import annotations

import re
from typing import Any, NoReturn

Json = dict[str, Any]
Trace = dict[str, Any]

TOLERANCE_MS = 300_000
KNOCK_LIFETIME_MAX_MS = 1_209_600_000
PENDING_GRACE_MS = 86_400_000
LATE_WINDOW_MS = 600_000
KEPT_CHAINS = 5
LATE_CHAINS = 64
OPEN_SESSIONS_PER_PEER = 5
UINT_MAX = 2**53 - 1
COUNTER_MAX = 2**32 - 1
ACTION_MAX_BYTES = 128
ACK_RANGES_MAX = 16
REFERENCES_MAX = 16
MESSAGE_MIN_BYTES = 148
BUNDLE_MAX_BYTES = 1500
HEADER_MAX_BYTES = 338
REJECT_MAX_BYTES = 256
KNOCK, ACCEPT, REJECT, MESSAGE = 1, 2, 3, 4
DATA_TYPE, ACCEPT_TYPE, CLOSE_TYPE, SIGNAL_TYPE = 0, 1, 2, 3

# Section 11: those of the limits that a vector can depend on.
LIMITS = {
    "plaintext_max_bytes": 1_048_576,
    "envelope_max_bytes": 2_097_152,
    "intent_detail_max_bytes": 65_536,
    "capabilities_max": 64,
    "attachment_max_bytes": 2**40,
    "skipped_keys_per_step": 1000,
    "skipped_keys_per_session": 2000,
    "skipped_key_lifetime_seconds": 2_592_000,
    "epoch_turns": 16,
    "epoch_seconds": 600,
    "ack_after_messages": 16,
    "ack_delay_ms": 250,
    "signature_checks_per_second": 2000,
    "knocks_per_identity": 20,
    "knock_refill_seconds": 1,
    "answers_per_knock": 5,
    "answer_refill_seconds": 60,
    "remembered_knocks": 65_536,
    "remembered_knocks_per_identity": 8192,
    "unopened_knocks": 1024,
    "tracked_identities": 65_536,
    "undecided_knocks": 1024,
    "sessions_max": 100_000,
    "ended_session_seconds": 86_400,
    "trust_window_seconds": 86_400,
    "trust_subjects": 100_000,
    "trust_updates_per_issuer": 256,
    "trust_edges": 400_000,
    "trust_edges_per_issuer": 1000,
    "revocations": 100_000,
    "reserved_one_in": 4,
    "refusal_records_per_minute": 64,
}


class Refused(Exception):
    """The operation refuses, with a code of section 13 or of README.md, "Codes of this side", and perhaps an output."""

    def __init__(self, code: str, output: Json | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.output: Json = output or {}


class Unusable(Exception):
    """The vector itself cannot be run: an unknown operation, or an input that lacks something."""


def refuse(code: str) -> NoReturn:
    """Refuse with a code."""
    raise Refused(code)


def limits_of(given: Json) -> dict[str, int]:
    """The limits of an operation: those of its input in the place of the defaults."""
    changed: dict[str, int] = given.get("limits", {})
    if unknown := set(changed) - set(LIMITS):
        raise Unusable(f"unknown limits: {', '.join(sorted(unknown))}")
    return LIMITS | changed


def unhex(text: str) -> bytes:
    """A byte string of a vector."""
    if not isinstance(text, str) or re.fullmatch("([0-9a-f]{2})*", text) is None:
        raise Unusable("not lower-case hexadecimal")
    return bytes.fromhex(text)

"""Disclosure of one message: section 8.1."""

from __future__ import annotations

import hmac

from verifier.audit_record import decode_entry
from verifier.common import (
    CLOSE_TYPE,
    DATA_TYPE,
    MESSAGE,
    MESSAGE_MIN_BYTES,
    Json,
    Refused,
    Trace,
    limits_of,
    refuse,
    unhex,
)
from verifier.content import ANSWER, OFFER, read_action, read_close, read_data
from verifier.primitives import box_keys, secretbox_open, unpad
from verifier.structures import parse_envelope

REFUSAL = "audit.disclosure"


def _check(holds: bool) -> None:
    if not holds:
        refuse(REFUSAL)


def verify_disclosure(data: bytes, disclosure: bytes, record: Json, limits: dict[str, int], trace: Trace) -> Json:
    """The table of section 8.1, in its order."""
    try:
        envelope = parse_envelope(data, limits)
    except Refused:
        refuse(REFUSAL)
    _check(envelope.kind == MESSAGE and record["event"] in ("message.sealed", "message.opened"))
    _check(record["sender"] == envelope.sender)
    _check(record["recipient"] == envelope.recipient)
    _check(record["mesh"] == envelope.mesh)
    _check(record["envelope_time_ms"] == envelope.time)
    _check(record["size"] == len(data))
    _check(record["receipt"] == envelope.receipt)
    _check(record["session_id"] == envelope.body[:16])
    _check(len(envelope.body) >= MESSAGE_MIN_BYTES)
    _check(len(disclosure) == 96)
    session_id, nonce, sealed_header = envelope.body[:16], envelope.body[16:40], envelope.body[40:100]
    commitment, box = envelope.body[100:132], envelope.body[132:]
    th, mk = disclosure[:64], disclosure[64:]
    bk, kc = box_keys(mk, "am1-message", nonce + sealed_header + session_id + th + envelope.header, trace)
    _check(hmac.compare_digest(kc, commitment))
    padded = secretbox_open(box, nonce, bk)
    if padded is None:
        refuse(REFUSAL)
    trace["box_content"] = padded
    try:
        return read_plaintext(unpad(padded))
    except Refused:
        refuse(REFUSAL)


def read_plaintext(plaintext: bytes) -> Json:
    """Type and content of a message, section 6."""
    _check(len(plaintext) > 0)
    kind, content = plaintext[0], plaintext[1:]
    if kind == CLOSE_TYPE:
        read_close(content)
        return {"type": "close", "action": None, "content": content}
    _check(kind == DATA_TYPE)
    parts = read_data(content, OFFER | ANSWER)
    _check(parts.index >= 1)
    action, data = read_action(parts.rest)
    return {"type": "data", "action": action or None, "content": data}


def disclosure_verify(given: Json, trace: Trace) -> Json:
    """disclosure.verify."""
    record = decode_entry(unhex(given["entry"]))
    return verify_disclosure(unhex(given["envelope"]), unhex(given["disclosure"]), record, limits_of(given), trace)


OPERATIONS = {"disclosure.verify": disclosure_verify}

"""The family accept: the first message of B's ratchet, signed, and everything that must not pass for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import SIGN_KNOCK, SIGN_REJECT
from generator import curve, wire
from generator.codes import (
    BAD_SIGNATURE,
    CLOSED,
    CONTRADICTION,
    DUPLICATE,
    MALFORMED,
    POINT,
    REFUSED,
    UNOPENED,
    VERSION,
)
from generator.rejects import rejection
from generator.tables import keep, kept, play, row
from generator.talk import (
    ACCEPTED_MS,
    Talk,
    accept,
    body_cut,
    body_flipped,
    closing,
    conditions_bytes,
    data,
    enveloped,
    establish,
    forged_accept,
    header_items,
    hear,
    knocked,
    moved,
    peer_accept,
    poll,
    receive,
    reject,
    say,
    send,
    split,
)
from generator.world import ALICE, BOB, DAY_MS, EXPIRES_MS, LIMITED, MALLORY, TOLERANCE_MS, UNLIMITED, Files, token

Json = dict[str, Any]
Case = tuple[str, str, bytes, str]

SPEC: Final = "5.2"
NOTHING: Final = {"max_messages": 0, "ttl_seconds": None, "allowed_actions": []}
TWICE: Final = {**UNLIMITED, "allowed_actions": ["translate", "translate"]}


def _accept_bytes() -> Iterator[Case]:
    good = forged_accept()
    header, body = split(good)
    items = header_items(2, ACCEPTED_MS)
    mallory = wire.text(MALLORY.did.encode())
    for name, comment, index, item, expect in (
        ("header-version", "version 2 in the header", 0, wire.uint(2), VERSION),
        ("header-kind-knock", "kind 1", 1, wire.uint(1), MALFORMED),
        ("header-kind-reject", "kind 3", 1, wire.uint(3), MALFORMED),
        ("header-kind-message", "kind 4: it opens the awaited header, as a message that came too early would", 1,
         wire.uint(4), "message.not_yet"),
        ("header-kind-5", "kind 5", 1, wire.uint(5), VERSION),
        ("header-mesh", "another mesh", 2, wire.text(b"example/other"), "envelope.mesh"),
        ("header-sender", "another sender", 3, mallory, "envelope.sender"),
        ("header-sender-reflected", "the receiver as sender", 3, wire.text(ALICE.did.encode()), "envelope.reflected"),
        ("header-recipient", "another recipient", 4, mallory, "envelope.recipient"),
        ("header-time", "a time a millisecond later", 5, wire.uint(ACCEPTED_MS + 1), UNOPENED),
    ):  # fmt: skip
        yield name, f"{comment}, around the old body", enveloped(wire.with_item(items, index, item), body), expect
    for name, comment, at, expect in (
        ("session-id", "a bit of the session id flipped", 0, "message.unknown_session"),
        ("nonce", "a bit of the nonce flipped", 16, UNOPENED),
        ("sealed-header-tag", "a bit of the sealed header's tag flipped", 40, UNOPENED),
        ("sealed-header", "a bit of the sealed header flipped", 99, UNOPENED),
        ("commitment", "a bit of kc flipped", 100, UNOPENED),
        ("tag", "a bit of the body's tag flipped", 132, UNOPENED),
        ("box", "the last bit flipped", -1, UNOPENED),
    ):
        yield f"flipped-{name}", comment, enveloped(header, wire.flipped(body, at)), expect
    for size, expect in (
        (0, MALFORMED), (15, MALFORMED), (16, MALFORMED), (147, MALFORMED), (148, UNOPENED), (len(body) - 1, UNOPENED),
    ):  # fmt: skip
        yield f"truncated-{size}", f"the body cut after {size} bytes", enveloped(header, body[:size]), expect
    yield "appended", "a byte behind the body", enveloped(header, body + b"\x00"), UNOPENED


def _accept_keys() -> Iterator[Case]:
    header, th, receipt = (
        wire.array(*header_items(2, ACCEPTED_MS)),
        bytes.fromhex(knocked().values["th"]),
        knocked().receipt,
    )
    other_header = wire.array(*header_items(2, ACCEPTED_MS + 1))
    genuine_key = token("bob/genuine/ratchet")
    yield ("resealed", "a genuine signature, sealed again under another ratchet key by someone who knows root",
           forged_accept(ratchet_secret=genuine_key, signed_key=_public(token("bob/forged/ratchet"))),
           BAD_SIGNATURE)  # fmt: skip
    for name, comment, change in (
        ("other-knock", "the receipt of another KNOCK under the signature",
         {"signed_receipt": wire.flipped(receipt, 0)}),
        ("other-th", "another th under the signature", {"signed_th": wire.flipped(th, 0)}),
        ("other-header", "another header under the signature", {"signed_header": other_header}),
        ("other-conditions", "other conditions under the signature than those that came",
         {"signed_conditions": conditions_bytes(wire.uint(5), wire.NIL, wire.NIL)}),
        ("signature-empty", "the signature stripped", {"signature": b""}),
        ("signature-zero", "64 zero bytes", {"signature": bytes(64)}),
        ("signature-short", "63 bytes", {"signature": bytes(63)}),
        ("signature-other-signer", "signed by somebody else", {"signer": MALLORY}),
        ("signature-initiator", "signed by the initiator itself", {"signer": ALICE}),
        ("signature-label-reject", "signed under the label of a REJECT", {"label": SIGN_REJECT}),
        ("signature-label-knock", "signed under the label of a KNOCK", {"label": SIGN_KNOCK}),
    ):  # fmt: skip
        yield name, comment, forged_accept(**change), BAD_SIGNATURE
    yield "sealed-for-other-th", "another th in the context", forged_accept(sealed_th=wire.flipped(th, 0)), UNOPENED
    unknown = token("accept/session", 16)
    yield "other-session", "another session's id", forged_accept(session_id=unknown), "message.unknown_session"
    for index, (comment, point) in enumerate(curve.X25519_SMALL_ORDER[:4]):
        yield f"ratchet-key-small-order-{index}", f"R_B with {comment}", forged_accept(ratchet_key=point), POINT
    two = wire.array(wire.NIL, wire.NIL)
    yield from (
        ("conditions-and-signature", "conditions that are not well formed, under a bad signature: the signature first",
         forged_accept(conditions=two, signature=bytes(64)), BAD_SIGNATURE),
        ("content-and-signature", "no pair of conditions and signature: refused before there is a signature",
         forged_accept(accept_content=two), REFUSED),
        ("n-1-and-signature", "number 1 of the chain, under a bad signature", forged_accept(n=1, signature=bytes(64)),
         REFUSED),
        ("n-over-limit-and-key", "too large a gap, and an R_B of small order: nothing is derived over a gap",
         forged_accept(n=1001, ratchet_key=curve.X25519_SMALL_ORDER[2][1]), "message.gap"),
        ("n-end-and-key", "a number that no chain reaches, and an R_B of small order",
         forged_accept(n=0, pn=1, ratchet_key=curve.X25519_SMALL_ORDER[2][1]), CONTRADICTION),
    )  # fmt: skip
    top_bit = wire.flipped(_public(token("bob/forged/ratchet")), 31, 0x80)
    yield from (
        ("ratchet-key-top-bit", "R_B with its top bit set", forged_accept(ratchet_key=top_bit), POINT),
        ("ratchet-key-other", "another R_B in the header than that which sealed",
         forged_accept(ratchet_key=_public(genuine_key)), UNOPENED),
        ("n-1", "number 1 of the chain: the ACCEPT is number 0", forged_accept(n=1), REFUSED),
        ("pn-1", "pn 1 where no chain was before", forged_accept(pn=1), CONTRADICTION),
        ("n-over-limit", "number 1,001: more is missing than a step may skip", forged_accept(n=1001), "message.gap"),
        ("header-of-message", "sealed as kind 2 for the header of a kind 4", _cross(header), UNOPENED),
    )  # fmt: skip


def _cross(header: bytes) -> bytes:
    _, body = split(forged_accept(header=wire.array(*header_items(4, ACCEPTED_MS))))
    return enveloped(header, body)


def _public(secret: bytes) -> bytes:
    return _crypto.x25519_public(secret)


def _accept_content() -> Iterator[Case]:
    for name, comment, change, expect in (
        ("type-data", "type 0 in an envelope of kind 2", {"inside": data()}, REFUSED),
        ("type-close", "type 2", {"inside": closing()}, REFUSED),
        ("type-unknown", "type 3", {"inside": b"\x03"}, REFUSED),
        ("empty", "no type byte", {"inside": b""}, REFUSED),
        ("content-empty", "nothing behind the type byte", {"accept_content": b""}, REFUSED),
        ("padding-none", "zeros without a marker", {"padded": bytes(64)}, UNOPENED),
        ("padding-long", "more padding than due", {"padded": b"\x01\x80" + bytes(70)}, UNOPENED),
    ):
        yield name, comment, forged_accept(**change), expect
    conditions = [wire.NIL, wire.NIL, wire.NIL]
    for name, comment, encoded in (
        ("two", "two conditions", wire.array(*conditions[:2])),
        ("four", "four conditions", wire.array(*conditions, wire.NIL)),
        ("array16", "in a longer form", wire.array16(*conditions)),
        ("trailing", "a byte behind them", wire.array(*conditions) + b"\x00"),
        ("max-messages-uint8", "max_messages in a longer form", conditions_bytes(wire.uint8(3), wire.NIL, wire.NIL)),
        ("max-messages-true", "true as max_messages", conditions_bytes(wire.TRUE, wire.NIL, wire.NIL)),
        ("max-messages-negative", "a negative max_messages", conditions_bytes(b"\xff", wire.NIL, wire.NIL)),
        ("ttl-2-53", "a ttl of 2^53", conditions_bytes(wire.NIL, wire.uint(2**53), wire.NIL)),
        ("ttl-float", "a ttl as a float", conditions_bytes(wire.NIL, b"\xcb" + bytes(8), wire.NIL)),
        ("actions-str", "a string for the list of actions", conditions_bytes(wire.NIL, wire.NIL, wire.text(b"a"))),
        ("action-empty", "an empty action", conditions_bytes(wire.NIL, wire.NIL, wire.array(wire.text(b"")))),
        ("action-129", "an action of 129 bytes",
         conditions_bytes(wire.NIL, wire.NIL, wire.array(wire.text(b"a" * 129)))),
        ("actions-257", "257 actions", conditions_bytes(wire.NIL, wire.NIL, wire.array(*[wire.text(b"a")] * 257))),
    ):  # fmt: skip
        yield f"conditions-{name}", f"{comment}, under a good signature", forged_accept(conditions=encoded), REFUSED


# --- what is taken, and what comes in another order -------------------------------------------------------------------

_ENDS_MS: Final = ACCEPTED_MS + LIMITED["ttl_seconds"] * 1000 + TOLERANCE_MS
_EARLY: Final = bytes.fromhex(knocked().values["session_id"]) + token("accept/early", 200)
_EARLY_MESSAGE: Final = enveloped(wire.array(*header_items(4, ACCEPTED_MS, ALICE, BOB)), _EARLY)

MADE_AND_TAKEN: Final = (
    *(each
      for name, comment, conditions in (
          ("unlimited", "no conditions", UNLIMITED),
          ("limited", "all three conditions", LIMITED),
          ("nothing-allowed", "an empty list of actions allows none; zero messages are none", NOTHING),
      )
      for each in (
          row(f"make-{name}", f"{comment}; Bob accepts", [establish()], role="responder", conditions=conditions),
          row(f"take-{name}", f"{comment}; Alice receives the ACCEPT and takes her first two ratchet steps",
              [establish()], conditions=conditions),
      )),
    row("take-early-payload", "an early payload went with the KNOCK: it is Alice's data message 1",
        [establish(), say(b"the second")], early_payload=True),
    row("take-at-the-end", "24 hours behind expires: the last moment of a pending session",
        [receive(peer_accept(now_ms=EXPIRES_MS), now_ms=EXPIRES_MS + DAY_MS)]),
    row("take-at-ttl-end", "300 s behind the end of ttl_seconds: the last moment",
        [receive(peer_accept(), now_ms=_ENDS_MS)], conditions=LIMITED),
    row("refuse-send-behind-early-payload", "zero messages: the early payload went all the same, and nothing more does",
        [establish(), send(b"more", "session.condition")], early_payload=True,
        conditions={**UNLIMITED, "max_messages": 0}),
    row("take-action-twice", "an action stands twice in the list, and the KNOCK's own is not in it",
        [establish(), say(b"x", action="translate")], conditions=TWICE),
    row("make-early-payload-of-no-messages", "zero messages: the early payload is released all the same, and counted",
        [establish()], role="responder", early_payload=True, conditions=NOTHING),
    *(row(f"take-header-time-{name}", "no header time but a KNOCK's is held against a clock",
          [receive(forged_accept(time_ms=time_ms))])
      for name, time_ms in (("0", 0), ("2-53-1", 2**53 - 1))),
    row("take-forged-parts", "the ACCEPT that the refused ones here were made from", [receive(forged_accept())]),
)  # fmt: skip

IN_TIME: Final = (
    row("refuse-not-yet", "a message that overtook the ACCEPT may be offered again after it",
        [keep("accepted", peer_accept()), keep("overtaking", hear(b"faster")),
         receive(kept("overtaking"), "message.not_yet"), receive(kept("accepted")), receive(kept("overtaking"))],
        spec="6.1"),
    *(row(f"refuse-short-while-pending-{size}",
          f"a kind 4 of {size} bytes: too short for a message, so nothing is tried on it",
          [keep("accepted", peer_accept()), receive(body_cut(hear(), size), MALFORMED), receive(kept("accepted"))],
          spec="6.1")
      for size in (16, 143)),
    row("refuse-message-while-pending", "a kind 4 that the awaited header key does not open",
        [peer_accept(), receive(body_flipped(hear(), 50), UNOPENED), receive(forged_accept())], spec="6.1"),
    row("refuse-twice", "the ACCEPT again: its number was opened",
        [keep("genuine", peer_accept()), receive(kept("genuine")), receive(kept("genuine"), DUPLICATE),
         receive(hear())], spec="6.1"),
    row("refuse-second", "another ACCEPT of the same KNOCK, under another ratchet key",
        [establish(), receive(forged_accept(), CONTRADICTION), receive(hear())], spec="6.1"),
    row("refuse-too-late", "24 hours and a millisecond behind expires",
        [receive(peer_accept(now_ms=EXPIRES_MS), CLOSED, now_ms=EXPIRES_MS + DAY_MS + 1)]),
    row("refuse-ttl-over", "ttl_seconds ended more than 300 s before it came",
        [receive(peer_accept(), "message.condition", now_ms=_ENDS_MS + 1)], conditions=LIMITED),
    row("refuse-message-before-verdict",
        "a message for a KNOCK that Bob has not decided on: nobody can have the keys for it",
        [receive(_EARLY_MESSAGE, "message.unknown_session"),
         establish()], role="responder", spec="6.1"),
    row("refuse-message-rejected", "a message in a session that Bob rejected: it is known, and over",
        [reject(), receive(_EARLY_MESSAGE, CLOSED)], role="responder", spec="6.1"),
    row("refuse-message-undecided", "a message for a KNOCK that ran out undecided: it is over at once",
        [receive(_EARLY_MESSAGE, "message.unknown_session", now_ms=EXPIRES_MS),
         receive(_EARLY_MESSAGE, CLOSED, now_ms=EXPIRES_MS + 1)], role="responder", spec="6.1"),
    row("refuse-message-undecided-polled", "the same where time was looked at before",
        [poll(EXPIRES_MS + 1), receive(_EARLY_MESSAGE, CLOSED, now_ms=EXPIRES_MS + 1)], role="responder", spec="6.1"),
    row("refuse-after-reject", "an ACCEPT after a valid REJECT",
        [receive(rejection()), receive(peer_accept(), CLOSED)]),
    row("refuse-own", "Bob's own ACCEPT comes back to him",
        [receive(accept(), "envelope.recipient")], role="responder", spec="6.1"),
    row("refuse-own-turned", "the same with sender and recipient exchanged",
        [receive(moved(wire.array(*header_items(2, ACCEPTED_MS, ALICE, BOB)), accept()), UNOPENED)], role="responder",
        spec="6.1"),
)  # fmt: skip


def accept_family() -> Files:
    """Return the family accept."""
    files = Files("accept")
    refused = [
        row(f"refuse-{name}", f"{comment}; the genuine ACCEPT after it is taken",
            [receive(data, expect, now_ms=ACCEPTED_MS), establish()])
        for name, comment, data, expect in (*_accept_bytes(), *_accept_keys(), *_accept_content())
    ]  # fmt: skip
    for rows in (MADE_AND_TAKEN, refused, IN_TIME):
        play(Talk, files, rows, spec=SPEC, established=False)
    return files

"""The family message: what a session lets through, in which order it is refused, and how it ends."""

from __future__ import annotations

from typing import Any, Final

from generator import wire
from generator.message_forgeries import REFUSED, UNOPENED, altered, ill_formed, lies
from generator.talk import ACCEPTED_MS, LATER_MS, Talk, enveloped, header_items, split
from generator.world import ALICE, BOB, TOLERANCE_MS, Files

Json = dict[str, Any]

SPEC: Final = "6.1"
CLOSING: Final = "7"
LATE_MS: Final = 600_000
CONDITION: Final = "message.condition"
OWN_CONDITION: Final = "session.condition"
NOT_OPEN: Final = "session.not_open"
OVER: Final = "message.closed_session"
TTL_SECONDS: Final = 3600
TTL_END_MS: Final = ACCEPTED_MS + TTL_SECONDS * 1000


def _conditions(**fields: Any) -> Json:
    return {"max_messages": None, "ttl_seconds": None, "allowed_actions": None, **fields}


def message() -> Files:
    """Return the family message."""
    files = Files("message")
    _conversations(files)
    _conditions_met(files)
    _closes(files)
    for name, comment, make, expect in (*altered(), *lies(), *ill_formed()):
        talk = Talk(files, f"refuse-{name}", f"{comment}; what comes after it is opened", spec=SPEC)
        talk.receive(make(talk), expect)
        talk.receive(talk.hear(b"genuine"))
        talk.finish(expect)
    _out_of_order(files)
    _conditions_broken(files)
    _after_the_end(files)
    return files


# --- what passes -----------------------------------------------------------------------------------------------------


def _conversations(files: Files) -> None:
    for role in ("initiator", "responder"):
        talk = Talk(
            files, f"conversation-{role}", "three turns in each direction, several messages in each", role, spec="6"
        )
        if role == "responder":
            talk.receive(talk.hear(b"first"))
        for turn in range(3):
            talk.say(b"question %d" % turn)
            if turn == 1:
                talk.say(b"and another", action="translate")
            talk.receive(talk.hear(b"answer %d" % turn))
            talk.receive(talk.hear(b"more", action="translate"))
        talk.finish()
    talk = Talk(
        files, "before-the-answer", "Bob sends behind his ACCEPT, before Alice has sent anything", "responder", spec="6"
    )
    talk.say(b"one")
    talk.say(b"two")
    talk.finish()
    for name, comment, data in (
        ("empty", "no data", b""),
        ("fills-the-padding", "61 bytes: with type, action length and marker exactly 64", bytes(61)),
        ("one-more", "62 bytes: the next padded length", bytes(62)),
        ("long", "700 bytes: envelope and body in longer msgpack forms", bytes(range(250)) * 2 + bytes(200)),
    ):
        talk = Talk(files, f"data-{name}", comment, spec=SPEC)
        talk.say(data)
        talk.receive(talk.hear(data))
        talk.finish()
    talk = Talk(files, "action-longest", "an action of 128 bytes, in UTF-8", spec=SPEC)
    talk.receive(talk.hear(b"x", action="ü" * 64))
    talk.finish()
    talk = Talk(files, "action-spelled-out", "the KNOCK's action may be spelled out too", spec=SPEC)
    talk.receive(talk.sealed_by_peer(b"\x00\x09summarisehello"))
    talk.finish()
    for role, comment in (("initiator", "her first message is position 2"), ("responder", "position 2 comes first")):
        talk = Talk(
            files,
            f"early-payload-{role}",
            f"an early payload was position 1: {comment}",
            role,
            spec="5.2",
            early_payload=True,
        )
        if role == "initiator":
            talk.say(b"second")
        else:
            talk.receive(talk.hear(b"second"))
        talk.finish()
    talk = Talk(files, "out-of-order", "positions tell the order, also across a turn", spec="6")
    first, second, third = talk.hear(b"1"), talk.hear(b"2"), talk.hear(b"3")
    talk.receive(third)
    talk.say(b"turn")
    fourth = talk.hear(b"4")
    for envelope in (fourth, first, second):
        talk.receive(envelope)
    talk.finish()


def _conditions_met(files: Files) -> None:
    conditions = _conditions(max_messages=2)
    talk = Talk(files, "max-messages", "two in each direction, and then a close", spec="5.2", conditions=conditions)
    for number in (1, 2):
        talk.say(b"out %d" % number)
        talk.receive(talk.hear(b"in %d" % number))
    closed = talk.step("close", reason="done")
    talk.receive(bytes.fromhex(talk.deliver(bytes.fromhex(closed["envelope"]))["envelope"]))
    talk.finish()
    talk = Talk(
        files,
        "max-messages-early-payload",
        "the early payload is one of the two",
        spec="5.2",
        conditions=conditions,
        early_payload=True,
    )
    talk.say(b"the second")
    talk.finish()
    talk = Talk(
        files,
        "max-messages-lost",
        "positions count, not arrivals: the first was lost, the second is the last",
        "responder",
        spec="5.2",
        conditions=conditions,
    )
    talk.hear(b"lost")
    talk.receive(talk.hear(b"second"))
    talk.finish()
    talk = Talk(
        files,
        "allowed-actions",
        "the KNOCK's action and another one",
        spec="5.2",
        conditions=_conditions(allowed_actions=["summarise", "translate"]),
    )
    talk.say(b"a")
    talk.say(b"b", action="translate")
    talk.receive(talk.hear(b"c", action="translate"))
    talk.finish()
    talk = Talk(
        files,
        "ttl-last-moment",
        "sent at the end of ttl_seconds, received 300 s later",
        spec="5.2",
        conditions=_conditions(ttl_seconds=TTL_SECONDS),
    )
    talk.send(b"out", now_ms=TTL_END_MS)
    talk.receive(talk.hear(b"in", now_ms=TTL_END_MS), now_ms=TTL_END_MS + TOLERANCE_MS)
    talk.finish()
    talk = Talk(
        files,
        "ttl-over",
        "300 s and a millisecond behind the end: expired",
        spec=CLOSING,
        conditions=_conditions(ttl_seconds=TTL_SECONDS),
    )
    talk.step("poll", now_ms=TTL_END_MS + TOLERANCE_MS)
    talk.step("poll", now_ms=TTL_END_MS + TOLERANCE_MS + 1)
    talk.finish()


def _closes(files: Files) -> None:
    talk = Talk(files, "close-own", "this side closes, the peer answers: closed", spec=CLOSING)
    talk.say(b"data")
    closed = bytes.fromhex(talk.step("close", reason="done")["envelope"])
    talk.receive(bytes.fromhex(talk.deliver(closed)["envelope"]))
    talk.finish()
    talk = Talk(files, "close-peer", "the peer closes, this side answers with its own close: closed", spec=CLOSING)
    talk.receive(talk.hear())
    talk.receive(bytes.fromhex(talk.peer_step("close", reason="läuft ab")["envelope"]))
    talk.finish()
    talk = Talk(
        files, "close-peer-turn", "the peer's close comes with a turn: the answer is sealed behind it", spec=CLOSING
    )
    talk.say(b"question")
    talk.receive(bytes.fromhex(talk.peer_step("close", reason="")["envelope"]))
    talk.finish()
    talk = Talk(
        files, "close-late-data", "data that the close announced comes after it: closed when all has come", spec=CLOSING
    )
    late = [talk.hear(b"late %d" % number) for number in range(2)]
    talk.receive(bytes.fromhex(talk.peer_step("close", reason="")["envelope"]))
    talk.receive(late[1])
    talk.receive(late[0], now_ms=LATER_MS + LATE_MS)
    talk.finish()
    talk = Talk(files, "close-crossing", "the peer's data crosses this side's close", spec=CLOSING)
    crossing = talk.hear(b"crossing")
    closed = bytes.fromhex(talk.step("close", reason="")["envelope"])
    talk.receive(crossing)
    talk.receive(bytes.fromhex(talk.deliver(closed)["envelope"]))
    talk.finish()
    talk = Talk(
        files,
        "close-crossing-late",
        "the peer's close comes 600 s after this side's: from then on there are 600 s for what it announced",
        spec=CLOSING,
    )
    late = [talk.hear(b"late")]
    other = bytes.fromhex(talk.peer_step("close", reason="")["envelope"])
    talk.step("close", reason="")
    talk.receive(other, now_ms=LATER_MS + LATE_MS)
    talk.receive(late[0], now_ms=LATER_MS + 2 * LATE_MS)
    talk.finish()
    talk = Talk(files, "close-both", "both close at once: neither answers", spec=CLOSING)
    other = bytes.fromhex(talk.peer_step("close", reason="")["envelope"])
    talk.step("close", reason="")
    talk.receive(other)
    talk.finish()
    talk = Talk(files, "truncated-no-answer", "no answer to the close within 600 s", spec=CLOSING)
    talk.step("close", reason="")
    talk.step("poll", now_ms=LATER_MS + LATE_MS)
    talk.step("poll", now_ms=LATER_MS + LATE_MS + 1)
    talk.finish()
    talk = Talk(files, "truncated-counts", "what the peer's close announced does not come within 600 s", spec=CLOSING)
    talk.hear(b"lost")
    talk.receive(bytes.fromhex(talk.peer_step("close", reason="")["envelope"]))
    talk.step("poll", now_ms=LATER_MS + LATE_MS + 1)
    talk.finish()


# --- what came before, or is over ------------------------------------------------------------------------------------


def _out_of_order(files: Files) -> None:
    duplicate = "message.duplicate"
    talk = Talk(files, "refuse-duplicate", "the same envelope again", spec="6")
    envelope = talk.hear()
    talk.receive(envelope)
    talk.receive(envelope, duplicate)
    talk.receive(talk.hear(b"next"))
    talk.finish(duplicate)
    talk = Talk(files, "refuse-duplicate-late", "a late message again, after a turn", spec="6")
    late = talk.hear(b"late")
    talk.receive(talk.hear(b"on time"))
    talk.say(b"turn")
    talk.receive(talk.hear(b"behind the turn"))
    talk.receive(late)
    talk.receive(late, duplicate)
    talk.finish(duplicate)
    talk = Talk(
        files, "refuse-forged-late", "a forged copy of a late message first: the genuine one still opens", spec="6"
    )
    late = talk.hear(b"late")
    talk.receive(talk.hear(b"on time"))
    talk.receive(wire.flipped(late, -1), UNOPENED)
    talk.receive(late)
    talk.finish(UNOPENED)
    talk = Talk(
        files, "refuse-reflected", "this side's own message comes back with the names exchanged", "responder", spec=SPEC
    )
    _, body = split(talk.say(b"mine"))
    talk.receive(enveloped(wire.array(*header_items(4, LATER_MS, ALICE, BOB)), body), UNOPENED)
    talk.receive(talk.hear())
    talk.finish(UNOPENED)
    limits = {"plaintext_max_bytes": 1, "intent_detail_max_bytes": 1, "capabilities_max": 1, "envelope_max_bytes": 4300}
    talk = Talk(files, "refuse-too-large", "an envelope over the receiver's limit", spec=SPEC, limits=limits)
    talk.receive(talk.hear(bytes(4200)), "wire.too_large")
    talk.receive(talk.hear(b"y"))
    talk.finish("wire.too_large")
    limits = {"plaintext_max_bytes": 8}
    talk = Talk(
        files, "refuse-data-over-limit", "nine bytes of data where the receiver takes eight", spec=SPEC, limits=limits
    )
    talk.receive(talk.hear(bytes(9)), "wire.too_large")
    talk.receive(talk.hear(bytes(8)))
    talk.finish("wire.too_large")


def _conditions_broken(files: Files) -> None:
    conditions = _conditions(max_messages=1)
    talk = Talk(
        files,
        "refuse-send-max-messages",
        "the sender itself refuses the second of one",
        spec="5.2",
        conditions=conditions,
    )
    talk.say(b"one")
    talk.send(b"two", OWN_CONDITION)
    talk.finish(OWN_CONDITION)
    talk = Talk(
        files,
        "refuse-send-max-early-payload",
        "the early payload was the one",
        spec="5.2",
        conditions=conditions,
        early_payload=True,
    )
    talk.send(b"two", OWN_CONDITION)
    talk.finish(OWN_CONDITION)
    talk = Talk(
        files,
        "refuse-max-messages",
        "the receiver refuses position 2 of one; a close is allowed",
        spec="5.2",
        conditions=conditions,
    )
    talk.receive(talk.hear(b"one"))
    talk.receive(talk.sealed_by_peer(), CONDITION)
    talk.receive(bytes.fromhex(talk.peer_step("close", reason="")["envelope"]))
    talk.finish(CONDITION)
    talk = Talk(
        files,
        "refuse-max-messages-first-lost",
        "position 2 is refused though nothing came before it",
        "responder",
        spec="5.2",
        conditions=conditions,
    )
    lost = talk.hear(b"one")
    talk.receive(talk.sealed_by_peer(), CONDITION)
    talk.receive(lost)
    talk.finish(CONDITION)
    conditions = _conditions(allowed_actions=["translate"])
    for name, comment, action in (
        ("default", "the KNOCK's own action is not allowed", None),
        ("named", "an action not in the list", "delete"),
    ):
        talk = Talk(files, f"refuse-send-action-{name}", comment, spec="5.2", conditions=conditions)
        talk.send(b"x", OWN_CONDITION, action=action)
        talk.say(b"y", action="translate")
        talk.finish(OWN_CONDITION)
        inside = b"\x00" + bytes([len(action or "")]) + (action or "").encode() + b"x"
        talk = Talk(
            files, f"refuse-action-{name}", f"{comment}: refused by the receiver", spec="5.2", conditions=conditions
        )
        talk.receive(talk.sealed_by_peer(inside), CONDITION)
        talk.receive(talk.hear(b"y", action="translate"))
        talk.finish(CONDITION)
    conditions = _conditions(ttl_seconds=TTL_SECONDS)
    talk = Talk(
        files, "refuse-send-ttl", "a millisecond behind the end the sender refuses", spec="5.2", conditions=conditions
    )
    talk.send(b"x", NOT_OPEN, now_ms=TTL_END_MS + 1)
    talk.finish(NOT_OPEN)
    talk = Talk(
        files, "refuse-ttl-header", "a header time a millisecond behind the end", spec="5.2", conditions=conditions
    )
    talk.receive(talk.sealed_by_peer(time_ms=TTL_END_MS + 1), CONDITION, now_ms=TTL_END_MS)
    talk.finish(CONDITION)
    talk = Talk(
        files,
        "refuse-ttl-clock",
        "the receiver's clock 300 s and a millisecond behind the end",
        spec="5.2",
        conditions=conditions,
    )
    talk.receive(talk.hear(), OVER, now_ms=TTL_END_MS + TOLERANCE_MS + 1)
    talk.finish(OVER)
    talk = Talk(
        files,
        "refuse-close-ttl",
        "a close is not data, but the time has ended for it too",
        spec="5.2",
        conditions=conditions,
    )
    talk.step("close", NOT_OPEN, reason="", now_ms=TTL_END_MS + 1)
    talk.finish(NOT_OPEN)


def _after_the_end(files: Files) -> None:
    talk = Talk(files, "refuse-send-closed", "nothing is sent after one's own close", spec=CLOSING)
    talk.step("close", reason="")
    talk.send(b"x", NOT_OPEN)
    talk.finish(NOT_OPEN)
    talk = Talk(files, "refuse-close-twice", "nor a second close", spec=CLOSING)
    talk.step("close", reason="")
    talk.step("close", NOT_OPEN, reason="")
    talk.finish(NOT_OPEN)
    talk = Talk(
        files, "refuse-send-after-peer-close", "after the peer's close only one's own close is sent", spec=CLOSING
    )
    talk.hear(b"missing")
    talk.receive(bytes.fromhex(talk.peer_step("close", reason="")["envelope"]))
    talk.send(b"x", NOT_OPEN)
    talk.finish(NOT_OPEN)
    talk = Talk(files, "refuse-after-close", "data numbered behind its sender's close", spec=CLOSING)
    late = talk.hear(b"late")
    talk.receive(bytes.fromhex(talk.peer_step("close", reason="")["envelope"]))
    talk.receive(talk.sealed_by_peer(), "message.after_close")
    talk.receive(late)
    talk.finish("message.after_close")
    talk = Talk(files, "refuse-second-close", "a second close behind the first", spec=CLOSING)
    late, close = talk.hear(b"late"), wire.array(wire.text(b""), wire.uint(0), wire.uint(0))
    talk.receive(bytes.fromhex(talk.peer_step("close", reason="")["envelope"]))
    talk.receive(talk.sealed_by_peer(b"\x02" + close), "message.after_close")
    talk.receive(late)
    talk.finish("message.after_close")
    talk = Talk(files, "refuse-close-before-data", "a close whose number is below one already received", spec=CLOSING)
    early = talk.sealed_by_peer(b"\x02" + close)
    talk.receive(talk.hear(b"behind it"))
    talk.receive(early, REFUSED)
    talk.receive(talk.hear(b"on"))
    talk.finish(REFUSED)
    for name, comment, at_ms in (
        ("closed", "the session is closed by both", LATER_MS),
        ("truncated", "600 s and a millisecond behind this side's close", LATER_MS + LATE_MS + 1),
    ):
        talk = Talk(files, f"refuse-data-{name}", comment, spec=CLOSING)
        late = talk.hear(b"late")
        closed = bytes.fromhex(talk.step("close", reason="")["envelope"])
        if name == "closed":
            talk.receive(late)
            talk.receive(bytes.fromhex(talk.deliver(closed)["envelope"]))
        talk.receive(late, OVER, now_ms=at_ms)
        talk.finish(OVER)

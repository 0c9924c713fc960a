"""The family message: what a session lets through, in which order it is refused, and how it ends."""

from __future__ import annotations

from typing import Any, Final

from generator import wire
from generator.codes import CLOSED, DUPLICATE, REFUSED, TOO_LARGE, UNOPENED
from generator.message_forgeries import CLOSE, HEAD, attachment, foreign, ill_formed, indices, lies
from generator.signals import (
    ACKNOWLEDGEMENTS,
    BEGIN_BY_MS,
    CONDITION,
    EXCHANGES,
    IN_AN_HOUR,
    KEPT,
    LATE_MS,
    SIGNALS,
    TTL_END_MS,
)
from generator.tables import flipped, keep, kept, play, row
from generator.talk import (
    LATER_MS,
    Talk,
    close,
    closing,
    data,
    deliver,
    header_items,
    hear,
    moved,
    peer_close,
    poll,
    receive,
    say,
    sealed_by_peer,
    send,
    signal,
)
from generator.world import ALICE, BOB, DAY_MS, SMALL, TOLERANCE_MS, UNLIMITED, Files

Json = dict[str, Any]

SPEC: Final = "6.1"
CLOSING: Final = "7"
AFTER_CLOSE: Final = "message.after_close"
OWN_CONDITION: Final = "session.condition"
NOT_OPEN: Final = "session.not_open"


ONE: Final = {**UNLIMITED, "max_messages": 1}
TWO: Final = {**UNLIMITED, "max_messages": 2}
TRANSLATE: Final = {**UNLIMITED, "allowed_actions": ["translate"]}
BOTH: Final = {**UNLIMITED, "allowed_actions": ["summarise", "translate"]}


# --- what passes -----------------------------------------------------------------------------------------------------


CONVERSATIONS: Final = (
    *(row(f"conversation-{role}", "three turns in each direction, several messages in each",
          [first,
           [[say(b"question %d" % turn), say(b"and another", action="translate") if turn == 1 else [],
             receive(hear(b"answer %d" % turn)), receive(hear(b"more", action="translate"))]
            for turn in range(3)]], spec="6", role=role)
      for role, first in (("initiator", []), ("responder", receive(hear(b"first"))))),
    row("before-the-answer", "Bob sends behind his ACCEPT, before Alice has sent anything",
        [say(b"one"), say(b"two")], spec="6", role="responder"),
    *(row(f"data-{name}", comment, [say(data), receive(hear(data))])
      for name, comment, data in (
          ("empty", "no data", b""),
          ("fills-the-padding", "56 bytes: with what stands before it and the marker exactly 64", bytes(56)),
          ("one-more", "57 bytes: the next padded length", bytes(57)),
          ("long", "700 bytes: envelope and body in longer msgpack forms", bytes(range(250)) * 2 + bytes(200)),
      )),
    row("action-longest", "an action of 128 bytes, in UTF-8", [receive(hear(b"x", action="ü" * 64))]),
    row("action-spelled-out", "the KNOCK's action may be spelled out too",
        [receive(sealed_by_peer(data(action="summarise")))]),
    *(row(f"header-time-{name}", "no header time but a KNOCK's is held against a clock",
          [receive(hear()), receive(sealed_by_peer(time_ms=time_ms))])
      for name, time_ms in (("0", 0), ("2-53-1", 2**53 - 1))),
    row("action-twice", "an action stands twice in what is allowed",
        [say(b"a"), receive(hear(b"b"))], spec="5.2", conditions={**UNLIMITED, "allowed_actions": ["summarise"] * 2}),
    row("early-payload-initiator", "an early payload was position 1: her first message is position 2",
        [say(b"second")], spec="5.2", early_payload=True),
    row("early-payload-responder", "an early payload was position 1: position 2 comes first",
        [receive(hear(b"second"))], role="responder", spec="5.2", early_payload=True),
    *(row(f"references-{name}", comment, steps, spec="6.5")
      for name, comment, steps in (
          ("one", "one reference in each direction, and data without any behind it",
           [say(b"here it is", references=[attachment(1)]),
            receive(sealed_by_peer(data(b"and mine", references=[attachment(2)]))), receive(hear(b"no more"))]),
          ("sixteen", "sixteen references, and no data",
           [say(b"", references=[attachment(number) for number in range(16)]),
            receive(sealed_by_peer(data(b"", references=[attachment(number) for number in range(16)])))]),
          ("twice", "one reference twice", [receive(sealed_by_peer(data(references=[attachment(3)] * 2)))]),
          ("unknown-kind", "a reference of a kind that nobody knows, handed up as it is",
           [receive(sealed_by_peer(data(references=[wire.array(wire.uint(2), wire.binary(b"later"))])))]),
          ("unknown-largest", "a reference of 4096 bytes, between two others",
           [receive(sealed_by_peer(data(references=[
               attachment(4), wire.array(wire.uint(127), wire.binary(bytes(4091))), attachment(5)])))]),
          ("action", "a reference and an action",
           [say(b"for you", action="translate", references=[attachment(6)]),
            receive(sealed_by_peer(data(action="translate", references=[attachment(7)])))]),
          ("ack", "an ack stands before the references",
           [say(b"1"), receive(sealed_by_peer(data(b"x", ack=((1, 1),), references=[attachment(8)])))]),
      )),
    row("references-largest-data", "data at the limit: references are not counted in it",
        [receive(sealed_by_peer(data(bytes(100), references=[attachment(9)])))], spec="6.5",
        limits={"plaintext_max_bytes": 100}),
    row("out-of-order", "positions tell the order, also across a turn",
        [[keep(number, hear(b"%d" % number)) for number in (1, 2, 3)], receive(kept(3)), say(b"turn"),
         receive(hear(b"4")), receive(kept(1)), receive(kept(2))], spec="6"),
)  # fmt: skip


CONDITIONS_MET: Final = (
    row("max-messages", "two in each direction, and then a close",
        [[[say(b"out %d" % number), receive(hear(b"in %d" % number))] for number in (1, 2)],
         receive(deliver(close("done")))], spec="5.2", conditions=TWO),
    row("max-messages-early-payload", "the early payload is one of the two",
        [say(b"the second")], spec="5.2", conditions=TWO, early_payload=True),
    row("max-messages-lost", "positions count, not arrivals: the first was lost, the second is the last",
        [hear(b"lost"), receive(hear(b"second"))], spec="5.2", conditions=TWO, role="responder"),
    row("allowed-actions", "the KNOCK's action and another one",
        [say(b"a"), say(b"b", action="translate"), receive(hear(b"c", action="translate"))], spec="5.2",
        conditions=BOTH),
    row("ttl-last-moment", "sent at the end of ttl_seconds, received 300 s later",
        [send(b"out", now_ms=TTL_END_MS), receive(hear(b"in", now_ms=TTL_END_MS), now_ms=TTL_END_MS + TOLERANCE_MS)],
        spec="5.2", conditions=IN_AN_HOUR),
    row("ttl-over", "300 s and a millisecond behind the end: expired",
        [poll(TTL_END_MS + TOLERANCE_MS), poll(TTL_END_MS + TOLERANCE_MS + 1)], spec=CLOSING, conditions=IN_AN_HOUR),
)  # fmt: skip


CLOSES: Final = (
    row("close-own", "this side closes, the peer answers: closed",
        [say(b"data"), receive(deliver(close("done")))], spec=CLOSING),
    row("close-peer", "the peer closes, this side answers with its own close: closed",
        [receive(hear()), receive(peer_close("läuft ab"))], spec=CLOSING),
    row("close-peer-turn", "the peer's close comes with a turn: the answer is sealed behind it",
        [say(b"question"), receive(peer_close())], spec=CLOSING),
    row("close-late-data", "data that the close announced comes after it: closed when all has come",
        [[keep(number, hear(b"late %d" % number)) for number in (0, 1)], receive(peer_close()), receive(kept(1)),
         receive(kept(0), now_ms=LATER_MS + LATE_MS)], spec=CLOSING),
    row("close-crossing", "the peer's data crosses this side's close",
        [keep("crossing", hear(b"crossing")), keep("closed", close()), receive(kept("crossing")),
         receive(deliver(kept("closed")))], spec=CLOSING),
    row("close-crossing-late",
        "the peer's close comes 600 s after this side's: from then on there are 600 s for what it announced",
        [keep("late", hear(b"late")), keep("other", peer_close()), close(),
         receive(kept("other"), now_ms=LATER_MS + LATE_MS), receive(kept("late"), now_ms=LATER_MS + 2 * LATE_MS)],
        spec=CLOSING),
    row("close-both", "both close at once: neither answers",
        [keep("other", peer_close()), close(), receive(kept("other"))], spec=CLOSING),
    row("close-reason-over-limit", "a reason longer than the data that the receiver takes: a close has its own bound",
        [receive(peer_close("a reason of 25 characters"))], spec=CLOSING, limits={"plaintext_max_bytes": 8}),
    row("close-counts-impossible", "more announced than positions allow, more opened than was sent: the peer's word",
        [say(b"one"), receive(sealed_by_peer(closing(9, 9)))],
        spec=CLOSING),
    row("close-counts-too-few", "fewer announced than were opened: nothing is missing",
        [receive(hear()), receive(sealed_by_peer(CLOSE))],
        spec=CLOSING),
    row("close-answer-last-moment", "the peer's close at the end of the time to live is answered",
        [receive(peer_close(), now_ms=TTL_END_MS)], spec=CLOSING, conditions=IN_AN_HOUR),
    row("close-no-answer-past-ttl", "the peer's close a millisecond past the time to live is taken, and not answered",
        [receive(peer_close(), now_ms=TTL_END_MS + 1)], spec=CLOSING, conditions=IN_AN_HOUR),
    row("close-past-ttl-late-data", "past the time to live what the close announced may still come, for 300 s",
        [keep("late", hear(b"late")), receive(peer_close(), now_ms=TTL_END_MS + 1),
         receive(kept("late"), now_ms=TTL_END_MS + TOLERANCE_MS)], spec=CLOSING, conditions=IN_AN_HOUR),
    row("truncated-ttl", "closing when its time to live ends: truncated, and not expired",
        [close(now_ms=TTL_END_MS), poll(TTL_END_MS + TOLERANCE_MS), poll(TTL_END_MS + TOLERANCE_MS + 1)], spec=CLOSING,
        conditions=IN_AN_HOUR),
    row("truncated-unconfirmed", "closing when the time ends in which A should have been heard: truncated",
        [close(now_ms=BEGIN_BY_MS + DAY_MS - 1), poll(BEGIN_BY_MS + DAY_MS), poll(BEGIN_BY_MS + DAY_MS + 1)],
        spec=CLOSING, role="responder"),
    *(row(f"refuse-unconfirmed-{role}", "no message of A for a day behind the KNOCK's expiry, and for another",
          [[send(b"in time", now_ms=BEGIN_BY_MS)] if role == "responder" else [],
           send(b"too late", NOT_OPEN, now_ms=BEGIN_BY_MS + 1), poll(BEGIN_BY_MS + DAY_MS),
           poll(BEGIN_BY_MS + DAY_MS + 1)], spec=CLOSING, role=role)
      for role in ("initiator", "responder")),
    row("unconfirmed-heard", "A was heard in the last millisecond: B sends on",
        [receive(hear(), now_ms=BEGIN_BY_MS + DAY_MS), send(b"on", now_ms=BEGIN_BY_MS + 2 * DAY_MS)],
        spec=CLOSING, role="responder"),
    row("truncated-no-answer", "no answer to the close within 600 s",
        [close(), poll(LATER_MS + LATE_MS), poll(LATER_MS + LATE_MS + 1)], spec=CLOSING),
    row("truncated-counts", "what the peer's close announced does not come within 600 s",
        [hear(b"lost"), receive(peer_close()), poll(LATER_MS + LATE_MS + 1)], spec=CLOSING),
)  # fmt: skip


# --- what came before, or is over ------------------------------------------------------------------------------------


OUT_OF_ORDER: Final = (
    row("refuse-duplicate", "the same envelope again",
        [keep("envelope", hear()), receive(kept("envelope")), receive(kept("envelope"), DUPLICATE),
         receive(hear(b"next"))], spec="6"),
    row("refuse-duplicate-late", "a late message again, after a turn",
        [keep("late", hear(b"late")), receive(hear(b"on time")), say(b"turn"), receive(hear(b"behind the turn")),
         receive(kept("late")), receive(kept("late"), DUPLICATE)], spec="6"),
    row("refuse-forged-late", "a forged copy of a late message first: the genuine one still opens",
        [keep("late", hear(b"late")), receive(hear(b"on time")), receive(flipped(kept("late"), -1), UNOPENED),
         receive(kept("late"))], spec="6"),
    row("refuse-reflected", "this side's own message comes back with the names exchanged",
        [receive(moved(wire.array(*header_items(4, LATER_MS, ALICE, BOB)), say(b"mine")), UNOPENED), receive(hear())],
        role="responder"),
    row("refuse-too-large", "an envelope over the receiver's limit",
        [receive(hear(bytes(4200)), TOO_LARGE), receive(hear(b"y"))], limits=SMALL),
    row("refuse-data-over-limit", "nine bytes of data where the receiver takes eight",
        [receive(hear(bytes(9)), TOO_LARGE), receive(hear(bytes(8)))], limits={"plaintext_max_bytes": 8}),
)  # fmt: skip


CONDITIONS_BROKEN: Final = (
    row("refuse-send-max-messages", "the sender itself refuses the second of one",
        [say(b"one"), send(b"two", OWN_CONDITION)], spec="5.2", conditions=ONE),
    row("refuse-send-max-early-payload", "the early payload was the one",
        [send(b"two", OWN_CONDITION)], spec="5.2", conditions=ONE, early_payload=True),
    row("refuse-max-messages", "the receiver refuses index 2 of one; a close is allowed",
        [receive(hear(b"one")), receive(sealed_by_peer(), CONDITION), receive(peer_close())], spec="5.2",
        conditions=ONE),
    *(row(f"refuse-{name}", f"{comment}: no data, and a close all the same",
          [send(b"x", OWN_CONDITION), receive(sealed_by_peer(), CONDITION), receive(peer_close())], spec="5.2",
          conditions=conditions)
      for name, comment, conditions in (
          ("no-messages", "max_messages of 0", {**UNLIMITED, "max_messages": 0}),
          ("no-actions", "an empty list of actions", {**UNLIMITED, "allowed_actions": []}),
      )),
    row("refuse-max-messages-first-lost", "index 2 is refused though nothing came before it",
        [keep("lost", hear(b"one")), receive(sealed_by_peer(), CONDITION), receive(kept("lost"))], spec="5.2",
        conditions=ONE, role="responder"),
    *(each
      for name, comment, action, inside in (
          ("default", "the KNOCK's own action is not allowed", None, data(b"x")),
          ("named", "an action not in the list", "delete", data(b"x", "delete")),
      )
      for each in (
          row(f"refuse-send-action-{name}", comment,
              [send(b"x", OWN_CONDITION, action=action), say(b"y", action="translate")], spec="5.2",
              conditions=TRANSLATE),
          row(f"refuse-action-{name}", f"{comment}: refused by the receiver",
              [receive(sealed_by_peer(inside), CONDITION), receive(hear(b"y", action="translate"))], spec="5.2",
              conditions=TRANSLATE),
      )),
    row("refuse-send-ttl", "a millisecond behind the end the sender refuses",
        [send(b"x", NOT_OPEN, now_ms=TTL_END_MS + 1)], spec="5.2", conditions=IN_AN_HOUR),
    row("refuse-ttl-header", "a header time a millisecond behind the end",
        [receive(sealed_by_peer(time_ms=TTL_END_MS + 1), CONDITION, now_ms=TTL_END_MS)], spec="5.2",
        conditions=IN_AN_HOUR),
    row("refuse-ttl-clock", "the receiver's clock 300 s and a millisecond behind the end",
        [receive(hear(), CLOSED, now_ms=TTL_END_MS + TOLERANCE_MS + 1)], spec="5.2", conditions=IN_AN_HOUR),
    row("refuse-close-ttl", "a close is not data, but the time has ended for it too",
        [close("", NOT_OPEN, now_ms=TTL_END_MS + 1)], spec="5.2", conditions=IN_AN_HOUR),
)  # fmt: skip


AFTER_THE_END: Final = (
    row("refuse-send-closed", "nothing is sent after one's own close", [close(), send(b"x", NOT_OPEN)], spec=CLOSING),
    row("refuse-close-twice", "nor a second close", [close(), close("", NOT_OPEN)], spec=CLOSING),
    row("refuse-send-after-peer-close", "after the peer's close only one's own close is sent",
        [hear(b"missing"), receive(peer_close()), send(b"x", NOT_OPEN)], spec=CLOSING),
    row("refuse-after-close", "data numbered behind its sender's close",
        [keep("late", hear(b"late")), receive(peer_close()), receive(sealed_by_peer(), AFTER_CLOSE),
         receive(kept("late"))], spec=CLOSING),
    *(row(f"refuse-after-close-{name}", f"{comment}, behind its sender's close",
          [keep("late", hear(b"late")), receive(peer_close()), receive(made, expect), receive(kept("late"))],
          spec="6.1", **given)
      for name, comment, made, expect, given in (
          ("ill-formed", "an action longer than the message", sealed_by_peer(HEAD + b"\x05abc"), AFTER_CLOSE, {}),
          ("close-ill-formed", "a close with a byte behind it", sealed_by_peer(CLOSE + b"\x00"), AFTER_CLOSE, {}),
          ("unknown-type", "type 4", sealed_by_peer(b"\x04hello"), AFTER_CLOSE, {}),
          ("signal", "a signal", sealed_by_peer(signal((1, 1))), AFTER_CLOSE, {}),
          ("index", "index 0", sealed_by_peer(data(), filled=False), AFTER_CLOSE, {}),
          ("no-type", "no type byte", sealed_by_peer(b""), AFTER_CLOSE, {}),
          ("too-large", "nine bytes where the receiver takes eight", sealed_by_peer(data(bytes(9))),
           AFTER_CLOSE, {"limits": {"plaintext_max_bytes": 8}}),
          ("condition", "an action that is not allowed", sealed_by_peer(data(b"x", "delete")), AFTER_CLOSE,
           {"conditions": BOTH}),
          ("type-accept", "type 1 in kind 4: it may stand nowhere", sealed_by_peer(b"\x01" + CLOSE[1:]), REFUSED, {}),
          ("padding", "no padding: it does not open", sealed_by_peer(padded=bytes(64)), UNOPENED, {}),
      )),
    row("refuse-second-close-below", "a second close, numbered below the first",
        [keep("early", sealed_by_peer(CLOSE)), keep("late", hear(b"late")), receive(peer_close()),
         receive(kept("early"), REFUSED), receive(kept("late"))], spec="6.1"),
    row("refuse-second-close", "a second close behind the first",
        [keep("late", hear(b"late")), receive(peer_close()), receive(sealed_by_peer(CLOSE), AFTER_CLOSE),
         receive(kept("late"))], spec=CLOSING),
    row("refuse-close-before-data", "a close whose number is below one already received",
        [keep("early", sealed_by_peer(CLOSE)), receive(hear(b"behind it")), receive(kept("early"), REFUSED),
         receive(hear(b"on"))], spec=CLOSING),
    row("refuse-data-closed", "the session is closed by both",
        [keep("late", hear(b"late")), keep("closed", close()), receive(kept("late")), receive(deliver(kept("closed"))),
         receive(kept("late"), CLOSED)], spec=CLOSING),
    row("refuse-data-truncated", "600 s and a millisecond behind this side's close",
        [keep("late", hear(b"late")), close(), receive(kept("late"), CLOSED, now_ms=LATER_MS + LATE_MS + 1)],
        spec=CLOSING),
)  # fmt: skip


def message() -> Files:
    """Return the family message."""
    files = Files("message")
    refused = [
        row(f"refuse-{name}", f"{comment}; what comes after it is opened",
            [receive(made, expect), receive(hear(b"genuine"))])
        for name, comment, made, expect in (*foreign(), *lies(), *ill_formed())
    ]  # fmt: skip
    refused += [
        row(f"refuse-{name}", f"{comment}; what comes after it is opened",
            [receive(hear(b"1")), receive(sealed_by_peer(signal((1, 1)))), receive(hear(b"2")), receive(made, expect),
             receive(hear(b"genuine"))], early_payload=True)
        for name, comment, made, expect in indices()
    ]  # fmt: skip
    for rows in (
        CONVERSATIONS,
        CONDITIONS_MET,
        CLOSES,
        ACKNOWLEDGEMENTS,
        SIGNALS,
        KEPT,
        EXCHANGES,
        refused,
        OUT_OF_ORDER,
        CONDITIONS_BROKEN,
        AFTER_THE_END,
    ):
        play(Talk, files, rows, spec=SPEC)
    return files

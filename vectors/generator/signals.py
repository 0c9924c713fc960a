"""Of the family message: what is acknowledged, signals, and offers and answers in sessions (sections 6.2 to 6.4)."""

from __future__ import annotations

from typing import Final

from generator.codes import CONTRADICTION, DUPLICATE, POINT, REFUSED
from generator.message_forgeries import CLOSE
from generator.tables import keep, kept, row
from generator.talk import (
    ACCEPTED_MS,
    LATER_MS,
    close,
    closing,
    data,
    deliver,
    hear,
    offers,
    peer_accept,
    peer_close,
    peer_poll,
    poll,
    receive,
    receive_offer,
    say,
    sealed_by_peer,
    send,
    signal,
    signals_offer,
)
from generator.world import DAY_MS, EXPIRES_MS, UNLIMITED

CONDITION: Final = "message.condition"
LATE_MS: Final = 600_000
BEGIN_BY_MS: Final = EXPIRES_MS + DAY_MS
TTL_SECONDS: Final = 3600
TTL_END_MS: Final = ACCEPTED_MS + TTL_SECONDS * 1000
IN_AN_HOUR: Final = {**UNLIMITED, "ttl_seconds": TTL_SECONDS}

# Both acknowledge, and 250 ms pass.
DUE_MS: Final = LATER_MS + 250

ACKNOWLEDGEMENTS: Final = (
    row("ack-on-data", "what was opened is acknowledged on data, once, with a gap",
        [receive(hear(b"1")), hear(b"2"), receive(hear(b"3")), send(b"heard"), send(b"and no more"),
         receive(hear(b"4")), send(b"heard")], spec="6.4", acknowledge=True),
    row("ack-of-seventeen", "of more than sixteen ranges the lowest eight and the highest eight",
        [[[hear(b"lost"), receive(hear(b"%d" % number))] for number in range(17)], send(b"heard")], spec="6.4",
        acknowledge=True),
    row("signal-after-the-delay", "a signal 250 ms after the first message that is not acknowledged",
        [receive(hear(b"1")), poll(DUE_MS - 1), receive(hear(b"2"), now_ms=DUE_MS - 1), poll(DUE_MS),
         poll(DUE_MS + 60_000)], spec="6.4", acknowledge=True),
    row("signal-after-sixteen", "a signal at once behind sixteen messages",
        [[receive(hear(b"%d" % number)) for number in range(15)], poll(LATER_MS), receive(hear(b"15")),
         poll(LATER_MS)], spec="6.4", acknowledge=True),
    row("refuse-duplicate-signal", "a message that comes again is acknowledged again, once a second",
        [keep("first", hear(b"1")), receive(kept("first")), poll(DUE_MS), receive(kept("first"), DUPLICATE),
         poll(LATER_MS), receive(kept("first"), DUPLICATE), poll(LATER_MS)], spec="6.4", acknowledge=True),
    row("signal-received", "a signal says what was opened; what it says again is no news",
        [say(b"1"), say(b"2"), receive(peer_poll(now_ms=DUE_MS)), receive(sealed_by_peer(signal((1, 2)))),
         receive(sealed_by_peer(data(b"3", ack=((1, 2),))))], spec="6.4", acknowledge=True),
    row("signal-conditions", "a signal where no data is allowed",
        [receive(sealed_by_peer(signal((1, 1))))], spec="6.4", early_payload=True, role="initiator",
        conditions={**UNLIMITED, "max_messages": 0, "allowed_actions": []}),
    row("ack-of-what-was-not-sent", "nothing is taken of it, the data beside it counts, and it is told once",
        [say(b"1"), receive(sealed_by_peer(data(b"x", ack=((1, 2),)))), receive(sealed_by_peer(signal((1, 9)))),
         receive(sealed_by_peer(signal((1, 1))))], spec="6.4"),
    row("ack-of-the-accept", "what was accepted with an early payload is acknowledged", [poll(LATER_MS)], spec="6.4",
        early_payload=True),
    row("refuse-index-twice", "an index may be skipped, and come later, once", [
        hear(b"1"), hear(b"2"), receive(sealed_by_peer(data(b"x", index=3))),
        receive(sealed_by_peer(data(b"y", index=2))), receive(sealed_by_peer(data(b"z", index=2)), CONTRADICTION)],
        spec="6.2"),
    row("item-answer-not-asked-for", "an answer that nobody asked for is left aside, and the data counts",
        [receive(sealed_by_peer(data(b"x", item=bytes(1124))))], spec="6.3"),
    row("refuse-item-offer-modulus", "an offer whose key fails the modulus check, whatever its epoch; then it is told",
        [receive(sealed_by_peer(data(b"x", item=b"\xff" * 1188)), POINT), receive(hear(b"genuine"))], spec="6.3",
        role="responder"),
)  # fmt: skip


SIGNALS: Final = (
    row("refuse-duplicate-on-data", "data behind a duplicate carries the ack again, once",
        [keep("first", hear(b"1")), receive(kept("first")), send(b"heard"), receive(kept("first"), DUPLICATE),
         send(b"heard, once more"), send(b"and no more"), poll(LATER_MS)], spec="6.4", acknowledge=True),
    row("refuse-duplicate-of-the-accept", "where no data was opened a duplicate makes nothing due, then or later",
        [keep("accept", peer_accept()), receive(kept("accept"), now_ms=ACCEPTED_MS),
         receive(kept("accept"), DUPLICATE), receive(hear(b"1")), poll(LATER_MS), poll(DUE_MS)], spec="6.4",
        acknowledge=True, established=False),
    row("refuse-duplicate-within-the-second", "one that comes within the second makes nothing due, then or later",
        [keep("first", hear(b"1")), receive(kept("first")), poll(DUE_MS), receive(kept("first"), DUPLICATE),
         poll(LATER_MS), receive(kept("first"), DUPLICATE, now_ms=LATER_MS + 999), poll(LATER_MS + 5000),
         receive(kept("first"), DUPLICATE, now_ms=LATER_MS + 5000), poll(LATER_MS + 5000)],
        spec="6.4", acknowledge=True),
    row("refuse-duplicate-clock-back", "the clock is set back: a second of its going forward, and another is due",
        [keep("first", hear(b"1")), receive(kept("first")), poll(DUE_MS), receive(kept("first"), DUPLICATE),
         poll(LATER_MS), [[receive(kept("first"), DUPLICATE, now_ms=LATER_MS + ms), poll(LATER_MS + ms)]
                          for ms in (-9000, -8001, -8000)]], spec="6.4", acknowledge=True),
    row("signal-clock-back", "the clock shows less than when the first was opened: it says nothing of the delay",
        [receive(hear(b"1")), poll(LATER_MS), poll(LATER_MS - 1)], spec="6.4", acknowledge=True),
    *(row(f"signal-not-{name}", f"{comment}: no data is sent any more, and no signal",
          [hear(b"missing"), receive(hear(b"2")), *ending], spec="6.4", acknowledge=True, conditions=IN_AN_HOUR)
      for name, comment, ending in (
          ("closing", "this side has closed", [close(), poll(DUE_MS)]),
          ("behind-a-close", "the peer has closed", [receive(peer_close()), poll(DUE_MS)]),
          ("past-ttl", "the time to live is over", [poll(TTL_END_MS + 1)]),
      )),
    row("signal-not-unconfirmed", "A has sealed nothing for a day behind the KNOCK's expiry: no data, and no signal",
        [receive(hear(b"1"), now_ms=BEGIN_BY_MS), poll(BEGIN_BY_MS + 1)], spec="6.4", acknowledge=True),
    row("begun-by-a-signal", "A has sealed a signal and no data: the session is begun",
        [receive(hear(b"1")), poll(DUE_MS), send(b"on", now_ms=BEGIN_BY_MS + 2 * DAY_MS)], spec="7", acknowledge=True),
    row("begun-by-a-signal-heard", "a signal of A was heard in the last millisecond: B sends on",
        [say(b"1"), receive(sealed_by_peer(signal((1, 1))), now_ms=BEGIN_BY_MS + DAY_MS),
         send(b"on", now_ms=BEGIN_BY_MS + 2 * DAY_MS)], spec="7", role="responder"),
    row("refuse-close-before-signal", "a close whose number is below that of a signal that was received",
        [keep("early", sealed_by_peer(CLOSE)), receive(sealed_by_peer(signal((1, 1)))), receive(kept("early"), REFUSED),
         receive(hear(b"on"))], spec="6.1", early_payload=True),
    row("refuse-signal-offer-modulus", "a signal with an offer whose key fails the modulus check",
        [receive(sealed_by_peer(signal(item=b"\xff" * 1188)), POINT), receive(hear(b"genuine"))], spec="6.1",
        role="responder"),
    row("refuse-item-offer-modulus-index", "the same in data whose index none can have: the key is checked first",
        [receive(sealed_by_peer(data(b"x", index=9, item=b"\xff" * 1188)), POINT), receive(hear(b"genuine"))],
        spec="6.1", role="responder"),
    row("refuse-signal-ttl-header", "a signal with a header time a millisecond behind the end",
        [receive(sealed_by_peer(signal((1, 1)), time_ms=TTL_END_MS + 1), CONDITION, now_ms=TTL_END_MS),
         receive(hear(b"in time"))], spec="6.1", early_payload=True, conditions=IN_AN_HOUR),
)  # fmt: skip


# Three ranges of indices are kept, and two keys.
FEW: Final = {"skipped_keys_per_step": 2, "skipped_keys_per_session": 2}

KEPT: Final = (
    row("refuse-index-forgotten", "of four ranges the lowest is forgotten: an index below it opens nothing, no ack "
        "names it, and though what is named as missing comes, the session ends truncated",
        [[receive(sealed_by_peer(signal((1, 1)))) for _ in range(8)],
         [receive(sealed_by_peer(data(index=index))) for index in (2, 4, 6, 8)],
         receive(sealed_by_peer(data(index=1)), CONTRADICTION), send(b"heard"),
         receive(sealed_by_peer(data(index=5))), receive(sealed_by_peer(data(index=3))), send(b"heard"),
         keep("last", sealed_by_peer(data(index=7))), receive(sealed_by_peer(closing(8, 0))), receive(kept("last")),
         poll(LATER_MS + LATE_MS), poll(LATER_MS + LATE_MS + 1)], spec="6.2", early_payload=True, acknowledge=True,
        limits=FEW),
    row("ack-forgotten", "of four ranges that were acknowledged the lowest is forgotten, and not told again",
        [[say(b"%d" % number) for number in range(8)],
         [receive(sealed_by_peer(signal((index, index)))) for index in (2, 4, 6, 8)],
         receive(sealed_by_peer(signal((1, 2)))), receive(sealed_by_peer(signal((1, 8))))], spec="6.4", limits=FEW),
    row("keys-poll", "a kept key goes when time is looked at, a millisecond past its 30 days; not when something is "
        "sealed", [say(b"1"), hear(b"late"), receive(hear(b"2")), send(b"on", now_ms=LATER_MS + 30 * DAY_MS + 1),
                   poll(LATER_MS + 30 * DAY_MS + 1)], spec="6"),
    row("keys-sealed", "a key past its 30 days stays where something is sealed, and would open nothing",
        [say(b"1"), hear(b"late"), receive(hear(b"2")), send(b"on", now_ms=LATER_MS + 30 * DAY_MS + 1)], spec="6"),
)  # fmt: skip


# A has a chain behind its first; B's answer is 600 s old by A's clock when an offer is due there.
EXCHANGES: Final = (
    row("offer-on-data", "A offers with the first data of its second chain, takes the answer, and mixes",
        [say(b"1"), receive(hear(b"2")), offers(b"3"), send(b"and no more"), receive(hear(b"4")), say(b"5"),
         receive(hear(b"6"))], spec="6.3", limits={"epoch_turns": 1}),
    row("offer-on-a-signal", "a signal begins the chain, and carries ack and offer",
        [say(b"1"), receive(hear(b"2")), signals_offer(DUE_MS), send(b"and no more"), receive(hear(b"4")),
         say(b"5")], spec="6.3", limits={"epoch_turns": 1}, acknowledge=True),
    row("answer-on-data", "B answers with the first data of its next chain, and follows when A mixes",
        [receive(hear(b"1")), say(b"2"), receive_offer(hear(b"3", now_ms=LATER_MS + LATE_MS)), say(b"4"),
         send(b"and no more"), receive(hear(b"5")), say(b"6")], spec="6.3", role="responder"),
    row("answer-on-a-signal", "a signal begins the chain, and carries ack and answer",
        [receive(hear(b"1")), say(b"2"), receive_offer(hear(b"3", now_ms=LATER_MS + LATE_MS)),
         deliver(poll(DUE_MS)), receive(hear(b"5")), say(b"6")], spec="6.3", role="responder", acknowledge=True),
)  # fmt: skip

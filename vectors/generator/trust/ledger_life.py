"""The family ledger, continued: what is settled, in time, believed, and full."""

from __future__ import annotations

from typing import Final

from generator import wire
from generator.codes import BAD_SIGNATURE, FULL, STALE, UNFIT
from generator.tables import row
from generator.trust.ledger_scene import (
    HOUR_MS,
    OTHER_ISSUER,
    OTHER_SUBJECT,
    SLOT_MS,
    SUCCESSOR,
    at,
    believe,
    disbelieve,
    later,
    offer_foreign,
    revoke,
    say,
    say_again,
)
from generator.trust.scene import foreign_statements
from generator.trust.statements import ISSUER, SUBJECT, TRUST, statement
from generator.world import DAY_MS, MALLORY, TOLERANCE_MS

_OF_THE_OTHER: Final = [say(200, subject=OTHER_SUBJECT, issuer=OTHER_ISSUER), say(-150, subject=OTHER_SUBJECT)]
_HORIZON_MS: Final = SLOT_MS + 9 * DAY_MS - HOUR_MS
SETTLED: Final = (
    row("days", "six days of 100 every twelve hours: two of three count; what is old is settled on the way",
        [[at(SLOT_MS + half * 12 * HOUR_MS), say(100), [] if half % 4 else _OF_THE_OTHER] for half in range(12)],
        800, 150, subjects=(SUBJECT, OTHER_SUBJECT)),
    *(row(name, comment,
          [say(sign * 200), later(HOUR_MS), say(-sign * 200, issuer=OTHER_ISSUER), later(3 * DAY_MS), say(10),
           say(5, issuer=OTHER_ISSUER)], score, default=default)
      for name, comment, default, sign, score in (
          ("settled-ceiling", "1000 was reached and left in slots that were settled since, at once", 900, 1, 815),
          ("settled-floor", "the same at 0", 100, -1, 215),
      )),
    row("refuse-behind-the-horizon",
        "a newer update was taken, then the clock was set back: what lies a window and the tolerance behind that "
        "update is refused, though it is in time by the clock; the first slot that is not behind is taken",
        [later(10 * DAY_MS), say(10, issuer=OTHER_ISSUER), at(_HORIZON_MS + HOUR_MS), say(20, at_ms=_HORIZON_MS),
         say(40, STALE, at_ms=_HORIZON_MS - 1)], 530, default=500),
    row("horizon-is-of-one-subject", "the horizon of one subject is no other's",
        [later(10 * DAY_MS), say(10), later(-10 * DAY_MS), say(20, subject=OTHER_SUBJECT)], 510, 520, default=500,
        subjects=(SUBJECT, OTHER_SUBJECT)),
    row("refuse-settled-still-beats",
        "what is settled is not forgotten: the higher sequence of an update that is settled beats a new one",
        [say(50, sequence=10), at(SLOT_MS + DAY_MS + TOLERANCE_MS + 2 * HOUR_MS), say(10, issuer=OTHER_ISSUER),
         later(1), say(50, STALE, sequence=5)], 60),
    row("settled-within-reach",
        "the slot before the horizon is not settled, and what it moves hangs on the slot that lies a reach before it",
        [say(200, sequence=1), at(SLOT_MS + 25 * HOUR_MS), say(100, sequence=2),
         at(SLOT_MS + 50 * HOUR_MS + TOLERANCE_MS), say(0, sequence=3)], 200),
    row("refuse-behind-the-first-horizon",
        "in 1970: a newest update whose horizon is slot 1, and then one in slot 0, with the clock set back",
        [at(DAY_MS + TOLERANCE_MS + HOUR_MS), say(10), at(HOUR_MS),
         say(20, STALE, at_ms=HOUR_MS - 1, issuer=OTHER_ISSUER), say(40, issuer=OTHER_ISSUER)], 50),
)  # fmt: skip


TIMES: Final = (
    *(row(f"refuse-{name}", comment, [say(50, STALE, at_ms=at_ms)], 500, default=500)
      for name, comment, at_ms in (
          ("from-the-future", "a millisecond over 300 s ahead of the clock", SLOT_MS + TOLERANCE_MS + 1),
          ("older-than-the-window", "a millisecond older than the window", SLOT_MS - DAY_MS - 1),
      )),
    row("clock-set-back", "a clock that goes back a little refuses nothing that is in time",
        [[at(SLOT_MS - back_ms), say(30)] for back_ms in (0, 60_000, HOUR_MS)], 90),
)  # fmt: skip


# An update of this time has its horizon a window and the tolerance before it; what lies two slots behind is settled.
_BORDER_MS: Final = SLOT_MS + 2 * HOUR_MS + DAY_MS + TOLERANCE_MS
BELIEVED: Final = (
    row("refuse-not-believed", "an issuer that the ledger was not told to believe",
        [say(200, UNFIT, issuer=MALLORY)], 500, default=500),
    row("refuse-disbelieved", "an issuer that is believed no more; what it said stays",
        [say(120), disbelieve(ISSUER), say(50, UNFIT)], 120),
    row("believed-again", "told to believe later, and again",
        [believe(MALLORY), say(50, issuer=MALLORY), disbelieve(ISSUER), believe(ISSUER), say(20)], 70),
    row("take-back",
        "an issuer is disbelieved and what is not settled of it is taken back: 100 of two days before stays",
        [say(100), later(2 * DAY_MS), say(200), say(30, issuer=OTHER_ISSUER), disbelieve(ISSUER, take_back=True)], 130),
    row("take-back-border", "of two updates the one in the last settled slot stays, the one in the next is taken back",
        [say(100), later(HOUR_MS), say(40), at(_BORDER_MS), say(5, issuer=OTHER_ISSUER),
         disbelieve(ISSUER, take_back=True)], 105),
    row("refuse-take-back-keeps-the-horizon",
        "the newest update is taken back, then the clock is set back: what lies behind that update's horizon is "
        "refused all the same",
        [later(10 * DAY_MS), say(100), disbelieve(ISSUER, take_back=True), at(_HORIZON_MS + HOUR_MS),
         say(20, issuer=OTHER_ISSUER), say(40, STALE, at_ms=_HORIZON_MS - 1, issuer=OTHER_ISSUER)], 20),
    row("refuse-take-back-keeps-the-subject",
        "all that was said of a subject is taken back: it is a subject all the same, and there is room for one",
        [say(100), disbelieve(ISSUER, take_back=True), say(20, FULL, subject=OTHER_SUBJECT, issuer=OTHER_ISSUER),
         say(10, issuer=OTHER_ISSUER)], 10, 0, subjects=(SUBJECT, OTHER_SUBJECT), trust_subjects=1),
    row("take-back-and-again", "what was taken back may be said again, once believed again",
        [say(90, sequence=1), disbelieve(ISSUER, take_back=True), believe(ISSUER), say_again()], 90),
    row("refuse-revoked-issuer", "an issuer that was revoked; what it said before stays",
        [say(120), revoke(ISSUER), say(50, UNFIT)], 120),
    row("revoked-subject", "a revoked subject has a score all the same: admission refuses it first",
        [revoke(SUBJECT), say(120)], 120),
)  # fmt: skip


NO_ROOM: Final = (
    row("refuse-subjects-full", "a third subject in a ledger of two; the two are spoken of as before",
        [say(10), say(20, subject=OTHER_SUBJECT), say(30, FULL, subject=SUCCESSOR), say(5)], 15, 20, 0,
        subjects=(SUBJECT, OTHER_SUBJECT, SUCCESSOR), trust_subjects=2),
    row("refuse-updates-full",
        "a fourth update of one issuer about one subject where three are kept; another issuer has its own room",
        [[say(10) for _ in range(3)], say(10, FULL), say(7, issuer=OTHER_ISSUER)], 37, trust_updates_per_issuer=3),
    row("room-by-contradiction", "an update that beats a kept one takes its place",
        [say(10, sequence=1, at_ms=SLOT_MS - 3 * HOUR_MS), say(20, sequence=2), say(40, sequence=2, at_ms=SLOT_MS - 1)],
        50, trust_updates_per_issuer=2),
    row("room-by-settling", "what is settled needs no room: a newer update settles it",
        [[at(SLOT_MS + days * 2 * DAY_MS), say(10, issuer=OTHER_ISSUER), say(25)] for days in range(4)], 140,
        trust_updates_per_issuer=2),
    row("refuse-full-until-settled",
        "a full memory has no room for the update that would settle it; another issuer's does",
        [say(10), at(SLOT_MS + 5 * DAY_MS), say(20, FULL), say(40, issuer=OTHER_ISSUER), say(80)], 130,
        trust_updates_per_issuer=1),
)  # fmt: skip


_NOT_BELIEVED: Final = statement(TRUST, MALLORY, SUBJECT, 1, 200, time_ms=SLOT_MS)
_FROM_THE_FUTURE: Final = statement(TRUST, ISSUER, SUBJECT, 1, 200, time_ms=SLOT_MS + DAY_MS)
FOREIGN: Final = (
    *(row(f"refuse-{name}", f"an update {comment}; a genuine one is taken after it",
          [offer_foreign(data, expect), say(60)], 60)
      for name, comment, data, expect in foreign_statements("trust", SLOT_MS)),
    row("refuse-order-not-believed-before-signature",
        "an issuer that is not believed, and a forged signature: whether it can count is looked at first",
        [offer_foreign(wire.flipped(_NOT_BELIEVED, -1), UNFIT)], 0),
    row("refuse-order-signature-before-time", "an update from the future, and forged: its time is looked at last",
        [offer_foreign(wire.flipped(_FROM_THE_FUTURE, -1), BAD_SIGNATURE)], 0),
    row("refuse-about-itself", "an issuer that is believed speaks of itself",
        [offer_foreign(statement(TRUST, ISSUER, ISSUER, 1, 200, time_ms=SLOT_MS), UNFIT)], 500, subjects=(ISSUER,),
        default=500),
)  # fmt: skip

LIFE: Final = (*SETTLED, *TIMES, *BELIEVED, *NO_ROOM, *FOREIGN)

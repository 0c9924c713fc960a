"""The family ledger, continued: what is settled, in time, believed, and full."""

from __future__ import annotations

from generator import wire
from generator.trust.ledger_scene import (
    HOUR_MS,
    OTHER_ISSUER,
    OTHER_SUBJECT,
    SLOT_MS,
    SUCCESSOR,
    LedgerScene,
)
from generator.trust.model import FULL, STALE, UNFIT, Update
from generator.trust.scene import digest_of, foreign_statements
from generator.trust.statements import ISSUER, SUBJECT, TRUST, statement
from generator.world import DAY_MS, MALLORY, TOLERANCE_MS, Files


def life(files: Files) -> None:
    """Add what happens to a ledger in the course of time."""
    _settled(files)
    _times(files)
    _believed(files)
    _full(files)
    _foreign(files)


def _settled(files: Files) -> None:
    scene = LedgerScene(
        files,
        "days",
        "six days of 100 every twelve hours: two of three count; what is old is settled on the way",
        subjects=(SUBJECT, OTHER_SUBJECT),
    )
    for step in range(12):
        scene.now_ms = SLOT_MS + step * 12 * HOUR_MS
        scene.say(100)
        if step % 4 == 0:
            scene.say(200, subject=OTHER_SUBJECT, issuer=OTHER_ISSUER)
            scene.say(-150, subject=OTHER_SUBJECT)
    scene.finish(800, 150)
    for name, comment, default, sign, score in (
        ("settled-ceiling", "1000 was reached and left in slots that were settled since, at once", 900, 1, 815),
        ("settled-floor", "the same at 0", 100, -1, 215),
    ):
        scene = LedgerScene(files, name, comment, default=default)
        scene.say(sign * 200)
        scene.now_ms += HOUR_MS
        scene.say(-sign * 200, issuer=OTHER_ISSUER)
        scene.now_ms += 3 * DAY_MS
        scene.say(10)
        scene.say(5, issuer=OTHER_ISSUER)
        scene.finish(score)
    scene = LedgerScene(
        files,
        "refuse-behind-the-horizon",
        "a newer update was taken, then the clock was set back: what lies a window and the tolerance behind that "
        "update is refused, though it is in time by the clock; the first slot that is not behind is taken",
        default=500,
    )
    scene.now_ms += 10 * DAY_MS
    scene.say(10, issuer=OTHER_ISSUER)
    horizon = SLOT_MS + 9 * DAY_MS - HOUR_MS
    scene.now_ms = horizon + HOUR_MS
    scene.say(20, at_ms=horizon)
    scene.say(40, STALE, at_ms=horizon - 1)
    scene.finish(530)
    scene = LedgerScene(
        files,
        "horizon-is-of-one-subject",
        "the horizon of one subject is no other's",
        default=500,
        subjects=(SUBJECT, OTHER_SUBJECT),
    )
    scene.now_ms += 10 * DAY_MS
    scene.say(10)
    scene.now_ms -= 10 * DAY_MS
    scene.say(20, subject=OTHER_SUBJECT)
    scene.finish(510, 520)

    scene = LedgerScene(
        files,
        "refuse-settled-still-beats",
        "what is settled is not forgotten: the higher sequence of an update that is settled beats a new one",
    )
    scene.say(50, sequence=10)
    scene.now_ms = SLOT_MS + DAY_MS + TOLERANCE_MS + 2 * HOUR_MS
    scene.say(10, issuer=OTHER_ISSUER)
    scene.now_ms += 1
    scene.say(50, STALE, sequence=5)
    scene.finish(60)
    scene = LedgerScene(
        files,
        "settled-within-reach",
        "the slot before the horizon is not settled, and what it moves hangs on the slot that lies a reach before it",
    )
    scene.say(200, sequence=1)
    scene.now_ms = SLOT_MS + 25 * HOUR_MS
    scene.say(100, sequence=2)
    scene.now_ms = SLOT_MS + 50 * HOUR_MS + TOLERANCE_MS
    scene.say(0, sequence=3)
    scene.finish(200)
    scene = LedgerScene(
        files,
        "refuse-behind-the-first-horizon",
        "in 1970: a newest update whose horizon is slot 1, and then one in slot 0, with the clock set back",
    )
    scene.now_ms = DAY_MS + TOLERANCE_MS + HOUR_MS
    scene.say(10)
    scene.now_ms = HOUR_MS
    scene.say(20, STALE, at_ms=HOUR_MS - 1, issuer=OTHER_ISSUER)
    scene.say(40, issuer=OTHER_ISSUER)
    scene.finish(50)


def _times(files: Files) -> None:
    for name, comment, at_ms in (
        ("from-the-future", "a millisecond over 300 s ahead of the clock", SLOT_MS + TOLERANCE_MS + 1),
        ("older-than-the-window", "a millisecond older than the window", SLOT_MS - DAY_MS - 1),
    ):
        scene = LedgerScene(files, f"refuse-{name}", comment, default=500)
        scene.say(50, STALE, at_ms=at_ms)
        scene.finish(500)
    scene = LedgerScene(files, "clock-set-back", "a clock that goes back a little refuses nothing that is in time")
    for back_ms in (0, 60_000, HOUR_MS):
        scene.now_ms = SLOT_MS - back_ms
        scene.say(30)
    scene.finish(90)


def _believed(files: Files) -> None:
    scene = LedgerScene(files, "refuse-not-believed", "an issuer that the ledger was not told to believe", default=500)
    scene.say(200, UNFIT, issuer=MALLORY)
    scene.finish(500)
    scene = LedgerScene(files, "refuse-disbelieved", "an issuer that is believed no more; what it said stays")
    scene.say(120)
    scene.disbelieve(ISSUER)
    scene.say(50, UNFIT)
    scene.finish(120)
    scene = LedgerScene(files, "believed-again", "told to believe later, and again")
    scene.believe(MALLORY)
    scene.say(50, issuer=MALLORY)
    scene.disbelieve(ISSUER)
    scene.believe(ISSUER)
    scene.say(20)
    scene.finish(70)
    scene = LedgerScene(
        files,
        "take-back",
        "an issuer is disbelieved and what is not settled of it is taken back: 100 of two days before stays",
    )
    scene.say(100)
    scene.now_ms += 2 * DAY_MS
    scene.say(200)
    scene.say(30, issuer=OTHER_ISSUER)
    scene.disbelieve(ISSUER, take_back=True)
    scene.finish(130)
    scene = LedgerScene(
        files,
        "take-back-border",
        "of two updates the one in the last settled slot stays, the one in the next is taken back",
    )
    scene.say(100)
    scene.now_ms += HOUR_MS
    scene.say(40)
    # The horizon: a window and the tolerance before the newest update. Settled is what lies two slots behind it.
    scene.now_ms = SLOT_MS + 2 * HOUR_MS + DAY_MS + TOLERANCE_MS
    scene.say(5, issuer=OTHER_ISSUER)
    scene.disbelieve(ISSUER, take_back=True)
    scene.finish(105)
    scene = LedgerScene(
        files,
        "refuse-take-back-keeps-the-horizon",
        "the newest update is taken back, then the clock is set back: what lies behind that update's horizon is "
        "refused all the same",
    )
    scene.now_ms += 10 * DAY_MS
    scene.say(100)
    scene.disbelieve(ISSUER, take_back=True)
    scene.now_ms = SLOT_MS + 9 * DAY_MS
    scene.say(20, issuer=OTHER_ISSUER)
    scene.say(40, STALE, at_ms=SLOT_MS + 9 * DAY_MS - HOUR_MS - 1, issuer=OTHER_ISSUER)
    scene.finish(20)
    scene = LedgerScene(
        files,
        "refuse-take-back-keeps-the-subject",
        "all that was said of a subject is taken back: it is a subject all the same, and there is room for one",
        subjects=(SUBJECT, OTHER_SUBJECT),
        trust_subjects=1,
    )
    scene.say(100)
    scene.disbelieve(ISSUER, take_back=True)
    scene.say(20, FULL, subject=OTHER_SUBJECT, issuer=OTHER_ISSUER)
    scene.say(10, issuer=OTHER_ISSUER)
    scene.finish(10, 0)
    scene = LedgerScene(files, "take-back-and-again", "what was taken back may be said again, once believed again")
    data = scene.say(90, sequence=1)
    scene.disbelieve(ISSUER, take_back=True)
    scene.believe(ISSUER)
    scene.offer(data, Update(ISSUER.key.raw, SUBJECT.key.raw, 1, SLOT_MS, 90, digest_of(data)))
    scene.finish(90)
    scene = LedgerScene(files, "refuse-revoked-issuer", "an issuer that was revoked; what it said before stays")
    scene.say(120)
    scene.revoke(ISSUER)
    scene.say(50, UNFIT)
    scene.finish(120)
    scene = LedgerScene(
        files, "revoked-subject", "a revoked subject has a score all the same: admission refuses it first"
    )
    scene.revoke(SUBJECT)
    scene.say(120)
    scene.finish(120)


def _full(files: Files) -> None:
    subjects = (SUBJECT, OTHER_SUBJECT, SUCCESSOR)
    scene = LedgerScene(
        files,
        "refuse-subjects-full",
        "a third subject in a ledger of two; the two are spoken of as before",
        subjects=subjects,
        trust_subjects=2,
    )
    scene.say(10)
    scene.say(20, subject=OTHER_SUBJECT)
    scene.say(30, FULL, subject=SUCCESSOR)
    scene.say(5)
    scene.finish(15, 20, 0)
    scene = LedgerScene(
        files,
        "refuse-updates-full",
        "a fourth update of one issuer about one subject where three are kept; another issuer has its own room",
        trust_updates_per_issuer=3,
    )
    for _ in range(3):
        scene.say(10)
    scene.say(10, FULL)
    scene.say(7, issuer=OTHER_ISSUER)
    scene.finish(37)
    scene = LedgerScene(
        files, "room-by-contradiction", "an update that beats a kept one takes its place", trust_updates_per_issuer=2
    )
    scene.say(10, sequence=1, at_ms=SLOT_MS - 3 * HOUR_MS)
    scene.say(20, sequence=2)
    scene.say(40, sequence=2, at_ms=SLOT_MS - 1)
    scene.finish(50)
    scene = LedgerScene(
        files,
        "room-by-settling",
        "what is settled needs no room: a newer update settles it",
        trust_updates_per_issuer=2,
    )
    for days in range(4):
        scene.now_ms = SLOT_MS + days * 2 * DAY_MS
        scene.say(10, issuer=OTHER_ISSUER)
        scene.say(25)
    scene.finish(140)
    scene = LedgerScene(
        files,
        "refuse-full-until-settled",
        "a full memory has no room for the update that would settle it; another issuer's does",
        trust_updates_per_issuer=1,
    )
    scene.say(10)
    scene.now_ms = SLOT_MS + 5 * DAY_MS
    scene.say(20, FULL)
    scene.say(40, issuer=OTHER_ISSUER)
    scene.say(80)
    scene.finish(130)


def _foreign(files: Files) -> None:
    for name, comment, data, expect in foreign_statements("trust", SLOT_MS):
        scene = LedgerScene(files, f"refuse-{name}", f"an update {comment}; a genuine one is taken after it")
        scene.offer_foreign(data, expect)
        scene.say(60)
        scene.finish(60)
    for name, comment, data, expect in (
        (
            "not-believed-before-signature",
            "an issuer that is not believed, and a forged signature: whether it can count is looked at first",
            wire.flipped(statement(TRUST, MALLORY, SUBJECT, 1, 200, time_ms=SLOT_MS), -1),
            UNFIT,
        ),
        (
            "signature-before-time",
            "an update from the future, and forged: its time is looked at last",
            wire.flipped(statement(TRUST, ISSUER, SUBJECT, 1, 200, time_ms=SLOT_MS + DAY_MS), -1),
            "signature.invalid",
        ),
    ):
        scene = LedgerScene(files, f"refuse-order-{name}", comment)
        scene.offer_foreign(data, expect)
        scene.finish(0)
    scene = LedgerScene(
        files, "refuse-about-itself", "an issuer that is believed speaks of itself", subjects=(ISSUER,), default=500
    )
    scene.offer_foreign(statement(TRUST, ISSUER, ISSUER, 1, 200, time_ms=SLOT_MS), UNFIT)
    scene.finish(500)

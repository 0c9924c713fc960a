"""The family ledger, continued: what a successor begins with."""

from __future__ import annotations

from typing import Final

from generator.codes import FULL, NOT_ALLOWED
from generator.tables import row
from generator.trust.ledger_scene import OTHER_ISSUER, OTHER_SUBJECT, SUCCESSOR, disbelieve, inherit, later, revoke, say
from generator.trust.statements import ISSUER, SUBJECT
from generator.world import DAY_MS

# Whom a scene is about.
_BOTH: Final = (SUBJECT, SUCCESSOR)
_THREE: Final = (SUBJECT, SUCCESSOR, OTHER_SUBJECT)

BEGUN: Final = (
    row("inherit", "a successor begins with the score of the old identity, which keeps its own",
        [say(150), inherit(SUBJECT, SUCCESSOR), say(40), say(200, subject=SUCCESSOR)], 190, 350, subjects=_BOTH),
    row("inherit-nothing", "nobody spoke of the old identity: the new one has the default",
        [inherit(SUBJECT, SUCCESSOR)], 0, 0, subjects=_BOTH),
    row("inherit-default", "a default of 400: the inherited score stands in its place and is not added to it",
        [say(-100), inherit(SUBJECT, SUCCESSOR), say(50, subject=SUCCESSOR)], 300, 350, default=400, subjects=_BOTH),
    row("inherit-again", "a successor of whom nothing was said since hands on what it inherited",
        [say(150), inherit(SUBJECT, SUCCESSOR), inherit(SUCCESSOR, OTHER_SUBJECT)], 150, 150, 150, subjects=_THREE),
    row("inherit-no-horizon",
        "the horizon of the old identity is not inherited: with the clock set back the new one is spoken of all the "
        "same",
        [later(10 * DAY_MS), say(100), inherit(SUBJECT, SUCCESSOR), later(-10 * DAY_MS), say(20, subject=SUCCESSOR)],
        100, 120, subjects=_BOTH),
    row("inherit-then-take-back", "what is taken back of the old identity afterwards does nothing for the new one",
        [say(150), say(30, issuer=OTHER_ISSUER), inherit(SUBJECT, SUCCESSOR), disbelieve(ISSUER, take_back=True)],
        30, 180, subjects=_BOTH),
)  # fmt: skip


REFUSED: Final = (
    *(row(f"refuse-inherit-{name}-revoked", comment,
          [say(150), revoke(revoked), inherit(SUBJECT, SUCCESSOR, NOT_ALLOWED)], 150, 0, subjects=_BOTH)
      for name, comment, revoked in (
          ("old", "an old identity that is revoked hands nothing on", SUBJECT),
          ("new", "a new identity that is revoked inherits nothing", SUCCESSOR),
      )),
    row("refuse-inherit-subject", "the new identity is a subject already",
        [say(150), say(20, subject=SUCCESSOR), inherit(SUBJECT, SUCCESSOR, NOT_ALLOWED)], 150, 20, subjects=_BOTH),
    row("refuse-inherit-subject-nothing",
        "the new identity is a subject already, and the old one has nothing to hand on",
        [say(20, subject=SUCCESSOR), inherit(SUBJECT, SUCCESSOR, NOT_ALLOWED)], 0, 20, subjects=_BOTH),
    row("refuse-inherit-twice", "who inherited is a subject and does not inherit again",
        [say(150), inherit(SUBJECT, SUCCESSOR), say(20), inherit(SUBJECT, SUCCESSOR, NOT_ALLOWED)], 170, 150,
        subjects=_BOTH),
)  # fmt: skip


ROOM: Final = (
    row("inherit-nothing-needs-no-room", "room for one subject: where there is nothing to inherit nobody becomes one",
        [inherit(SUBJECT, SUCCESSOR), say(10, subject=OTHER_SUBJECT), inherit(SUBJECT, SUCCESSOR)], 0, 0, 10,
        subjects=_THREE, trust_subjects=1),
    row("refuse-inherit-counts", "room for two subjects: who inherited is one of them",
        [say(10), inherit(SUBJECT, SUCCESSOR), say(10, FULL, subject=OTHER_SUBJECT), say(5, subject=SUCCESSOR)],
        10, 15, 0, subjects=_THREE, trust_subjects=2),
    row("refuse-inherit-full", "room for one subject: nobody can inherit from it",
        [say(10), inherit(SUBJECT, SUCCESSOR, FULL), say(5)], 15, 0, 0, subjects=_THREE, trust_subjects=1),
)  # fmt: skip

INHERITANCE: Final = (*BEGUN, *REFUSED, *ROOM)

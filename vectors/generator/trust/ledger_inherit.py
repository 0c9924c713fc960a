"""The family ledger, continued: what a successor begins with."""

from __future__ import annotations

from generator.trust.ledger_scene import OTHER_ISSUER, OTHER_SUBJECT, SUCCESSOR, LedgerScene
from generator.trust.model import FULL, NOT_ALLOWED
from generator.trust.statements import ISSUER, SUBJECT
from generator.world import DAY_MS, Files


def inheritance(files: Files) -> None:
    """Add successors of subjects."""
    _begun(files)
    _refused(files)
    _room(files)


def _begun(files: Files) -> None:
    subjects = (SUBJECT, SUCCESSOR)
    scene = LedgerScene(
        files,
        "inherit",
        "a successor begins with the score of the old identity, which keeps its own",
        subjects=subjects,
    )
    scene.say(150)
    scene.inherit(SUBJECT, SUCCESSOR)
    scene.say(40)
    scene.say(200, subject=SUCCESSOR)
    scene.finish(190, 350)
    scene = LedgerScene(
        files, "inherit-nothing", "nobody spoke of the old identity: the new one has the default", subjects=subjects
    )
    scene.inherit(SUBJECT, SUCCESSOR)
    scene.finish(0, 0)
    scene = LedgerScene(
        files,
        "inherit-default",
        "a default of 400: the inherited score stands in its place and is not added to it",
        default=400,
        subjects=subjects,
    )
    scene.say(-100)
    scene.inherit(SUBJECT, SUCCESSOR)
    scene.say(50, subject=SUCCESSOR)
    scene.finish(300, 350)
    scene = LedgerScene(
        files,
        "inherit-again",
        "a successor of whom nothing was said since hands on what it inherited",
        subjects=(*subjects, OTHER_SUBJECT),
    )
    scene.say(150)
    scene.inherit(SUBJECT, SUCCESSOR)
    scene.inherit(SUCCESSOR, OTHER_SUBJECT)
    scene.finish(150, 150, 150)
    scene = LedgerScene(
        files,
        "inherit-no-horizon",
        "the horizon of the old identity is not inherited: with the clock set back the new one is spoken of all the "
        "same",
        subjects=subjects,
    )
    scene.now_ms += 10 * DAY_MS
    scene.say(100)
    scene.inherit(SUBJECT, SUCCESSOR)
    scene.now_ms -= 10 * DAY_MS
    scene.say(20, subject=SUCCESSOR)
    scene.finish(100, 120)
    scene = LedgerScene(
        files,
        "inherit-then-take-back",
        "what is taken back of the old identity afterwards does nothing for the new one",
        subjects=subjects,
    )
    scene.say(150)
    scene.say(30, issuer=OTHER_ISSUER)
    scene.inherit(SUBJECT, SUCCESSOR)
    scene.disbelieve(ISSUER, take_back=True)
    scene.finish(30, 180)


def _refused(files: Files) -> None:
    subjects = (SUBJECT, SUCCESSOR)
    for name, comment, revoked in (
        ("old", "an old identity that is revoked hands nothing on", SUBJECT),
        ("new", "a new identity that is revoked inherits nothing", SUCCESSOR),
    ):
        scene = LedgerScene(files, f"refuse-inherit-{name}-revoked", comment, subjects=subjects)
        scene.say(150)
        scene.revoke(revoked)
        scene.inherit(SUBJECT, SUCCESSOR, NOT_ALLOWED)
        scene.finish(150, 0)
    scene = LedgerScene(files, "refuse-inherit-subject", "the new identity is a subject already", subjects=subjects)
    scene.say(150)
    scene.say(20, subject=SUCCESSOR)
    scene.inherit(SUBJECT, SUCCESSOR, NOT_ALLOWED)
    scene.finish(150, 20)
    scene = LedgerScene(
        files,
        "refuse-inherit-subject-nothing",
        "the new identity is a subject already, and the old one has nothing to hand on",
        subjects=subjects,
    )
    scene.say(20, subject=SUCCESSOR)
    scene.inherit(SUBJECT, SUCCESSOR, NOT_ALLOWED)
    scene.finish(0, 20)
    scene = LedgerScene(
        files, "refuse-inherit-twice", "who inherited is a subject and does not inherit again", subjects=subjects
    )
    scene.say(150)
    scene.inherit(SUBJECT, SUCCESSOR)
    scene.say(20)
    scene.inherit(SUBJECT, SUCCESSOR, NOT_ALLOWED)
    scene.finish(170, 150)


def _room(files: Files) -> None:
    subjects = (SUBJECT, SUCCESSOR, OTHER_SUBJECT)
    scene = LedgerScene(
        files,
        "inherit-nothing-needs-no-room",
        "room for one subject: where there is nothing to inherit nobody becomes one",
        subjects=subjects,
        trust_subjects=1,
    )
    scene.inherit(SUBJECT, SUCCESSOR)
    scene.say(10, subject=OTHER_SUBJECT)
    scene.inherit(SUBJECT, SUCCESSOR)
    scene.finish(0, 0, 10)
    scene = LedgerScene(
        files,
        "refuse-inherit-counts",
        "room for two subjects: who inherited is one of them",
        subjects=subjects,
        trust_subjects=2,
    )
    scene.say(10)
    scene.inherit(SUBJECT, SUCCESSOR)
    scene.say(10, FULL, subject=OTHER_SUBJECT)
    scene.say(5, subject=SUCCESSOR)
    scene.finish(10, 15, 0)
    scene = LedgerScene(
        files,
        "refuse-inherit-full",
        "room for one subject: nobody can inherit from it",
        subjects=subjects,
        trust_subjects=1,
    )
    scene.say(10)
    scene.inherit(SUBJECT, SUCCESSOR, FULL)
    scene.say(5)
    scene.finish(15, 0, 0)

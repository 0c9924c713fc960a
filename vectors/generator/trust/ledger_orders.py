"""The family ledger, continued: which check comes before which, where two would refuse."""

from __future__ import annotations

from generator import wire
from generator.trust.ledger_scene import HOUR_MS, OTHER_ISSUER, OTHER_SUBJECT, SLOT_MS, LedgerScene
from generator.trust.model import STALE, UNFIT, Update
from generator.trust.scene import digest_of
from generator.trust.statements import (
    ISSUER,
    ISSUER_AT,
    MALFORMED,
    NEUTRAL,
    REST_AT,
    SUBJECT,
    SUBJECT_AT,
    TRUST,
    items_of,
    signed,
)
from generator.world import DAY_MS, MALLORY, TOLERANCE_MS, Files


def orders(files: Files) -> None:
    """Add updates with two faults."""
    _before_the_signature(files)
    _behind_the_signature(files)


def _before_the_signature(files: Files) -> None:
    stranger = wire.binary(MALLORY.key.raw)
    bad = wire.binary(NEUTRAL)
    nothing_upwards = {REST_AT: wire.uint(1), REST_AT + 1: wire.uint(0)}
    for name, comment, data, expect in (
        (
            "nothing-upwards-before-belief",
            "amount 0 with direction 1, of an issuer that is not believed: its form is looked at first",
            signed(TRUST, wire.array(*items_of(TRUST, {ISSUER_AT: stranger, **nothing_upwards})), MALLORY),
            MALFORMED,
        ),
        (
            "not-believed-before-its-key",
            "an issuer that is not believed, whose key is of small order: no key is looked at",
            wire.array(wire.binary(wire.array(*items_of(TRUST, {ISSUER_AT: bad}))), wire.binary(NEUTRAL + bytes(32))),
            UNFIT,
        ),
        (
            "not-believed-before-subject-key",
            "an issuer that is not believed, about a key of small order: no key is looked at",
            signed(TRUST, wire.array(*items_of(TRUST, {ISSUER_AT: stranger, SUBJECT_AT: bad})), MALLORY),
            UNFIT,
        ),
    ):
        scene = LedgerScene(files, f"refuse-order-{name}", comment)
        scene.offer_foreign(data, expect)
        scene.finish(0)


def _behind_the_signature(files: Files) -> None:
    scene = LedgerScene(
        files,
        "refuse-order-time-before-subjects",
        "an update from the future about a second subject where there is room for one: its time is looked at first",
        subjects=(SUBJECT, OTHER_SUBJECT),
        trust_subjects=1,
    )
    scene.say(10)
    scene.say(20, STALE, subject=OTHER_SUBJECT, at_ms=SLOT_MS + TOLERANCE_MS + 1)
    scene.finish(10, 0)
    # The one update that is kept stands in the first slot of the horizon, so the next one does not beat it.
    scene = LedgerScene(
        files,
        "refuse-order-horizon-before-room",
        "the clock was set back: a second update of one issuer, behind the horizon, where one is kept; the horizon is "
        "looked at first",
        trust_updates_per_issuer=1,
    )
    scene.say(10)
    scene.now_ms = SLOT_MS + DAY_MS + TOLERANCE_MS
    scene.say(20, issuer=OTHER_ISSUER)
    scene.now_ms = SLOT_MS + HOUR_MS
    scene.say(40, STALE, at_ms=SLOT_MS - 1)
    scene.finish(30)
    scene = LedgerScene(
        files,
        "refuse-order-replay-before-room",
        "the same update again, where one is kept: that it stands already is looked at first",
        trust_updates_per_issuer=1,
    )
    data = scene.say(10, sequence=3)
    scene.offer(data, Update(ISSUER.key.raw, SUBJECT.key.raw, 3, SLOT_MS, 10, digest_of(data)), STALE)
    scene.finish(10)
    scene = LedgerScene(
        files,
        "refuse-order-beaten-before-room",
        "a later update with a spent sequence, where one is kept: that it is beaten is looked at first",
        trust_updates_per_issuer=1,
    )
    scene.say(10, sequence=3)
    scene.now_ms += 1
    scene.say(20, STALE, sequence=3)
    scene.finish(10)

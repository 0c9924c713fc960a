"""The family ledger, continued: which check comes before which, where two would refuse."""

from __future__ import annotations

from typing import Final

from generator import wire
from generator.codes import MALFORMED, STALE, UNFIT
from generator.tables import row
from generator.trust.ledger_scene import (
    HOUR_MS,
    OTHER_ISSUER,
    OTHER_SUBJECT,
    SLOT_MS,
    at,
    later,
    offer_foreign,
    say,
    say_again,
)
from generator.trust.statements import ISSUER_AT, NEUTRAL, REST_AT, SUBJECT, SUBJECT_AT, TRUST, items_of, signed
from generator.world import DAY_MS, MALLORY, TOLERANCE_MS

_STRANGER: Final = {ISSUER_AT: wire.binary(MALLORY.key.raw)}
_BAD: Final = wire.binary(NEUTRAL)
_NOTHING_UPWARDS: Final = {REST_AT: wire.uint(1), REST_AT + 1: wire.uint(0)}
BEFORE_THE_SIGNATURE: Final = (
    row("refuse-order-nothing-upwards-before-belief",
        "amount 0 with direction 1, of an issuer that is not believed: its form is looked at first",
        [offer_foreign(signed(TRUST, wire.array(*items_of(TRUST, {**_STRANGER, **_NOTHING_UPWARDS})), MALLORY),
                       MALFORMED)], 0),
    row("refuse-order-not-believed-before-its-key",
        "an issuer that is not believed, whose key is of small order: no key is looked at",
        [offer_foreign(wire.pair(wire.array(*items_of(TRUST, {ISSUER_AT: _BAD})), NEUTRAL + bytes(32)), UNFIT)], 0),
    row("refuse-order-not-believed-before-subject-key",
        "an issuer that is not believed, about a key of small order: no key is looked at",
        [offer_foreign(signed(TRUST, wire.array(*items_of(TRUST, {**_STRANGER, SUBJECT_AT: _BAD})), MALLORY), UNFIT)],
        0),
)  # fmt: skip

BEHIND_THE_SIGNATURE: Final = (
    row("refuse-order-time-before-subjects",
        "an update from the future about a second subject where there is room for one: its time is looked at first",
        [say(10), say(20, STALE, subject=OTHER_SUBJECT, at_ms=SLOT_MS + TOLERANCE_MS + 1)], 10, 0,
        subjects=(SUBJECT, OTHER_SUBJECT), trust_subjects=1),
    row("refuse-order-horizon-before-room",
        "the clock was set back: a second update of one issuer, behind the horizon, where one is kept; the horizon is "
        "looked at first",
        [say(10), at(SLOT_MS + DAY_MS + TOLERANCE_MS), say(20, issuer=OTHER_ISSUER), at(SLOT_MS + HOUR_MS),
         say(40, STALE, at_ms=SLOT_MS - 1)], 30, trust_updates_per_issuer=1),
    row("refuse-order-replay-before-room",
        "the same update again, where one is kept: that it stands already is looked at first",
        [say(10, sequence=3), say_again(STALE)], 10, trust_updates_per_issuer=1),
    row("refuse-order-beaten-before-room",
        "a later update with a spent sequence, where one is kept: that it is beaten is looked at first",
        [say(10, sequence=3), later(1), say(20, STALE, sequence=3)], 10, trust_updates_per_issuer=1),
)  # fmt: skip

ORDERS: Final = (*BEFORE_THE_SIGNATURE, *BEHIND_THE_SIGNATURE)

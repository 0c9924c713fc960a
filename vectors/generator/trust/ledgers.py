"""The family ledger: updates in, scores out."""

from __future__ import annotations

from typing import Any, Final

from agentmesh.identity import Identity
from generator.codes import STALE
from generator.tables import play, row
from generator.trust.ledger_inherit import INHERITANCE
from generator.trust.ledger_life import LIFE
from generator.trust.ledger_orders import ORDERS
from generator.trust.ledger_scene import (
    HOUR_MS,
    OTHER_ISSUER,
    OTHER_SUBJECT,
    SLOT_MS,
    LedgerScene,
    at,
    hourly,
    later,
    say,
    say_again,
)
from generator.trust.scene import digest_of
from generator.trust.statements import ISSUER, SUBJECT, TRUST, statement
from generator.world import DAY_MS, MALLORY, NOW_MS, TOLERANCE_MS, Files

SIGNALS: Final = (
    *(row(name, comment, [say(signal)], score, default=default)
      for name, comment, default, signal, score in (
          ("raise", "one update of 150", 0, 150, 150),
          ("lower", "one update of -150", 500, -150, 350),
          ("nothing", "an update that says nothing is taken and moves nothing", 300, 0, 300),
          ("clamp-201", "201 counts as 200", 500, 201, 700),
          ("clamp-1000", "1000 counts as 200", 500, 1000, 700),
          ("clamp-minus-1000", "-1000 counts as -200", 500, -1000, 300),
          ("floor", "no score is below 0", 100, -200, 0),
          ("ceiling", "no score is above 1000", 900, 200, 1000),
      )),
    row("subjects", "an update moves its subject and nobody else",
        [say(150), say(-30, subject=OTHER_SUBJECT), say(70, subject=OTHER_SUBJECT)], 150, 40, 0,
        subjects=(SUBJECT, OTHER_SUBJECT, MALLORY)),
    row("default-score", "a mesh may begin elsewhere than at 0",
        [say(-100)], 300, 400, default=400, subjects=(SUBJECT, OTHER_SUBJECT)),
    row("issuer-is-a-subject", "an issuer may speak of another one",
        [say(120, subject=OTHER_ISSUER)], 120, subjects=(OTHER_ISSUER,)),
)  # fmt: skip


_MEET = "what all issuers move in a slot is added up before the score is held within 0 to 1000"
# Between two slots of 41,667 ms.
_BORDER_MS: Final = NOW_MS - NOW_MS % 41_667
WITHIN_A_SLOT: Final = (
    row("split", "twenty-five signals of 10 move what one of 200 does",
        [[at(SLOT_MS + number), say(10)] for number in range(25)], 700, default=500),
    row("slot-sum", "the signals of one slot are added up before they are capped",
        [say(signal) for signal in (200, 200, -200)], 700, default=500),
    row("slot-sum-turned", "the same in another order", [say(signal) for signal in (-200, 200, 200)], 700, default=500),
    row("slot-sum-of-clamped", "each signal is held to 200 before they are added up",
        [say(signal) for signal in (1000, -900)], 500, default=500),
    row("issuers-add-up", "two issuers move by 200 each", [say(200), say(200, issuer=OTHER_ISSUER)], 900, default=500),
    *(row(name, _MEET,
          [say(signal, issuer=ISSUER if signal > 0 else OTHER_ISSUER) for signal in order], 900, default=900)
      for name, order in (("issuers-meet", (200, -200)), ("issuers-meet-turned", (-200, 200)))),
    row("ceiling-between-slots", "the score is held within 0 to 1000 after each slot",
        [say(200), later(HOUR_MS), say(-200, issuer=OTHER_ISSUER)], 800, default=900),
    row("slot-border", "the last millisecond of a slot and the first of the next",
        [say(100, at_ms=SLOT_MS - 1), say(-100, at_ms=SLOT_MS, issuer=OTHER_ISSUER)], 900, default=950),
    row("odd-window", "a window of 1000 s has slots of 41,667 ms, rounded up; two updates on either side of a border",
        [at(_BORDER_MS), say(100, at_ms=_BORDER_MS - 1), say(-100, issuer=OTHER_ISSUER)], 900, default=950,
        trust_window_seconds=1000),
)  # fmt: skip


WINDOW: Final = (
    row("window-cap", "200 more in the 26th slot after: from any slot to the 25th after it, 200 at most",
        hourly(*((hours, 200) for hours in (0, 12, 24, 25, 26))), 400),
    row("window-partly", "what is left of the cap is used, no more", hourly((0, 150), (5, 100), (26, 200)), 350),
    row("window-both-ways", "up and down again: each stretch of slots is capped, downwards too",
        hourly((0, 200), (3, -200), (6, -200), (9, 200), (12, 200)), 700, default=500),
    row("window-ratchet", "lowering gives no room to raise by more than 200 in all",
        hourly((0, -200), (1, 200), (2, 200), (3, 200)), 500, default=500),
    *(row(f"window-turned-{name}",
          "a slot that comes to be moved against the one before is held within 200 of its own start too: a movement "
          "the other way gives no room within the slot",
          [say(-sign * 100), later(HOUR_MS), say(sign * 200), say(sign * 200)], 500 + sign * 100, default=500)
      for sign, name in ((1, "up"), (-1, "down"))),
    *(row(f"window-of-an-hour-{slots}",
          f"a window of 3600 s has slots of 150 s, and so a reach of 26: two updates {slots} slots apart",
          [say(200), later(slots * 150_000), say(200)], score, trust_window_seconds=3600)
      for slots, score in ((26, 200), (27, 400))),
    row("window-is-of-one-issuer", "the cap is each issuer's own, and each subject's",
        [[[say(200, issuer=issuer, subject=subject), say(200, issuer=issuer, subject=subject)]
          for subject in (SUBJECT, OTHER_SUBJECT)]
         for issuer in (ISSUER, OTHER_ISSUER)], 400, 400, subjects=(SUBJECT, OTHER_SUBJECT)),
    row("cap-counts-what-was-lost",
        "the cap is on movements, not on what the score made of them: at 1000 the first 200 went nowhere",
        [say(200), later(HOUR_MS), say(-200, issuer=OTHER_ISSUER), later(HOUR_MS), say(200)], 800, default=1000),
)  # fmt: skip


LATE: Final = (
    row("late", "an update that comes late counts as if it had been in time",
        [say(-200), say(200, at_ms=SLOT_MS - 5 * HOUR_MS, issuer=OTHER_ISSUER)], 100, default=100),
    row("late-takes-the-cap", "what comes late uses the cap up for what was later",
        [say(200, sequence=2), say(150, sequence=1, at_ms=SLOT_MS - 5 * HOUR_MS), say(-200, sequence=3)], 650,
        default=500),
    row("late-by-a-window", "the last millisecond of the window", [say(40, at_ms=SLOT_MS - DAY_MS)], 540, default=500),
    row("ahead-by-the-tolerance", "300 s ahead of the clock",
        [say(40, at_ms=SLOT_MS + TOLERANCE_MS)], 540, default=500),
)  # fmt: skip


def _digest(amount: int, at_ms: int = SLOT_MS) -> bytes:
    return digest_of(statement(TRUST, ISSUER, SUBJECT, 1, amount, sequence=3, time_ms=at_ms))


# Of one sequence and one time: the digest decides. Of one sequence and two times: the earlier has the larger digest.
_SMALL, _LARGE = sorted((10, 20), key=_digest)
_LATE_MS: Final = SLOT_MS + 1000
_EARLY_MS: Final = next(at for at in range(SLOT_MS, _LATE_MS) if _digest(10, at) > _digest(10, _LATE_MS))
_BY_TIME: Final = "one sequence, one slot, and the earlier has the larger digest: the time decides"
SEQUENCES: Final = (
    row("sequence-gap", "sequences need not be without gaps", [say(50, sequence=0), say(50, sequence=2**53 - 1)], 100),
    row("sequence-turned", "two in one slot whose sequences arrive turned around: both count",
        [say(50, sequence=9), say(60, sequence=4)], 110),
    row("sequence-one-slot-back", "a higher sequence one slot earlier: clocks are set back a little, both count",
        [say(50, sequence=4), say(60, sequence=9, at_ms=SLOT_MS - 1)], 110),
    row("sequence-two-slots-back",
        "a higher sequence two slots earlier contradicts the lower one, which counts no more",
        [say(50, sequence=4), say(60, sequence=9, at_ms=SLOT_MS - HOUR_MS - 1)], 60),
    row("refuse-sequence-two-slots-back", "the same in the other order: the lower one is refused",
        [say(60, sequence=9, at_ms=SLOT_MS - HOUR_MS - 1), say(50, STALE, sequence=4)], 60),
    row("refuse-replayed", "the same update again, at once and a day later",
        [say(150, sequence=3), say_again(STALE), later(DAY_MS), say_again(STALE)], 150),
    row("same-sequence-earlier", "of two with one sequence the earlier counts, even if it comes second",
        [say(50, sequence=3), say(70, sequence=3, at_ms=SLOT_MS - 1)], 70),
    row("refuse-same-sequence-later", "of two with one sequence the later is refused",
        [say(70, sequence=3, at_ms=SLOT_MS - 1), say(50, STALE, sequence=3)], 70),
    row("same-sequence-same-time", "of two with one sequence and one time the one with the smaller digest counts",
        [say(_LARGE, sequence=3), say(_SMALL, sequence=3)], _SMALL),
    row("refuse-same-sequence-same-time", "the one with the larger digest is refused",
        [say(_SMALL, sequence=3), say(_LARGE, STALE, sequence=3)], _SMALL),
    row("same-sequence-time-before-digest", _BY_TIME,
        [at(_LATE_MS), say(10, sequence=3), say(10, sequence=3, at_ms=_EARLY_MS), say(5, sequence=2)], 15),
    row("refuse-same-sequence-time-before-digest", _BY_TIME,
        [at(_LATE_MS), say(10, sequence=3, at_ms=_EARLY_MS), say(10, STALE, sequence=3)], 10),
    row("sequence-is-of-one-issuer-and-subject", "one sequence for two subjects, and of two issuers",
        [say(50, sequence=3), say(60, sequence=3, subject=OTHER_SUBJECT), say(70, sequence=3, issuer=OTHER_ISSUER)],
        120, 60, subjects=(SUBJECT, OTHER_SUBJECT)),
)  # fmt: skip


_SET: Final = (
    (200, 0, 5, ISSUER),
    (-150, 7 * HOUR_MS, 3, ISSUER),
    (90, 7 * HOUR_MS, 4, OTHER_ISSUER),
    (-200, 15 * HOUR_MS, 2, OTHER_ISSUER),
    (1000, 23 * HOUR_MS, 1, ISSUER),
    (-40, 23 * HOUR_MS, 1, OTHER_ISSUER),
)
_CONTRADICTING: Final = (
    (200, 0, 5, ISSUER),
    (-200, 0, 5, ISSUER),
    (150, DAY_MS, 4, ISSUER),
    (-1000, 5 * HOUR_MS, 9, ISSUER),
    (-200, HOUR_MS, 1, OTHER_ISSUER),
    (200, -TOLERANCE_MS, 2, OTHER_ISSUER),
)
_PERMUTATIONS: Final = ((0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (2, 5, 0, 3, 1, 4), (3, 0, 4, 1, 5, 2))
# In each one is refused at least, because another stands already that beats it.
_REFUSING: Final = ((3, 0, 4, 1, 5, 2), (5, 4, 3, 2, 1, 0), (0, 3, 1, 2, 4, 5), (1, 3, 0, 5, 2, 4))


def _six(updates: tuple[tuple[int, int, int, Identity], ...], order: tuple[int, ...], refused: set[int]) -> list[Any]:
    """Return steps: these updates in this order."""
    chosen = [(*updates[index], STALE if index in refused else "ok") for index in order]
    return [
        say(signal, expect, at_ms=SLOT_MS - age_ms, sequence=sequence, issuer=issuer)
        for signal, age_ms, sequence, issuer, expect in chosen
    ]


def _smaller_digest() -> int:
    """Return which of the first two, of one sequence and one time, counts."""

    def digest(index: int) -> bytes:
        signal, _, sequence, _ = _CONTRADICTING[index]
        data = statement(TRUST, ISSUER, SUBJECT, int(signal > 0), 200, sequence=sequence, time_ms=SLOT_MS)
        return digest_of(data)

    return min((0, 1), key=digest)


def _refused(order: tuple[int, ...], kept: int) -> set[int]:
    """Return which arrive when another one already stands that beats them."""
    beats = ((3, 0), (3, 1), (kept, 1 - kept))
    return {loser for winner, loser in beats if order.index(winner) < order.index(loser)}


_KEPT: Final = _smaller_digest()
IN_ANY_ORDER: Final = (
    *(row(f"order-{number}", "six updates of two issuers: every order gives 490",
          _six(_SET, order, set()), 490, default=400)
      for number, order in enumerate(_PERMUTATIONS)),
    *(row(name, "six updates that contradict one another: every order gives 550, whichever are refused",
          _six(_CONTRADICTING, order, _refused(order, _KEPT)), 550, default=600)
      for name, order in (
          ("order-contradicting", (1 - _KEPT, _KEPT, 2, 4, 5, 3)),
          *((f"refuse-order-{number}", order) for number, order in enumerate(_REFUSING)),
      )),
)  # fmt: skip


def ledger() -> Files:
    """Return the family ledger."""
    files = Files("ledger")
    for rows in (SIGNALS, WITHIN_A_SLOT, WINDOW, LATE, SEQUENCES, IN_ANY_ORDER, LIFE, ORDERS, INHERITANCE):
        play(LedgerScene, files, rows)
    return files

"""The family ledger: updates in, scores out."""

from __future__ import annotations

from typing import Final

from generator.trust.ledger_inherit import inheritance
from generator.trust.ledger_life import life
from generator.trust.ledger_orders import orders
from generator.trust.ledger_scene import (
    HOUR_MS,
    OTHER_ISSUER,
    OTHER_SUBJECT,
    SLOT_MS,
    LedgerScene,
)
from generator.trust.model import STALE, Update
from generator.trust.scene import digest_of
from generator.trust.statements import ISSUER, SUBJECT, TRUST, statement
from generator.world import DAY_MS, MALLORY, NOW_MS, TOLERANCE_MS, Files


def ledger() -> Files:
    """Return the family ledger."""
    files = Files("ledger")
    _signals(files)
    _within_a_slot(files)
    _window(files)
    _late(files)
    _sequences(files)
    _orders(files)
    life(files)
    orders(files)
    inheritance(files)
    return files


def _signals(files: Files) -> None:
    for name, comment, default, signal, score in (
        ("raise", "one update of 150", 0, 150, 150),
        ("lower", "one update of -150", 500, -150, 350),
        ("nothing", "an update that says nothing is taken and moves nothing", 300, 0, 300),
        ("clamp-201", "201 counts as 200", 500, 201, 700),
        ("clamp-1000", "1000 counts as 200", 500, 1000, 700),
        ("clamp-minus-1000", "-1000 counts as -200", 500, -1000, 300),
        ("floor", "no score is below 0", 100, -200, 0),
        ("ceiling", "no score is above 1000", 900, 200, 1000),
    ):
        scene = LedgerScene(files, name, comment, default=default)
        scene.say(signal)
        scene.finish(score)
    scene = LedgerScene(
        files, "subjects", "an update moves its subject and nobody else", subjects=(SUBJECT, OTHER_SUBJECT, MALLORY)
    )
    scene.say(150)
    scene.say(-30, subject=OTHER_SUBJECT)
    scene.say(70, subject=OTHER_SUBJECT)
    scene.finish(150, 40, 0)
    scene = LedgerScene(
        files,
        "default-score",
        "a mesh may begin elsewhere than at 0",
        default=400,
        subjects=(SUBJECT, OTHER_SUBJECT),
    )
    scene.say(-100)
    scene.finish(300, 400)
    scene = LedgerScene(files, "issuer-is-a-subject", "an issuer may speak of another one", subjects=(OTHER_ISSUER,))
    scene.say(120, subject=OTHER_ISSUER)
    scene.finish(120)


def _within_a_slot(files: Files) -> None:
    scene = LedgerScene(files, "split", "twenty-five signals of 10 move what one of 200 does", default=500)
    for number in range(25):
        scene.now_ms = SLOT_MS + number
        scene.say(10)
    scene.finish(700)
    scene = LedgerScene(files, "slot-sum", "the signals of one slot are added up before they are capped", default=500)
    for signal in (200, 200, -200):
        scene.say(signal)
    scene.finish(700)
    scene = LedgerScene(files, "slot-sum-turned", "the same in another order", default=500)
    for signal in (-200, 200, 200):
        scene.say(signal)
    scene.finish(700)
    scene = LedgerScene(
        files, "slot-sum-of-clamped", "each signal is held to 200 before they are added up", default=500
    )
    for signal in (1000, -900):
        scene.say(signal)
    scene.finish(500)
    scene = LedgerScene(files, "issuers-add-up", "two issuers move by 200 each", default=500)
    scene.say(200)
    scene.say(200, issuer=OTHER_ISSUER)
    scene.finish(900)
    for name, order in (("issuers-meet", (200, -200)), ("issuers-meet-turned", (-200, 200))):
        comment = "what all issuers move in a slot is added up before the score is held within 0 to 1000"
        scene = LedgerScene(files, name, comment, default=900)
        for signal in order:
            scene.say(signal, issuer=ISSUER if signal > 0 else OTHER_ISSUER)
        scene.finish(900)
    scene = LedgerScene(
        files, "ceiling-between-slots", "the score is held within 0 to 1000 after each slot", default=900
    )
    scene.say(200)
    scene.now_ms += HOUR_MS
    scene.say(-200, issuer=OTHER_ISSUER)
    scene.finish(800)
    scene = LedgerScene(files, "slot-border", "the last millisecond of a slot and the first of the next", default=950)
    scene.say(100, at_ms=SLOT_MS - 1)
    scene.say(-100, at_ms=SLOT_MS, issuer=OTHER_ISSUER)
    scene.finish(900)
    scene = LedgerScene(
        files,
        "odd-window",
        "a window of 1000 s has slots of 41,667 ms, rounded up; two updates on either side of a border",
        default=950,
        trust_window_seconds=1000,
    )
    border = NOW_MS - NOW_MS % 41_667
    scene.now_ms = border
    scene.say(100, at_ms=border - 1)
    scene.say(-100, issuer=OTHER_ISSUER)
    scene.finish(900)


def _window(files: Files) -> None:
    scene = LedgerScene(
        files, "window-cap", "200 more in the 26th slot after: from any slot to the 25th after it, 200 at most"
    )
    for hours in (0, 12, 24, 25, 26):
        scene.now_ms = SLOT_MS + hours * HOUR_MS
        scene.say(200)
    scene.finish(400)
    scene = LedgerScene(files, "window-partly", "what is left of the cap is used, no more")
    for hours, signal in ((0, 150), (5, 100), (26, 200)):
        scene.now_ms = SLOT_MS + hours * HOUR_MS
        scene.say(signal)
    scene.finish(350)
    scene = LedgerScene(
        files,
        "window-both-ways",
        "up and down again: each stretch of slots is capped, downwards too",
        default=500,
    )
    for hours, signal in ((0, 200), (3, -200), (6, -200), (9, 200), (12, 200)):
        scene.now_ms = SLOT_MS + hours * HOUR_MS
        scene.say(signal)
    scene.finish(700)
    scene = LedgerScene(files, "window-ratchet", "lowering gives no room to raise by more than 200 in all", default=500)
    for hours, signal in ((0, -200), (1, 200), (2, 200), (3, 200)):
        scene.now_ms = SLOT_MS + hours * HOUR_MS
        scene.say(signal)
    scene.finish(500)
    for sign, name in ((1, "up"), (-1, "down")):
        scene = LedgerScene(
            files,
            f"window-turned-{name}",
            "a slot that comes to be moved against the one before is held within 200 of its own start too: a movement "
            "the other way gives no room within the slot",
            default=500,
        )
        scene.say(-sign * 100)
        scene.now_ms += HOUR_MS
        scene.say(sign * 200)
        scene.say(sign * 200)
        scene.finish(500 + sign * 100)
    for slots, score in ((26, 200), (27, 400)):
        scene = LedgerScene(
            files,
            f"window-of-an-hour-{slots}",
            f"a window of 3600 s has slots of 150 s, and so a reach of 26: two updates {slots} slots apart",
            trust_window_seconds=3600,
        )
        scene.say(200)
        scene.now_ms += slots * 150_000
        scene.say(200)
        scene.finish(score)
    scene = LedgerScene(
        files,
        "window-is-of-one-issuer",
        "the cap is each issuer's own, and each subject's",
        subjects=(SUBJECT, OTHER_SUBJECT),
    )
    for issuer in (ISSUER, OTHER_ISSUER):
        for subject in (SUBJECT, OTHER_SUBJECT):
            scene.say(200, issuer=issuer, subject=subject)
            scene.say(200, issuer=issuer, subject=subject)
    scene.finish(400, 400)
    scene = LedgerScene(
        files,
        "cap-counts-what-was-lost",
        "the cap is on movements, not on what the score made of them: at 1000 the first 200 went nowhere",
        default=1000,
    )
    scene.say(200)
    scene.now_ms += HOUR_MS
    scene.say(-200, issuer=OTHER_ISSUER)
    scene.now_ms += HOUR_MS
    scene.say(200)
    scene.finish(800)


def _late(files: Files) -> None:
    scene = LedgerScene(files, "late", "an update that comes late counts as if it had been in time", default=100)
    scene.say(-200)
    scene.say(200, at_ms=SLOT_MS - 5 * HOUR_MS, issuer=OTHER_ISSUER)
    scene.finish(100)
    scene = LedgerScene(files, "late-takes-the-cap", "what comes late uses the cap up for what was later", default=500)
    scene.say(200, sequence=2)
    scene.say(150, sequence=1, at_ms=SLOT_MS - 5 * HOUR_MS)
    scene.say(-200, sequence=3)
    scene.finish(650)
    scene = LedgerScene(files, "late-by-a-window", "the last millisecond of the window", default=500)
    scene.say(40, at_ms=SLOT_MS - DAY_MS)
    scene.finish(540)
    scene = LedgerScene(files, "ahead-by-the-tolerance", "300 s ahead of the clock", default=500)
    scene.say(40, at_ms=SLOT_MS + TOLERANCE_MS)
    scene.finish(540)


def _sequences(files: Files) -> None:
    scene = LedgerScene(files, "sequence-gap", "sequences need not be without gaps")
    scene.say(50, sequence=0)
    scene.say(50, sequence=2**53 - 1)
    scene.finish(100)
    scene = LedgerScene(files, "sequence-turned", "two in one slot whose sequences arrive turned around: both count")
    scene.say(50, sequence=9)
    scene.say(60, sequence=4)
    scene.finish(110)
    scene = LedgerScene(
        files, "sequence-one-slot-back", "a higher sequence one slot earlier: clocks are set back a little, both count"
    )
    scene.say(50, sequence=4)
    scene.say(60, sequence=9, at_ms=SLOT_MS - 1)
    scene.finish(110)
    scene = LedgerScene(
        files,
        "sequence-two-slots-back",
        "a higher sequence two slots earlier contradicts the lower one, which counts no more",
    )
    scene.say(50, sequence=4)
    scene.say(60, sequence=9, at_ms=SLOT_MS - HOUR_MS - 1)
    scene.finish(60)
    scene = LedgerScene(
        files, "refuse-sequence-two-slots-back", "the same in the other order: the lower one is refused"
    )
    scene.say(60, sequence=9, at_ms=SLOT_MS - HOUR_MS - 1)
    scene.say(50, STALE, sequence=4)
    scene.finish(60)
    scene = LedgerScene(files, "refuse-replayed", "the same update again, at once and a day later")
    data = scene.say(150, sequence=3)
    update = Update(ISSUER.key.raw, SUBJECT.key.raw, 3, SLOT_MS, 150, digest_of(data))
    scene.offer(data, update, STALE)
    scene.now_ms += DAY_MS
    scene.offer(data, update, STALE)
    scene.finish(150)
    scene = LedgerScene(
        files, "same-sequence-earlier", "of two with one sequence the earlier counts, even if it comes second"
    )
    scene.say(50, sequence=3)
    scene.say(70, sequence=3, at_ms=SLOT_MS - 1)
    scene.finish(70)
    scene = LedgerScene(files, "refuse-same-sequence-later", "of two with one sequence the later is refused")
    scene.say(70, sequence=3, at_ms=SLOT_MS - 1)
    scene.say(50, STALE, sequence=3)
    scene.finish(70)
    # One sequence, one time: the digest decides.
    small, large = sorted(
        (10, 20),
        key=lambda amount: digest_of(statement(TRUST, ISSUER, SUBJECT, 1, amount, sequence=3, time_ms=SLOT_MS)),
    )
    scene = LedgerScene(
        files, "same-sequence-same-time", "of two with one sequence and one time the one with the smaller digest counts"
    )
    scene.say(large, sequence=3)
    scene.say(small, sequence=3)
    scene.finish(small)
    scene = LedgerScene(files, "refuse-same-sequence-same-time", "the one with the larger digest is refused")
    scene.say(small, sequence=3)
    scene.say(large, STALE, sequence=3)
    scene.finish(small)
    late_ms = SLOT_MS + 1000

    def digest(at_ms: int) -> bytes:
        return digest_of(statement(TRUST, ISSUER, SUBJECT, 1, 10, sequence=3, time_ms=at_ms))

    early_ms = next(at_ms for at_ms in range(SLOT_MS, late_ms) if digest(at_ms) > digest(late_ms))
    comment = "one sequence, one slot, and the earlier has the larger digest: the time decides"
    scene = LedgerScene(files, "same-sequence-time-before-digest", comment)
    scene.now_ms = late_ms
    scene.say(10, sequence=3)
    scene.say(10, sequence=3, at_ms=early_ms)
    scene.say(5, sequence=2)
    scene.finish(15)
    scene = LedgerScene(files, "refuse-same-sequence-time-before-digest", comment)
    scene.now_ms = late_ms
    scene.say(10, sequence=3, at_ms=early_ms)
    scene.say(10, STALE, sequence=3)
    scene.finish(10)
    scene = LedgerScene(
        files,
        "sequence-is-of-one-issuer-and-subject",
        "one sequence for two subjects, and of two issuers",
        subjects=(SUBJECT, OTHER_SUBJECT),
    )
    scene.say(50, sequence=3)
    scene.say(60, sequence=3, subject=OTHER_SUBJECT)
    scene.say(70, sequence=3, issuer=OTHER_ISSUER)
    scene.finish(120, 60)


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


def _orders(files: Files) -> None:
    for number, order in enumerate(_PERMUTATIONS):
        scene = LedgerScene(files, f"order-{number}", "six updates of two issuers: every order gives 490", default=400)
        for index in order:
            signal, age_ms, sequence, issuer = _SET[index]
            scene.say(signal, at_ms=SLOT_MS - age_ms, sequence=sequence, issuer=issuer)
        scene.finish(490)
    kept = _smaller_digest()
    orders = {"order-contradicting": (1 - kept, kept, 2, 4, 5, 3)}
    orders |= {f"refuse-order-{number}": order for number, order in enumerate(_REFUSING)}
    for name, order in orders.items():
        comment = "six updates that contradict one another: every order gives 550, whichever are refused"
        scene = LedgerScene(files, name, comment, default=600)
        for index in order:
            signal, age_ms, sequence, issuer = _CONTRADICTING[index]
            refused = index in _refused(order, kept)
            scene.say(signal, STALE if refused else "ok", at_ms=SLOT_MS - age_ms, sequence=sequence, issuer=issuer)
        scene.finish(550)


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

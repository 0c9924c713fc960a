"""The ledger: section 9.2."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from verifier.common import TOLERANCE_MS, Json, Trace, Unusable, limits_of, refuse, unhex
from verifier.trust_lists import Revocations
from verifier.trust_statements import Statement, take_statement

SIGNAL_MAX = 200
SCORE_MAX = 1000


def held_within(least: int, value: int, most: int) -> int:
    """The value, or the bound that it is beyond."""
    return max(least, min(most, value))


@dataclass
class Subject:
    """What is known of one subject: where it begins, the latest time T, and each issuer's updates that stand."""

    begins: int
    latest: int | None = None
    standing: dict[bytes, list[Statement]] = field(default_factory=lambda: defaultdict(list))


class LedgerRun:
    """ledger.run."""

    def __init__(self, given: Json) -> None:
        self.mesh: str = given["mesh"]
        self.default: int = given["default_score"]
        self.limits = limits_of(given)
        self.window = 1000 * self.limits["trust_window_seconds"]
        self.slot_ms = -(-self.window // 24)
        self.reach = -(-(self.window + TOLERANCE_MS) // self.slot_ms)
        self.issuers = {unhex(key) for key in given["issuers"]}
        self.told_of = [unhex(key) for key in given["subjects"]]
        self.revocations = Revocations(self.mesh, set(), set(), self.limits)
        self.subjects: dict[bytes, Subject] = {}

    def take(self, step: Json, trace: Trace) -> Json:
        """One step."""
        if step["do"] == "apply":
            self._apply(unhex(step["statement"]), step["now_ms"], trace)
        elif step["do"] == "believe":
            self.issuers.add(unhex(step["issuer"]))
        elif step["do"] == "disbelieve":
            self._disbelieve(unhex(step["issuer"]), step["take_back"])
        elif step["do"] == "revoke":
            self.revocations.apply(unhex(step["statement"]), trace)
        elif step["do"] == "inherit":
            self._inherit(unhex(step["old"]), unhex(step["new"]))
        else:
            raise Unusable(f"unknown step {step['do']!r}")
        return self.told()

    def told(self) -> Json:
        """The scores of the subjects."""
        return {"scores": [self.score(subject) for subject in self.told_of]}

    def score(self, identity: bytes) -> int:
        """The score: all movements of each slot together, one slot after the other."""
        subject = self.subjects.get(identity)
        if subject is None:
            return self.default
        together: dict[int, int] = defaultdict(int)
        for updates in subject.standing.values():
            for slot, moved in self._movements(updates).items():
                together[slot] += moved
        score = subject.begins
        for slot in sorted(together):
            score = held_within(0, score + together[slot], SCORE_MAX)
        return score

    def _slot(self, time: int) -> int:
        return time // self.slot_ms

    def _horizon(self, subject: Subject) -> int | None:
        return None if subject.latest is None else self._slot(subject.latest - TOLERANCE_MS - self.window)

    def _settled(self, update: Statement, subject: Subject) -> bool:
        horizon = self._horizon(subject)
        return horizon is not None and self._slot(update.time) < horizon - 1

    def _beats(self, one: Statement, other: Statement) -> bool:
        """Of two updates of one issuer about one subject."""
        if one.sequence == other.sequence:
            return (one.time, one.digest) < (other.time, other.digest)
        return one.sequence > other.sequence and self._slot(one.time) <= self._slot(other.time) - 2

    def _movements(self, updates: list[Statement]) -> dict[int, int]:
        """What one issuer moves one subject by, in each slot in which an update stands."""
        wanted: dict[int, int] = defaultdict(int)
        for update in updates:
            wanted[self._slot(update.time)] += held_within(-SIGNAL_MAX, update.signal, SIGNAL_MAX)
        moved: dict[int, int] = {}
        for s in sorted(wanted):
            runs, run = [0], 0
            for f in range(s - 1, s - self.reach - 1, -1):
                run += moved.get(f, 0)
                runs.append(run)
            low, high = min(runs), max(runs)
            moved[s] = max(-SIGNAL_MAX - low, min(SIGNAL_MAX - high, wanted[s]))
        return moved

    def _apply(self, data: bytes, now: int, trace: Trace) -> None:
        def fits(update: Statement) -> bool:
            trace["slot"] = self._slot(update.time)
            return update.issuer in self.issuers and not self.revocations.revoked(update.issuer)

        update = take_statement("trust", data, self.mesh, fits, trace)
        slot = self._slot(update.time)
        subject = self.subjects.get(update.subject)
        if not now - self.window <= update.time <= now + TOLERANCE_MS:
            refuse("trust.stale")
        if subject is None:
            if len(self.subjects) >= self.limits["trust_subjects"]:
                refuse("trust.full")
            subject = Subject(self.default)
        horizon = self._horizon(subject)
        if horizon is not None and slot < horizon:
            refuse("trust.stale")
        standing = subject.standing.get(update.issuer, [])
        if any(other.digest == update.digest or self._beats(other, update) for other in standing):
            refuse("trust.stale")
        left = [other for other in standing if not self._beats(update, other)]
        if sum(not self._settled(other, subject) for other in left) >= self.limits["trust_updates_per_issuer"]:
            refuse("trust.full")
        subject.standing[update.issuer] = [*left, update]
        subject.latest = update.time if subject.latest is None else max(subject.latest, update.time)
        self.subjects[update.subject] = subject
        movements = self._movements(subject.standing[update.issuer])
        trace["movements"] = [{"slot": s, "moved": movements[s]} for s in sorted(movements) if movements[s]]

    def _disbelieve(self, issuer: bytes, take_back: bool) -> None:
        self.issuers.discard(issuer)
        if take_back:
            for subject in self.subjects.values():
                updates = subject.standing.pop(issuer, [])
                subject.standing[issuer] = [update for update in updates if self._settled(update, subject)]

    def _inherit(self, old: bytes, new: bytes) -> None:
        """Section 9.5: the new identity begins with the old one's score of this moment."""
        if self.revocations.revoked(old) or self.revocations.revoked(new) or new in self.subjects:
            refuse("call.argument")
        if old in self.subjects:
            if len(self.subjects) >= self.limits["trust_subjects"]:
                refuse("trust.full")
            self.subjects[new] = Subject(self.score(old))

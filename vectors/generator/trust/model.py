"""Sections 9.2 and 9.3 as they are written: nothing is ever folded or forgotten. The library must give the same."""

from __future__ import annotations

from typing import Final

from attrs import define, field, frozen

from generator.codes import FULL, NOT_ALLOWED, STALE, UNFIT

SLOTS: Final = 24
TOLERANCE_MS: Final = 300_000
SIGNAL_MAX: Final = 200
SCORE_MAX: Final = 1000


@frozen
class Update:
    """A trust update that was verified."""

    issuer: bytes
    subject: bytes
    sequence: int
    time_ms: int
    signal: int
    digest: bytes


@define
class Ledger:
    """A ledger that keeps every update for ever."""

    window_ms: int
    default: int
    subjects_max: int
    updates_max: int
    believed: set[bytes] = field(factory=set)
    revoked: set[bytes] = field(factory=set)
    taken: dict[bytes, list[Update]] = field(factory=dict)
    start: dict[bytes, int] = field(factory=dict)
    newest: dict[bytes, int] = field(factory=dict)

    def slot(self, time_ms: int) -> int:
        """Return the slot of a time."""
        return time_ms // -(-self.window_ms // SLOTS)

    @property
    def reach(self) -> int:
        """How many slots back the cap on one issuer goes."""
        return -(-(self.window_ms + TOLERANCE_MS) // -(-self.window_ms // SLOTS))

    def horizon(self, subject: bytes) -> int:
        """Return the first slot in which an update about this subject can still be taken."""
        newest = self.newest.get(subject)
        return 0 if newest is None else self.slot(newest - TOLERANCE_MS - self.window_ms)

    def beats(self, one: Update, other: Update) -> bool:
        """Say whether, of two updates of one issuer about one subject, only the first counts."""
        if one.sequence == other.sequence:
            return (one.time_ms, one.digest) < (other.time_ms, other.digest)
        return one.sequence > other.sequence and self.slot(one.time_ms) <= self.slot(other.time_ms) - 2

    def standing(self, issuer: bytes, subject: bytes) -> list[Update]:
        """Return what counts of what this issuer said of this subject."""
        own = [update for update in self.taken.get(subject, ()) if update.issuer == issuer]
        return [update for update in own if not any(self.beats(other, update) for other in own)]

    def refusal(self, update: Update, now_ms: int) -> str | None:
        """Return why an update is not taken, or `None`."""
        if update.issuer not in self.believed or update.issuer in self.revoked:
            return UNFIT
        if not now_ms - self.window_ms <= update.time_ms <= now_ms + TOLERANCE_MS:
            return STALE
        subject = update.subject
        if subject not in self.taken and len(self.taken) >= self.subjects_max:
            return FULL
        if self.slot(update.time_ms) < self.horizon(subject):
            return STALE
        standing = self.standing(update.issuer, subject)
        if update in standing or any(self.beats(held, update) for held in standing):
            return STALE
        kept = [
            held
            for held in standing
            if self.slot(held.time_ms) >= self.horizon(subject) - 1 and not self.beats(update, held)
        ]
        return FULL if len(kept) >= self.updates_max else None

    def take(self, update: Update, now_ms: int) -> str | None:
        """Take an update, or return why not."""
        refusal = self.refusal(update, now_ms)
        if refusal is None:
            subject = update.subject
            self.taken.setdefault(subject, []).append(update)
            self.newest[subject] = max(self.newest.get(subject, 0), update.time_ms)
        return refusal

    def take_back(self, issuer: bytes) -> None:
        """Forget what an issuer said, where it is not settled."""
        for subject, updates in self.taken.items():
            first = self.horizon(subject) - 1
            standing = self.standing(issuer, subject)
            self.taken[subject] = [
                update
                for update in updates
                if update.issuer != issuer or (update in standing and self.slot(update.time_ms) < first)
            ]

    def inherit(self, old: bytes, new: bytes) -> str | None:
        """Let a new identity begin where the old one is, or return why not."""
        if {old, new} & self.revoked or new in self.taken:
            return NOT_ALLOWED
        if old not in self.taken:
            return None
        if len(self.taken) >= self.subjects_max:
            return FULL
        self.start[new] = self.score(old)
        self.taken[new] = []
        return None

    def movements(self, issuer: bytes, subject: bytes) -> dict[int, int]:
        """Return what an issuer moves a subject by, slot by slot, zeros left out."""
        standing = self.standing(issuer, subject)
        moved: dict[int, int] = {}
        for slot in sorted({self.slot(update.time_ms) for update in standing}):
            signals = [update.signal for update in standing if self.slot(update.time_ms) == slot]
            wanted = sum(max(-SIGNAL_MAX, min(SIGNAL_MAX, signal)) for signal in signals)
            since = [
                sum(value for at, value in moved.items() if first <= at < slot)
                for first in range(slot - self.reach, slot + 1)
            ]
            moved[slot] = max(-SIGNAL_MAX - min(since), min(SIGNAL_MAX - max(since), wanted))
        return {slot: value for slot, value in moved.items() if value}

    def score(self, subject: bytes) -> int:
        """Return a subject's score."""
        totals: dict[int, int] = {}
        for issuer in {update.issuer for update in self.taken.get(subject, ())}:
            for slot, value in self.movements(issuer, subject).items():
                totals[slot] = totals.get(slot, 0) + value
        score = self.start.get(subject, self.default)
        for slot in sorted(totals):
            score = max(0, min(SCORE_MAX, score + totals[slot]))
        return score


@frozen
class Edge:
    """An edge that was verified."""

    issuer: bytes
    subject: bytes
    sequence: int
    time_ms: int
    weight: int
    digest: bytes


@define
class Graph:
    """A graph that looks at every path."""

    root: bytes
    percent: int
    cap: int
    edges_max: int
    edges_per_issuer: int
    revoked: set[bytes] = field(factory=set)
    edges: dict[tuple[bytes, bytes], Edge] = field(factory=dict)

    def take(self, edge: Edge, now_ms: int) -> str | None:
        """Take an edge, or return why not."""
        if edge.issuer in self.revoked:
            return UNFIT
        if edge.time_ms > now_ms + TOLERANCE_MS:
            return STALE
        held = self.edges.get((edge.issuer, edge.subject))
        if held is None and self._full(edge.issuer):
            return FULL
        if held is not None and (edge.sequence, held.digest) <= (held.sequence, edge.digest):
            return STALE
        self.edges[edge.issuer, edge.subject] = edge
        return None

    def _full(self, issuer: bytes) -> bool:
        own = [subject for by, subject in self.edges if by == self.root]
        if issuer == self.root:
            return len(own) >= self.edges_max
        of_issuer = sum(by == issuer for by, _ in self.edges)
        of_strangers = sum(by != self.root and by not in own for by, _ in self.edges)
        return (
            len(self.edges) >= self.edges_max
            or of_issuer >= self.edges_per_issuer
            or (issuer not in own and of_strangers >= self.edges_max // 4)
        )

    def weight(self, issuer: bytes, subject: bytes) -> int:
        """Return the weight of an edge, 0 where there is none."""
        edge = self.edges.get((issuer, subject))
        return 0 if edge is None else edge.weight

    def scores(self, target: bytes) -> tuple[int, int, int]:
        """Return (direct, derived, score)."""
        direct = self.weight(self.root, target)
        vouchers = {subject for by, subject in self.edges if by == self.root} - self.revoked - {target}
        best = max((min(self.weight(self.root, by), self.weight(by, target)) for by in vouchers), default=0)
        derived = 0 if target == self.root else min(best * self.percent // 100, self.cap)
        return direct, derived, max(direct, derived)

"""Subject: what a ledger holds of one identity, and how scores follow from it (section 9.2).

Theory of operation. A score is a function of the *set* of updates that the ledger took in time, never of the order in
which they came.

Time counts in slots, a 24th of the window each. In one slot the signals of one issuer on one subject are added up;
what that moves the score is held so that, from any slot to any slot within reach, the issuer has moved the subject by
200 at most: fifty small signals gain what one big one does. The reach is a window and the tolerance of clocks, because
so far apart are the oldest and the newest that are due at one moment: whatever an issuer hands in at once moves 200 at
most. The movements of all issuers in a slot are added up, and slot after slot the sum moves the score, clamped to
0..1000. None of it depends on an order within a slot.

What is older than the window is settled: folded into a base, and nothing as old is taken any more. The horizon follows
the newest update that was taken on the subject, not this machine's clock: a clock that is wrong for a while refuses
updates and changes nothing.

Sequences of one issuer on one subject increase strictly. Of two updates with one sequence the earlier counts (of equal
times the one with the smaller digest); of two whose sequences contradict their times by more than a slot, the one with
the higher sequence. "Beats" is a strict partial order, so that dropping what is beaten, now or later, leaves the same
updates whatever the order. Settling keeps two slots' distance from what can still come, so that it never decides
between two of them.
"""

from __future__ import annotations

from typing import Any, Final, final

from attrs import frozen

from agentmesh.at_rest import MANY, require
from agentmesh.limits import CLOCK_TOLERANCE_MS, SCORE_MAX, SIGNAL_MAX, UINT_MAX
from agentmesh.primitives import _wire

_SLOTS: Final = 24  # slots in a window
_BEATS_FROM: Final = 2  # a higher sequence beats a lower one so many slots later: clocks are set back a little

# Settled movement: slot, movement + 200. Update: sequence, time, signal + 200, digest.
_MOVED: Final = _wire.array(_wire.Uint(), _wire.Uint(2 * SIGNAL_MAX))
_UPDATE: Final = _wire.array(_wire.Uint(), _wire.Uint(), _wire.Uint(2 * SIGNAL_MAX), _wire.Bin(32))
# Issuer, highest settled sequence + 1 (0 without one), settled movements that an open slot still reaches, updates.
_SETTLED: Final = _wire.Uint(UINT_MAX + 1)
_VOICE: Final = _wire.array(_wire.Bin(32), _SETTLED, _wire.ArrayOf(_MOVED, MANY), _wire.ArrayOf(_UPDATE, MANY))
# Subject, base, horizon (0 without one), voices.
SUBJECT_FIELDS: Final = _wire.array(_wire.Bin(32), _wire.Uint(SCORE_MAX), _wire.Uint(), _wire.ArrayOf(_VOICE, MANY))

Update = tuple[int, int, bytes]  # time, signal, digest


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


@final
@frozen
class Grid:
    """How a window is cut into slots.

    Attributes:
        slot_ms: A slot's length.
        reach: How many slots back the cap on one issuer goes.
    """

    slot_ms: int
    reach: int

    @classmethod
    def of(cls, window_ms: int) -> Grid:
        """Return how a window of this length is cut."""
        slot_ms = -(-window_ms // _SLOTS)
        return cls(slot_ms, -(-(window_ms + CLOCK_TOLERANCE_MS) // slot_ms))


@final
class Voice:
    """What one issuer said of one subject.

    Attributes:
        settled: The highest sequence that was settled, or -1.
        moved: What it moved, by slot: in settled slots that an open one still reaches, and in those of `updates`.
        updates: What is not settled, by sequence.
    """

    __slots__ = ("moved", "settled", "updates")

    def __init__(self) -> None:
        self.settled: int = -1
        self.moved: dict[int, int] = {}
        self.updates: dict[int, Update] = {}

    def taking(self, sequence: int, update: Update, beaten: list[int]) -> Voice:
        """Return what it is with an update more, and without those that this one beats. `move` is to follow."""
        voice = Voice()
        voice.settled, voice.moved = self.settled, self.moved
        voice.updates = {other: held for other, held in self.updates.items() if other not in beaten}
        voice.updates[sequence] = update
        return voice

    def taken_back(self) -> Voice:
        """Return what it is without all that is not settled. `move` is to follow."""
        voice = Voice()
        voice.settled, voice.moved = self.settled, self.moved
        return voice

    def beaten_by(self, sequence: int, update: Update, slot_ms: int) -> list[int] | None:
        """Return the sequences of the updates that a new one beats, or `None` where one of them beats it."""
        if sequence <= self.settled:
            return None
        slot, beaten = update[0] // slot_ms, []
        for other, held in self.updates.items():
            if other == sequence:
                if (held[0], held[2]) <= (update[0], update[2]):
                    return None
                beaten.append(other)
            elif other > sequence and held[0] // slot_ms <= slot - _BEATS_FROM:
                return None
            elif other < sequence and slot <= held[0] // slot_ms - _BEATS_FROM:
                beaten.append(other)
        return beaten

    def move(self, first_open: int, grid: Grid) -> dict[int, int]:
        """Compute the movements of the open slots anew, and return by how much each has changed."""
        sums: dict[int, int] = {}
        for time_ms, signal, _ in self.updates.values():
            slot = time_ms // grid.slot_ms
            sums[slot] = sums.get(slot, 0) + signal
        changes = {slot: -moved for slot, moved in self.moved.items() if slot >= first_open}
        path = sorted((slot, moved) for slot, moved in self.moved.items() if slot < first_open)
        for slot in sorted(sums):
            since = lowest = highest = 0
            for earlier, moved in reversed(path):
                if earlier < slot - grid.reach:
                    break
                since += moved
                lowest, highest = min(lowest, since), max(highest, since)
            moved = _clamp(sums[slot], -SIGNAL_MAX - lowest, SIGNAL_MAX - highest)
            if moved:
                path.append((slot, moved))
                changes[slot] = changes.get(slot, 0) + moved
        self.moved = dict(path)
        return changes

    def settling(self, first_open: int, grid: Grid) -> Voice:
        """Return what it is without the updates before a slot, and the movements that no open slot reaches."""
        voice = Voice()
        voice.moved = {slot: moved for slot, moved in self.moved.items() if slot >= first_open - grid.reach}
        voice.settled = self.settled
        for sequence, held in self.updates.items():
            if held[0] // grid.slot_ms < first_open:
                voice.settled = max(voice.settled, sequence)
            else:
                voice.updates[sequence] = held
        return voice

    def fields(self, first_open: int) -> list[Any]:
        """Return what is kept of it, behind its issuer."""
        return [
            self.settled + 1,
            [[slot, moved + SIGNAL_MAX] for slot, moved in sorted(self.moved.items()) if slot < first_open],
            [
                [sequence, time_ms, signal + SIGNAL_MAX, digest]
                for sequence, (time_ms, signal, digest) in sorted(self.updates.items())
            ],
        ]

    @classmethod
    def restored(cls, grid: Grid, first_open: int, settled: int, moved: list[Any], updates: list[Any]) -> Voice:
        """Return what `fields` wrote.

        Raises:
            Malformed: fields that contradict one another.
        """
        voice = cls()
        voice.moved = {slot: movement - SIGNAL_MAX for slot, movement in moved}
        require(all(first_open - grid.reach <= slot < first_open for slot in voice.moved))
        for sequence, time_ms, signal, digest in updates:
            held = (time_ms, signal - SIGNAL_MAX, digest)
            slot = time_ms // grid.slot_ms
            require(slot >= first_open and voice.beaten_by(sequence, held, grid.slot_ms) == [])
            # What is settled lies before the first open slot, and so beats what lies behind that one.
            require(sequence >= settled or slot == first_open)
            voice.updates[sequence] = held
        voice.settled = settled - 1
        return voice


@final
class Subject:
    """What is known of one subject.

    Attributes:
        base: The score after all settled slots.
        horizon: The first slot in which an update can still be taken.
        voices: What was said of it, by issuer.
        totals: What all issuers together move, by open slot.
        score: The score after all slots.
        heir_of: From whom it inherited, while the process lives; b"" from nobody.
    """

    __slots__ = ("base", "heir_of", "horizon", "score", "totals", "voices")

    def __init__(self, base: int) -> None:
        self.base: int = base
        self.horizon: int = 0
        self.voices: dict[bytes, Voice] = {}
        self.totals: dict[int, int] = {}
        self.score: int = base
        self.heir_of: bytes = b""

    def copied(self) -> Subject:
        """Return one that can be altered, but for its voices, which are to be replaced."""
        subject = Subject(self.base)
        subject.horizon, subject.score, subject.heir_of = self.horizon, self.score, self.heir_of
        subject.voices, subject.totals = self.voices.copy(), self.totals.copy()
        return subject

    @property
    def first_open(self) -> int:
        """The first slot that is not settled."""
        return max(0, self.horizon - _BEATS_FROM + 1)

    def count(self, issuer: bytes, voice: Voice, grid: Grid) -> None:
        """Put a voice in its place, and take its movements into account as they are now."""
        self.voices[issuer] = voice
        for slot, change in voice.move(self.first_open, grid).items():
            total = self.totals.pop(slot, 0) + change
            if total:
                self.totals[slot] = total
        self.score = self._folded(self.base, sorted(self.totals))

    def _folded(self, score: int, slots: list[int]) -> int:
        for slot in slots:
            score = _clamp(score + self.totals[slot], 0, SCORE_MAX)
        return score

    def settle(self, horizon: int, grid: Grid) -> None:
        """Fold for good what no update from this slot on can change. The score stays what it is."""
        if horizon <= self.horizon:
            return
        self.horizon = horizon
        first_open = self.first_open
        over = sorted(slot for slot in self.totals if slot < first_open)
        self.base = self._folded(self.base, over)
        for slot in over:
            del self.totals[slot]
        self.voices = {issuer: voice.settling(first_open, grid) for issuer, voice in self.voices.items()}

    def fields(self) -> list[Any]:
        """Return what is kept of it, behind its identity."""
        voices = [[issuer, *voice.fields(self.first_open)] for issuer, voice in sorted(self.voices.items())]
        return [self.base, self.horizon, voices]

    @classmethod
    def restored(cls, grid: Grid, base: int, horizon: int, voices: list[Any]) -> Subject:
        """Return what `fields` wrote.

        Raises:
            Malformed: fields that contradict one another.
        """
        subject = cls(base)
        subject.horizon = horizon
        for issuer, *fields in voices:
            subject.count(issuer, Voice.restored(grid, subject.first_open, *fields), grid)
        return subject

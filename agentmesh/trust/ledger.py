"""The trust ledger: scores that change only by signed updates of issuers it was told to believe (section 9).

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

import threading
from typing import Any, Final, final

from attrs import frozen

from agentmesh.envelope import is_mesh_name
from agentmesh.errors import ArgumentInvalid, StatementStale, StatementUnfit, TrustFull
from agentmesh.identity import IdentityKey
from agentmesh.limits import CLOCK_TOLERANCE_MS, SCORE_MAX, SIGNAL_MAX, Limits
from agentmesh.primitives import _wire
from agentmesh.primitives.arguments import limits_argument, uint_argument
from agentmesh.trust.arguments import key_argument, raw_key
from agentmesh.trust.at_rest import MANY, StateKind, export_fields, require, restore_fields
from agentmesh.trust.revocation import RevocationList, revocations_argument
from agentmesh.trust.statements import TrustUpdate, verify_trust

_SLOTS: Final = 24  # slots in a window
_BEATS_FROM: Final = 2  # a higher sequence beats a lower one so many slots later: clocks are set back a little

# Settled movement: slot, movement + 200. Update: sequence, time, signal + 200, digest.
_MOVED: Final = _wire.array(_wire.Uint(), _wire.Uint(2 * SIGNAL_MAX))
_UPDATE: Final = _wire.array(_wire.Uint(), _wire.Uint(), _wire.Uint(2 * SIGNAL_MAX), _wire.Bin(32))
# Issuer, highest settled sequence + 1, settled movements that an open slot still reaches, updates.
_VOICE: Final = _wire.array(_wire.Bin(32), _wire.Uint(), _wire.ArrayOf(_MOVED, MANY), _wire.ArrayOf(_UPDATE, MANY))
# Subject, base, horizon (0 without one), voices.
_SUBJECT: Final = _wire.array(_wire.Bin(32), _wire.Uint(SCORE_MAX), _wire.Uint(), _wire.ArrayOf(_VOICE, MANY))
# Default score, window in seconds, issuers, subjects.
_LEDGER: Final = _wire.array(
    _wire.Uint(SCORE_MAX), _wire.Uint(), _wire.ArrayOf(_wire.Bin(32), MANY), _wire.ArrayOf(_SUBJECT, MANY)
)

_Update = tuple[int, int, bytes]  # time, signal, digest


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


@final
@frozen
class _Grid:
    """How a window is cut into slots.

    Attributes:
        slot_ms: A slot's length.
        reach: How many slots back the cap on one issuer goes.
    """

    slot_ms: int
    reach: int

    @classmethod
    def of(cls, window_ms: int) -> _Grid:
        slot_ms = -(-window_ms // _SLOTS)
        return cls(slot_ms, -(-(window_ms + CLOCK_TOLERANCE_MS) // slot_ms))


@final
class _Voice:
    """What one issuer said of one subject.

    Attributes:
        settled: The highest sequence that was settled, or -1.
        moved: What it moved, by slot: in settled slots that an open one still reaches, and in those of `updates`.
        updates: What is not settled, by sequence.
    """

    __slots__ = ("moved", "settled", "updates")

    def __init__(self) -> None:
        self.settled = -1
        self.moved: dict[int, int] = {}
        self.updates: dict[int, _Update] = {}

    def beaten_by(self, sequence: int, update: _Update, slot_ms: int) -> list[int] | None:
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

    def move(self, first_open: int, grid: _Grid) -> dict[int, int]:
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

    def settle(self, first_open: int, grid: _Grid) -> None:
        """Forget the updates before a slot, and the movements that no open slot reaches."""
        for sequence in [other for other, held in self.updates.items() if held[0] // grid.slot_ms < first_open]:
            self.settled = max(self.settled, sequence)
            del self.updates[sequence]
        self.moved = {slot: moved for slot, moved in self.moved.items() if slot >= first_open - grid.reach}


@final
class _Subject:
    """What is known of one subject.

    Attributes:
        base: The score after all settled slots.
        horizon: The first slot in which an update can still be taken.
        voices: What was said of it, by issuer.
        totals: What all issuers together move, by open slot.
        score: The score after all slots.
    """

    __slots__ = ("base", "horizon", "score", "totals", "voices")

    def __init__(self, base: int) -> None:
        self.base = base
        self.horizon = 0
        self.voices: dict[bytes, _Voice] = {}
        self.totals: dict[int, int] = {}
        self.score = base

    @property
    def first_open(self) -> int:
        """The first slot that is not settled."""
        return max(0, self.horizon - _BEATS_FROM + 1)

    def count(self, voice: _Voice, grid: _Grid) -> None:
        """Take a voice's movements into account as they are now."""
        for slot, change in voice.move(self.first_open, grid).items():
            total = self.totals.pop(slot, 0) + change
            if total:
                self.totals[slot] = total
        self.score = self._folded(self.base, sorted(self.totals))

    def _folded(self, score: int, slots: list[int]) -> int:
        for slot in slots:
            score = _clamp(score + self.totals[slot], 0, SCORE_MAX)
        return score

    def settle(self, horizon: int, grid: _Grid) -> None:
        """Fold for good what no update from this slot on can change. The score stays what it is."""
        if horizon <= self.horizon:
            return
        self.horizon = horizon
        first_open = self.first_open
        over = sorted(slot for slot in self.totals if slot < first_open)
        self.base = self._folded(self.base, over)
        for slot in over:
            del self.totals[slot]
        for voice in self.voices.values():
            voice.settle(first_open, grid)


@final
class TrustLedger:
    """Scores of identities, 0 to 1000, in one mesh.

    It has no clock: the caller brings the time. Safe to use from several threads.

    Attributes:
        mesh: The mesh that updates must be for.
        generation: How often it changed. Keep it elsewhere too, to notice an older ledger that was put back.
    """

    __slots__ = (
        "_default",
        "_grid",
        "_issuers",
        "_limits",
        "_lock",
        "_revocations",
        "_subjects",
        "generation",
        "mesh",
    )

    def __init__(
        self,
        mesh: str,
        *,
        default_score: int = 0,
        limits: Limits | None = None,
        revocations: RevocationList | None = None,
    ) -> None:
        """Make an empty ledger.

        Args:
            mesh: The mesh's name.
            default_score: The score of somebody never heard of. 0 keeps newcomers below every threshold: whoever starts
                anew gains nothing.
            limits: `trust_window_seconds` and what bounds the memory.
            revocations: Updates of issuers that are revoked there are refused.

        Raises:
            ArgumentInvalid: not a mesh name, not a score, not `Limits`, or revocations of another mesh.
        """
        if not is_mesh_name(mesh):
            raise ArgumentInvalid("mesh")
        self.mesh = mesh
        self.generation = 0
        self._default = uint_argument("default_score", default_score, SCORE_MAX)
        self._limits = limits_argument(limits)
        self._grid = _Grid.of(self._window_ms)
        self._revocations = revocations_argument(revocations, mesh)
        self._lock = threading.RLock()
        self._issuers: set[bytes] = set()
        self._subjects: dict[bytes, _Subject] = {}

    def __len__(self) -> int:
        return len(self._subjects)

    @property
    def default_score(self) -> int:
        """The score of somebody never heard of."""
        return self._default

    @property
    def _window_ms(self) -> int:
        return self._limits.trust_window_seconds * 1000

    # --- whom it believes --------------------------------------------------------------------------------------------

    def believe(self, issuer: IdentityKey) -> None:
        """Take updates of this issuer from now on.

        Raises:
            ArgumentInvalid: not an `IdentityKey`.
        """
        key_argument("issuer", issuer)
        with self._lock:
            if issuer.raw not in self._issuers:
                self._issuers.add(issuer.raw)
                self.generation += 1

    def disbelieve(self, issuer: IdentityKey, *, take_back: bool = False) -> None:
        """Take no more updates of this issuer.

        Args:
            issuer: Whom.
            take_back: Undo what it moved by updates that are not settled, about a window's. What is settled stays.

        Raises:
            ArgumentInvalid: not an `IdentityKey`.
        """
        key_argument("issuer", issuer)
        with self._lock:
            changed = issuer.raw in self._issuers
            self._issuers.discard(issuer.raw)
            for subject in self._subjects.values() if take_back else ():
                voice = subject.voices.get(issuer.raw)
                if voice is not None and voice.updates:
                    voice.updates.clear()
                    subject.count(voice, self._grid)
                    changed = True
            self.generation += changed

    def believes(self, issuer: IdentityKey | bytes) -> bool:
        """Say whether updates of this issuer are taken."""
        return raw_key(issuer) in self._issuers

    # --- scores ------------------------------------------------------------------------------------------------------

    def score(self, identity: IdentityKey | bytes) -> int:
        """Return the score of an identity (its key, or the 32 raw bytes), the default for one never heard of.

        Raises:
            ArgumentInvalid: neither.
        """
        subject = self._subjects.get(raw_key(identity))
        return self._default if subject is None else subject.score

    def knows(self, identity: IdentityKey | bytes) -> bool:
        """Say whether an update about this identity was ever taken."""
        return raw_key(identity) in self._subjects

    def apply(self, statement: bytes, *, now_ms: int) -> TrustUpdate:
        """Take a signed update, and return it. The score of its subject is `score` from then on. Section 9.

        Raises:
            ArgumentInvalid: `now_ms` is no time.
            TooLarge, Malformed, UnknownVersion, BadIdentityKey, BadSignature: not a trust update, or not acceptable.
            StatementUnfit: of another mesh, about its own issuer, or its issuer is not believed.
            StatementStale: seen before, from the future, older than the window, or its sequence is spent.
            TrustFull: the memory for updates of this kind is full; nothing was taken.
        """
        uint_argument("now_ms", now_ms)
        update = verify_trust(statement, mesh=self.mesh, may_count=self._may_count)
        if not now_ms - self._window_ms <= update.time_ms <= now_ms + CLOCK_TOLERANCE_MS:
            raise StatementStale
        with self._lock:
            # Asked again, because its issuer may have been revoked while the signature was checked.
            if not self._may_count(update.issuer.raw, update.subject.raw):
                raise StatementUnfit
            self._take(update)
            self.generation += 1
        return update

    def _may_count(self, issuer: bytes, _subject: bytes) -> bool:
        return issuer in self._issuers and (self._revocations is None or not self._revocations.is_revoked(issuer))

    def _take(self, update: TrustUpdate) -> None:
        grid, limits = self._grid, self._limits
        slot_ms = grid.slot_ms
        subject = self._subjects.get(update.subject.raw)
        if subject is None:
            if len(self._subjects) >= limits.trust_subjects:
                raise TrustFull
            subject = _Subject(self._default)
        if update.time_ms // slot_ms < subject.horizon:
            raise StatementStale  # only after the clock was set back
        voice = subject.voices.get(update.issuer.raw) or _Voice()
        held = (update.time_ms, _clamp(update.signal, -SIGNAL_MAX, SIGNAL_MAX), update.digest)
        beaten = voice.beaten_by(update.sequence, held, slot_ms)
        if beaten is None:
            raise StatementStale
        if len(voice.updates) - len(beaten) >= limits.trust_updates_per_issuer:
            raise TrustFull
        # Nothing can fail from here on.
        for sequence in beaten:
            del voice.updates[sequence]
        voice.updates[update.sequence] = held
        subject.voices[update.issuer.raw] = voice
        self._subjects[update.subject.raw] = subject
        subject.count(voice, grid)
        # What may still come is at most a window older than the newest that a clock ahead by the tolerance allows.
        oldest_ms = update.time_ms - CLOCK_TOLERANCE_MS - self._window_ms
        subject.settle(oldest_ms // slot_ms, grid)

    def inherit(self, old: IdentityKey, new: IdentityKey) -> None:
        """Let a new identity begin with the score of the old one, which keeps its own record. See `Successions`.

        Raises:
            ArgumentInvalid: not two identities, one of them is revoked, or the new one has a record of its own.
            TrustFull: no room for another subject.
        """
        for name, key in (("old", old), ("new", new)):
            key_argument(name, key)
            if self._revocations is not None and self._revocations.is_revoked(key):
                raise ArgumentInvalid(name)
        with self._lock:
            if old == new or new.raw in self._subjects:
                raise ArgumentInvalid("new")
            known = self._subjects.get(old.raw)
            if known is None:
                return
            if len(self._subjects) >= self._limits.trust_subjects:
                raise TrustFull
            self._subjects[new.raw] = _Subject(known.score)
            self.generation += 1

    # --- at rest -----------------------------------------------------------------------------------------------------

    def export_state(self) -> bytes:
        """Return the whole ledger as canonical bytes. Seal them: whoever can alter them sets scores."""
        with self._lock:
            subjects = [
                [
                    raw,
                    subject.base,
                    subject.horizon,
                    [
                        _voice_fields(issuer, voice, subject.first_open)
                        for issuer, voice in sorted(subject.voices.items())
                    ],
                ]
                for raw, subject in sorted(self._subjects.items())
            ]
            fields = [self._default, self._limits.trust_window_seconds, sorted(self._issuers), subjects]
            return export_fields(StateKind.LEDGER, self.mesh, self.generation, fields)

    @classmethod
    def restore(
        cls,
        exported: bytes,
        *,
        at_least_generation: int = 0,
        limits: Limits | None = None,
        revocations: RevocationList | None = None,
    ) -> TrustLedger:
        """Return the ledger that `export_state` wrote. A damaged one is an error, never an empty ledger.

        Args:
            exported: The bytes.
            at_least_generation: The `generation` that is known from elsewhere: an older ledger is refused.
            limits: As for a new ledger; `trust_window_seconds` must be what it was kept with.
            revocations: As for a new ledger.

        Raises:
            ArgumentInvalid: the limits have another window, or an argument is of another type or mesh.
            StateStale: older than it may be.
            StateVersionUnknown: written by a newer release.
            StateMalformed: damaged, or fields that contradict one another.
        """
        limits = limits_argument(limits)

        def build(mesh: str, generation: int, fields: list[Any]) -> tuple[TrustLedger, int]:
            default, window_seconds, issuers, subjects = fields
            # A ledger is built with its own window; whether the caller's is the same is asked below.
            ledger = cls(mesh, default_score=default, limits=limits)
            if window_seconds == limits.trust_window_seconds:
                ledger.generation = generation
                ledger._issuers = set(issuers)
                for subject_fields in subjects:
                    ledger._restore_subject(*subject_fields)
                require(ledger.export_state() == exported)
            return ledger, window_seconds

        ledger, window_seconds = restore_fields(
            StateKind.LEDGER, _LEDGER, exported, build, at_least_generation=at_least_generation
        )
        if window_seconds != limits.trust_window_seconds:
            raise ArgumentInvalid("limits")
        ledger._revocations = revocations_argument(revocations, ledger.mesh)
        return ledger

    def _restore_subject(self, raw: bytes, base: int, horizon: int, voices: list[Any]) -> None:
        subject = self._subjects[raw] = _Subject(base)
        subject.horizon = horizon
        first_open = subject.first_open
        for issuer, settled, moved, updates in voices:
            voice = subject.voices[issuer] = _Voice()
            voice.moved = {slot: movement - SIGNAL_MAX for slot, movement in moved}
            require(all(first_open - self._grid.reach <= slot < first_open for slot in voice.moved))
            for sequence, time_ms, signal, digest in updates:
                held = (time_ms, signal - SIGNAL_MAX, digest)
                slot = time_ms // self._grid.slot_ms
                require(slot >= first_open and voice.beaten_by(sequence, held, self._grid.slot_ms) == [])
                # What is settled lies before the first open slot, and so beats what lies behind that one.
                require(sequence >= settled or slot == first_open)
                voice.updates[sequence] = held
            voice.settled = settled - 1
            subject.count(voice, self._grid)


def _voice_fields(issuer: bytes, voice: _Voice, first_open: int) -> list[Any]:
    return [
        issuer,
        voice.settled + 1,
        [[slot, moved + SIGNAL_MAX] for slot, moved in sorted(voice.moved.items()) if slot < first_open],
        [
            [sequence, time_ms, signal + SIGNAL_MAX, digest]
            for sequence, (time_ms, signal, digest) in sorted(voice.updates.items())
        ],
    ]

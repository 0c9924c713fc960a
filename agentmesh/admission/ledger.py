"""The trust ledger: scores that change only by signed updates of issuers it was told to believe (section 9).

Theory of operation. A score is a function of the *set* of updates that the ledger took, never of the order in which
they came: they are folded in the order of (time, issuer, sequence), because clamping does not commute. Updates younger
than a window are kept one by one; what is older is folded into a base, and nothing older is taken any more. So replays
and old updates do nothing, and an arrival a little late counts as if it had been in time.

While folding, what one issuer moves one subject within any window is held to +-200: fifty small signals gain what one
big one does.
"""

from __future__ import annotations

from typing import Any, Final, final

from agentmesh import _wire
from agentmesh.admission.statements import TrustUpdate, verify_trust
from agentmesh.envelope import is_mesh_name
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    Malformed,
    StateMalformed,
    StatementStale,
    StatementUnfit,
    StateVersionUnknown,
    TrustFull,
)
from agentmesh.identity import IdentityKey
from agentmesh.limits import CLOCK_TOLERANCE_MS, MESH_MAX_BYTES, SCORE_MAX, SIGNAL_MAX, Limits

_VERSION: Final = 1
_MAX_BYTES: Final = 1 << 31
_MANY: Final = 1 << 24
# issuer -> what is kept of one update: (time, issuer, sequence, signal + 1000, digest)
_UPDATE: Final = _wire.array(_wire.Uint(), _wire.Bin(32), _wire.Uint(), _wire.Uint(2 * SCORE_MAX), _wire.Bin(32))
_FLOOR: Final = _wire.array(_wire.Bin(32), _wire.Uint())
_MOVED: Final = _wire.array(_wire.Uint(), _wire.Bin(32), _wire.Uint(2 * SCORE_MAX))
_SUBJECT: Final = _wire.array(
    _wire.Bin(32),
    _wire.Uint(SCORE_MAX),
    _wire.ArrayOf(_FLOOR, _MANY),
    _wire.ArrayOf(_MOVED, _MANY),
    _wire.ArrayOf(_UPDATE, _MANY),
)
_LEDGER: Final = _wire.array(
    _wire.Uint(),
    _wire.Text(1, MESH_MAX_BYTES),
    _wire.Uint(),
    _wire.Uint(SCORE_MAX),
    _wire.Uint(),
    _wire.ArrayOf(_wire.Bin(32), _MANY),
    _wire.ArrayOf(_SUBJECT, _MANY),
)

_Key = tuple[int, bytes, int]  # (time, issuer, sequence): the one order of folding


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


@final
class _Subject:
    """What is known of one subject.

    Attributes:
        base: The score after all that was folded for good.
        floors: The highest sequence of each issuer that was folded for good.
        moved: What issuers moved, of the folded updates that a window may still reach back to.
        updates: What is not folded for good, by its key: (signal, digest).
        score: The score with all of them.
    """

    __slots__ = ("base", "floors", "moved", "score", "updates")

    def __init__(self, base: int) -> None:
        self.base = base
        self.floors: dict[bytes, int] = {}
        self.moved: list[tuple[int, bytes, int]] = []
        self.updates: dict[_Key, tuple[int, bytes]] = {}
        self.score = base

    def fold(self, score: int, moved: list[tuple[int, bytes, int]], key: _Key, signal: int, window_ms: int) -> int:
        """Return the score after one update, and note in `moved` what its issuer moved by it."""
        time_ms, issuer, _ = key
        before = sum(amount for then_ms, who, amount in moved if who == issuer and then_ms > time_ms - window_ms)
        held = _clamp(before + _clamp(signal, -SIGNAL_MAX, SIGNAL_MAX), -SIGNAL_MAX, SIGNAL_MAX) - before
        after = _clamp(score + held, 0, SCORE_MAX)
        if held:
            moved.append((time_ms, issuer, held))
        return after

    def refold(self, window_ms: int) -> None:
        """Compute the score anew from the base."""
        score, moved = self.base, list(self.moved)
        for key in sorted(self.updates):
            score = self.fold(score, moved, key, self.updates[key][0], window_ms)
        self.score = score

    def settle(self, horizon_ms: int, window_ms: int) -> None:
        """Fold for good what is older than the horizon: nothing older can come any more."""
        for key in sorted(key for key in self.updates if key[0] < horizon_ms):
            signal, _ = self.updates.pop(key)
            self.base = self.fold(self.base, self.moved, key, signal, window_ms)
            _, issuer, sequence = key
            self.floors[issuer] = max(sequence, self.floors.get(issuer, -1))
        self.moved = [item for item in self.moved if item[0] > horizon_ms - window_ms]


@final
class TrustLedger:
    """Scores of identities, 0 to 1000, in one mesh.

    A value with no clock: the caller brings the time. It is not locked: use it from one thread, or under the lock of
    what owns it.

    Attributes:
        mesh: The mesh that updates must be for.
        generation: How many updates it ever took. Keep it elsewhere too, to notice an older ledger that was put back.
    """

    __slots__ = ("_default", "_issuers", "_limits", "_subjects", "generation", "mesh")

    def __init__(self, mesh: str, *, default_score: int = 0, limits: Limits | None = None) -> None:
        """Make an empty ledger.

        Args:
            mesh: The mesh's name.
            default_score: The score of somebody never heard of. 0 keeps newcomers below every threshold: whoever starts
                anew gains nothing.
            limits: `trust_window_seconds` and what bounds the memory.

        Raises:
            ArgumentInvalid: not a mesh name, or not a score.
        """
        if not is_mesh_name(mesh):
            raise ArgumentInvalid("mesh")
        if type(default_score) is not int or not 0 <= default_score <= SCORE_MAX:
            raise ArgumentInvalid("default_score")
        self.mesh = mesh
        self.generation = 0
        self._default = default_score
        self._limits = limits or Limits()
        self._issuers: set[bytes] = set()
        self._subjects: dict[bytes, _Subject] = {}

    def believe(self, issuer: IdentityKey) -> None:
        """Take updates of this issuer from now on."""
        if not isinstance(issuer, IdentityKey):
            raise ArgumentInvalid("issuer")
        self._issuers.add(issuer.raw)

    def disbelieve(self, issuer: IdentityKey) -> None:
        """Take no more updates of this issuer; what it moved before stays."""
        self._issuers.discard(issuer.raw)

    def score(self, identity: IdentityKey | bytes) -> int:
        """Return the score of an identity (its key, or the 32 raw bytes), the default for one never heard of."""
        raw = identity.raw if isinstance(identity, IdentityKey) else identity
        subject = self._subjects.get(raw)
        return self._default if subject is None else subject.score

    @property
    def _window_ms(self) -> int:
        return self._limits.trust_window_seconds * 1000

    def apply(self, statement: bytes, *, now_ms: int) -> TrustUpdate:
        """Take a signed update, and return it. The score of its subject is `score` from then on. Section 9.

        Raises:
            RemoteError: not a trust update, or not acceptable; see `verify_trust`.
            StatementUnfit: its issuer is not believed.
            StatementStale: seen before, replaced, from the future, or older than the window.
            TrustFull: the memory for updates of this kind is full; nothing was taken.
        """
        update = verify_trust(statement, mesh=self.mesh)
        if update.issuer.raw not in self._issuers:
            raise StatementUnfit
        horizon_ms = now_ms - self._window_ms
        if not horizon_ms <= update.time_ms <= now_ms + CLOCK_TOLERANCE_MS:
            raise StatementStale
        raw = update.subject.raw
        subject = self._subjects.get(raw)
        if subject is None:
            if len(self._subjects) >= self._limits.trust_subjects:
                raise TrustFull
            subject = _Subject(self._default)
        self._check_new(subject, update, horizon_ms)
        self._subjects[raw] = subject
        subject.settle(horizon_ms, self._window_ms)
        for key in [key for key in subject.updates if key[1:] == (update.issuer.raw, update.sequence)]:
            del subject.updates[key]
        subject.updates[update.time_ms, update.issuer.raw, update.sequence] = (update.signal, update.digest)
        subject.refold(self._window_ms)
        self.generation += 1
        return update

    def _check_new(self, subject: _Subject, update: TrustUpdate, horizon_ms: int) -> None:
        issuer = update.issuer.raw
        if update.sequence <= subject.floors.get(issuer, -1):
            raise StatementStale
        own = 0
        for (time_ms, who, sequence), (_, digest) in subject.updates.items():
            if who != issuer:
                continue
            own += time_ms >= horizon_ms
            # Two updates with one sequence are the issuer's fraud; the smaller digest counts, whichever came first.
            if sequence == update.sequence and update.digest >= digest:
                raise StatementStale
        if own >= self._limits.trust_updates_per_issuer:
            raise TrustFull

    # --- at rest -----------------------------------------------------------------------------------------------------

    def export_state(self) -> bytes:
        """Return the whole ledger as canonical bytes. A store seals them: whoever can alter them sets scores."""
        subjects = [
            [
                raw,
                subject.base,
                [[issuer, sequence] for issuer, sequence in sorted(subject.floors.items())],
                [[time_ms, issuer, amount + SCORE_MAX] for time_ms, issuer, amount in subject.moved],
                [[*key, signal + SCORE_MAX, digest] for key, (signal, digest) in sorted(subject.updates.items())],
            ]
            for raw, subject in sorted(self._subjects.items())
        ]
        fields: list[Any] = [
            _VERSION,
            self.mesh,
            self.generation,
            self._default,
            self._limits.trust_window_seconds,
            sorted(self._issuers),
            subjects,
        ]
        return _wire.encode(fields)

    @classmethod
    def restore(cls, exported: bytes, *, at_least_generation: int = 0, limits: Limits | None = None) -> TrustLedger:
        """Return the ledger that `export_state` wrote. A damaged one is an error, never an empty ledger.

        Args:
            exported: The bytes.
            at_least_generation: The `generation` that is known from elsewhere: an older ledger is refused.
            limits: As for a new ledger; the window must be the one it was kept with.

        Raises:
            StateMalformed: damaged, of another window, or older than it may be.
            StateVersionUnknown: written by a newer release.
        """
        version_unknown = False
        try:
            version, mesh, generation, default, window_seconds, issuers, subjects = _wire.decode(
                exported, _LEDGER, _MAX_BYTES
            )
            version_unknown = version != _VERSION
            ledger = cls(mesh, default_score=default, limits=limits)
            if version_unknown or generation < at_least_generation:
                raise Malformed
            if window_seconds != ledger._limits.trust_window_seconds:
                raise Malformed
            ledger.generation = generation
            ledger._issuers = set(issuers)
            for fields in subjects:
                ledger._restore_subject(*fields)
            return ledger
        except AgentMeshError:
            pass
        raise StateVersionUnknown if version_unknown else StateMalformed

    def _restore_subject(self, raw: bytes, base: int, floors: list[Any], moved: list[Any], updates: list[Any]) -> None:
        if raw in self._subjects:
            raise Malformed
        subject = _Subject(base)
        subject.floors = dict(floors)
        subject.moved = [(time_ms, issuer, amount - SCORE_MAX) for time_ms, issuer, amount in moved]
        subject.updates = {
            (time_ms, issuer, sequence): (signal - SCORE_MAX, digest)
            for time_ms, issuer, sequence, signal, digest in updates
        }
        subject.refold(self._window_ms)
        self._subjects[raw] = subject

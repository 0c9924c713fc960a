"""The trust ledger: scores that change only by signed updates of issuers it was told to believe (section 9).

A score is a function of the *set* of updates that the ledger took in time, never of the order in which they came:
`subject` has the theory. A subject that the ledger holds is never altered: an update is worked into a copy, which then
takes its place. So a score is always that of one whole set of updates, whoever reads it and whatever breaks an update
off.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, final

from agentmesh.at_rest import MANY, StateKind, require, restore_fields
from agentmesh.envelope import mesh_argument
from agentmesh.errors import ArgumentInvalid, StatementStale, StatementUnfit, TrustFull
from agentmesh.identity import IdentityKey
from agentmesh.limits import CLOCK_TOLERANCE_MS, SCORE_MAX, SIGNAL_MAX, Limits
from agentmesh.primitives import _wire
from agentmesh.primitives.arguments import limits_argument, uint_argument
from agentmesh.trust.arguments import key_argument, raw_key
from agentmesh.trust.revocation import RevocationList, revocations_argument
from agentmesh.trust.statements import TrustUpdate, verify_trust
from agentmesh.trust.steps import Stepwise
from agentmesh.trust.subject import SUBJECT_FIELDS, Grid, Subject, Voice

# Default score, window in seconds, issuers, subjects.
_LEDGER: Final = _wire.array(
    _wire.Uint(SCORE_MAX), _wire.Uint(), _wire.ArrayOf(_wire.Bin(32), MANY), _wire.ArrayOf(SUBJECT_FIELDS, MANY)
)


@final
class TrustLedger(Stepwise):
    """Scores of identities, 0 to 1000, in one mesh.

    It has no clock: the caller brings the time. Safe to use from several threads; a child of a fork gets `ForkedChild`.
    A call that was broken off did nothing or all, and can be made again.

    Attributes:
        mesh: The mesh that updates must be for.
        generation: How often it changed. Keep it elsewhere too, to notice an older ledger that was put back.
    """

    _KIND: ClassVar = StateKind.LEDGER
    __slots__ = ("_default", "_grid", "_issuers", "_limits", "_revocations", "_subjects", "mesh")

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
        super().__init__()
        self.mesh: str = mesh_argument("mesh", mesh)
        self._default = uint_argument("default_score", default_score, SCORE_MAX)
        self._limits = limits_argument(limits)
        self._grid = Grid.of(self._window_ms)
        self._revocations = revocations_argument(revocations, self.mesh)
        self._issuers: set[bytes] = set()
        self._subjects: dict[bytes, Subject] = {}

    def __len__(self) -> int:
        self._ready()
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
        raw = key_argument("issuer", issuer).raw
        self._ready()
        with self._lock:
            self._finish()
            if raw not in self._issuers:
                self._change(lambda: self._issuers.add(raw))

    def disbelieve(self, issuer: IdentityKey, *, take_back: bool = False) -> None:
        """Take no more updates of this issuer.

        Args:
            issuer: Whom.
            take_back: Undo what it moved by updates that are not settled, about a window's. What is settled stays.

        Raises:
            ArgumentInvalid: not an `IdentityKey`.
        """
        raw = key_argument("issuer", issuer).raw
        self._ready()
        with self._lock:
            self._finish()
            changed: dict[bytes, Subject] = {}
            for about, known in self._subjects.items() if take_back else ():
                voice = known.voices.get(raw)
                if voice is not None and voice.updates:
                    changed[about] = subject = known.copied()
                    subject.count(raw, voice.taken_back(), self._grid)

            def write() -> None:
                self._issuers.discard(raw)
                self._subjects.update(changed)

            if changed or raw in self._issuers:
                self._change(write)

    def believes(self, issuer: IdentityKey | bytes) -> bool:
        """Say whether updates of this issuer are taken."""
        raw = raw_key(issuer)
        self._ready()
        return raw in self._issuers

    # --- scores ------------------------------------------------------------------------------------------------------

    def score(self, identity: IdentityKey | bytes) -> int:
        """Return the score of an identity (its key, or the 32 raw bytes), the default for one never heard of.

        Raises:
            ArgumentInvalid: neither.
        """
        raw = raw_key(identity)
        self._ready()
        subject = self._subjects.get(raw)
        return self._default if subject is None else subject.score

    def knows(self, identity: IdentityKey | bytes) -> bool:
        """Say whether an update about this identity was ever taken."""
        raw = raw_key(identity)
        self._ready()
        return raw in self._subjects

    def apply(self, statement: bytes, *, now_ms: int) -> TrustUpdate:
        """Take a signed update, and return it. The score of its subject is `score` from then on. Section 9.

        Raises:
            ArgumentInvalid: not bytes, or `now_ms` is no time.
            TooLarge, Malformed, UnknownVersion, BadIdentityKey, BadSignature: not a trust update, or not acceptable.
            StatementUnfit: of another mesh, about its own issuer, or its issuer is not believed.
            StatementStale: seen before, from the future, older than the window, or its sequence is spent.
            TrustFull: the memory for updates of this kind is full; nothing was taken.
        """
        uint_argument("now_ms", now_ms)
        self._ready()
        update = verify_trust(statement, mesh=self.mesh, may_count=self._may_count)
        if not now_ms - self._window_ms <= update.time_ms <= now_ms + CLOCK_TOLERANCE_MS:
            raise StatementStale
        with self._lock:
            self._finish()
            # Asked again, because its issuer may have been revoked while the signature was checked.
            if not self._may_count(update.issuer.raw, update.subject.raw):
                raise StatementUnfit
            self._take(update)
        return update

    def _may_count(self, issuer: bytes, _subject: bytes) -> bool:
        return issuer in self._issuers and (self._revocations is None or not self._revocations.is_revoked(issuer))

    def _take(self, update: TrustUpdate) -> None:
        grid, limits, about = self._grid, self._limits, update.subject.raw
        known = self._subjects.get(about)
        if known is None:
            if len(self._subjects) >= limits.trust_subjects:
                raise TrustFull
            known = Subject(self._default)
        if update.time_ms // grid.slot_ms < known.horizon:
            raise StatementStale  # only after the clock was set back
        voice = known.voices.get(update.issuer.raw)
        if voice is None:
            voice = Voice()
        held = (update.time_ms, max(-SIGNAL_MAX, min(SIGNAL_MAX, update.signal)), update.digest)
        beaten = voice.beaten_by(update.sequence, held, grid.slot_ms)
        if beaten is None:
            raise StatementStale
        if len(voice.updates) - len(beaten) >= limits.trust_updates_per_issuer:
            raise TrustFull
        subject = known.copied()
        subject.count(update.issuer.raw, voice.taking(update.sequence, held, beaten), grid)
        # What may still come is at most a window older than the newest that a clock ahead by the tolerance allows.
        oldest_ms = update.time_ms - CLOCK_TOLERANCE_MS - self._window_ms
        subject.settle(oldest_ms // grid.slot_ms, grid)

        def write() -> None:
            self._subjects[about] = subject

        self._change(write)

    def inherit(self, old: IdentityKey, new: IdentityKey) -> None:
        """Let a new identity begin with the score of the old one, which keeps its own record. See `Successions`.

        Raises:
            ArgumentInvalid: not two identities, one of them is revoked, or the new one has a record of its own.
            TrustFull: no room for another subject.
        """
        for name, key in (("old", old), ("new", new)):
            key_argument(name, key)
            if self._revocations is not None and self._revocations.is_revoked(key):
                raise ArgumentInvalid(name, "was revoked")
        self._ready()
        with self._lock:
            self._finish()
            if old == new or new.raw in self._subjects:
                raise ArgumentInvalid("new", "has a record of its own")
            known = self._subjects.get(old.raw)
            if known is None:
                return
            if len(self._subjects) >= self._limits.trust_subjects:
                raise TrustFull
            heir = Subject(known.score)
            heir.heir_of = old.raw

            def write() -> None:
                self._subjects[new.raw] = heir

            self._change(write)

    def has_inherited(self, old: IdentityKey, new: IdentityKey) -> bool:
        """Say whether the new identity began with the old one's score while this process lives.

        Raises:
            ArgumentInvalid: not identities.
        """
        old_raw, new_raw = key_argument("old", old).raw, key_argument("new", new).raw
        self._ready()
        subject = self._subjects.get(new_raw)
        return subject is not None and subject.heir_of == old_raw

    # --- at rest -----------------------------------------------------------------------------------------------------

    def _fields(self) -> list[Any]:
        subjects = [[raw, *subject.fields()] for raw, subject in sorted(self._subjects.items())]
        return [self._default, self._limits.trust_window_seconds, sorted(self._issuers), subjects]

    def _restored(self, exported: bytes) -> TrustLedger:
        ledger = self.restore(exported, limits=self._limits, revocations=self._revocations)
        if ledger.default_score != self._default:
            raise ArgumentInvalid("default_score", "another than the ledger's that is kept")
        return ledger

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

        def build(exported: bytes, mesh: str, generation: int, fields: list[Any]) -> tuple[TrustLedger, int]:
            default, window_seconds, issuers, subjects = fields
            # A ledger is built with its own window; whether the caller's is the same is asked below.
            ledger = cls(mesh, default_score=default, limits=limits)
            if window_seconds == limits.trust_window_seconds:
                ledger._generation = generation
                ledger._issuers = set(issuers)
                ledger._subjects = {raw: Subject.restored(ledger._grid, *rest) for raw, *rest in subjects}
                require(ledger.export_state() == exported)
            return ledger, window_seconds

        ledger, window_seconds = restore_fields(
            StateKind.LEDGER, (_LEDGER,), exported, build, at_least_generation=at_least_generation
        )
        if window_seconds != limits.trust_window_seconds:
            raise ArgumentInvalid("limits", "another window", limits.trust_window_seconds, window_seconds)
        ledger._revocations = revocations_argument(revocations, ledger.mesh)
        return ledger

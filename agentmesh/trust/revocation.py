"""Revocations: signed, monotonic, asked at use (section 9).

An identity may revoke itself; an authority that the list was told to believe may revoke anybody. Nothing takes a
revocation back: an identity that was revoked in error takes a new key. The list keeps the signed statements, so that
it can be handed on, and so that a restored one is verified again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, final

from agentmesh.at_rest import MANY, StateKind, require, restore_fields
from agentmesh.envelope import mesh_argument
from agentmesh.errors import ArgumentInvalid, StatementStale, StatementUnfit, TrustFull
from agentmesh.identity import IdentityKey
from agentmesh.limits import Limits
from agentmesh.primitives import _wire
from agentmesh.primitives.arguments import bytes_argument, limits_argument
from agentmesh.trust.arguments import key_argument, raw_key
from agentmesh.trust.statements import STATEMENT_MAX_BYTES, Revocation, verify_revocation
from agentmesh.trust.steps import Stepwise

_STATEMENTS: Final = _wire.ArrayOf(_wire.Bin(1, STATEMENT_MAX_BYTES), MANY)
# Authorities, statements, statements of strangers.
_LIST: Final = _wire.array(_wire.ArrayOf(_wire.Bin(32), MANY), _STATEMENTS, _STATEMENTS)


@final
class RevocationList(Stepwise):
    """Who is revoked, in one mesh.

    Safe to use from several threads; a child of a fork gets `ForkedChild`. A call that was broken off did nothing or
    all, and can be made again.

    Attributes:
        mesh: The mesh that revocations must be for.
        generation: How often it changed. Keep it elsewhere too, to notice an older list that was put back.
    """

    _KIND: ClassVar = StateKind.REVOCATIONS
    __slots__ = ("_authorities", "_is_known", "_limits", "_revoked", "_strangers", "mesh")

    def __init__(
        self, mesh: str, *, limits: Limits | None = None, is_known: Callable[[bytes], bool] | None = None
    ) -> None:
        """Make an empty list.

        Args:
            mesh: The mesh's name.
            limits: `revocations` bounds the memory, `reserved_one_in` says which part of it strangers cannot fill.
            is_known: Says of a key, 32 bytes, whether this identity matters here. Others may revoke themselves too, but
                cannot fill the list: identities are free. It is asked when a revocation is taken, and not again.

        Raises:
            ArgumentInvalid: not a mesh name, not `Limits`, or `is_known` cannot be called.
        """
        if is_known is not None and not callable(is_known):
            raise ArgumentInvalid("is_known", "cannot be called")
        super().__init__()
        self.mesh: str = mesh_argument("mesh", mesh)
        self._limits = limits_argument(limits)
        self._is_known = is_known
        self._authorities: set[bytes] = set()
        self._revoked: dict[bytes, bytes] = {}  # subject -> statement
        self._strangers: set[bytes] = set()  # subjects who were strangers when they revoked themselves

    def __len__(self) -> int:
        self._ready()
        return len(self._revoked)

    def believe(self, authority: IdentityKey) -> None:
        """Let this identity revoke others from now on.

        Raises:
            ArgumentInvalid: not an `IdentityKey`.
        """
        raw = key_argument("authority", authority).raw
        self._ready()
        with self._lock:
            self._finish()
            if raw not in self._authorities:
                self._change(lambda: self._authorities.add(raw))

    def disbelieve(self, authority: IdentityKey) -> None:
        """Take no more revocations of others from this identity. Those that were taken stay.

        Raises:
            ArgumentInvalid: not an `IdentityKey`.
        """
        raw = key_argument("authority", authority).raw
        self._ready()
        with self._lock:
            self._finish()
            if raw in self._authorities:
                self._change(lambda: self._authorities.discard(raw))

    def apply(self, statement: bytes) -> Revocation:
        """Take a signed revocation, and return it. It holds at once, and whatever its time says.

        Raises:
            ArgumentInvalid: not bytes.
            TooLarge, Malformed, UnknownVersion, BadIdentityKey, BadSignature: not a revocation, or not acceptable.
            StatementUnfit: of another mesh, or its issuer may not revoke this identity.
            StatementStale: the identity is revoked already.
            TrustFull: strangers' revocations have filled their part of the list, or all have filled the whole.
        """
        statement = bytes_argument("statement", statement)
        self._ready()
        revocation = verify_revocation(statement, mesh=self.mesh, may_count=self._may_count)
        issuer, subject = revocation.issuer.raw, revocation.subject.raw
        with self._lock:
            self._finish()
            self._check_new(issuer, subject)
        # Not under the lock, because the answer may come from what asks this list.
        known = self._is_acquaintance(subject)
        with self._lock:
            self._finish()
            # Asked again, because its issuer may have been revoked in the meantime.
            self._check_new(issuer, subject)
            most, stranger = self._limits.revocations, not known and issuer not in self._authorities
            reserved = most // self._limits.reserved_one_in
            if len(self._revoked) >= most or (stranger and len(self._strangers) >= most - reserved):
                raise TrustFull

            def write() -> None:
                self._revoked[subject] = statement
                if stranger:
                    self._strangers.add(subject)

            self._change(write)
        return revocation

    def _check_new(self, issuer: bytes, subject: bytes) -> None:
        if not self._may_count(issuer, subject):
            raise StatementUnfit
        if subject in self._revoked:
            raise StatementStale

    def _may_count(self, issuer: bytes, subject: bytes) -> bool:
        # Whoever stole an authority's key must not go on revoking once the authority has revoked itself.
        return issuer == subject or (issuer in self._authorities and issuer not in self._revoked)

    def _is_acquaintance(self, subject: bytes) -> bool:
        try:
            return self._is_known is not None and self._is_known(subject) is True
        except Exception:
            return False

    def is_revoked(self, identity: IdentityKey | bytes) -> bool:
        """Say whether this identity (its key, or the 32 raw bytes) is revoked.

        Raises:
            ArgumentInvalid: neither.
        """
        raw = raw_key(identity)
        self._ready()
        return raw in self._revoked

    def statements(self) -> tuple[bytes, ...]:
        """Return the signed revocations, to hand on: whoever takes them verifies them again."""
        self._ready()
        with self._lock:
            self._finish()
            return tuple(self._revoked.values())

    # --- at rest -----------------------------------------------------------------------------------------------------

    def _fields(self) -> list[Any]:
        others = self._revoked.keys() - self._strangers
        return [
            sorted(self._authorities),
            *([self._revoked[subject] for subject in sorted(part)] for part in (others, self._strangers)),
        ]

    def _restored(self, exported: bytes) -> RevocationList:
        return self.restore(exported, limits=self._limits, is_known=self._is_known)

    @classmethod
    def restore(
        cls,
        exported: bytes,
        *,
        at_least_generation: int = 0,
        limits: Limits | None = None,
        is_known: Callable[[bytes], bool] | None = None,
    ) -> RevocationList:
        """Return the list that `export_state` wrote, every signature verified again.

        Args:
            exported: The bytes.
            at_least_generation: The `generation` that is known from elsewhere: an older list is refused.
            limits: As for a new list.
            is_known: As for a new list.

        Raises:
            ArgumentInvalid: an argument of another type or range.
            StateStale: older than it may be.
            StateVersionUnknown: written by a newer release.
            StateMalformed: damaged, or fields that contradict one another. Never an empty list.
        """

        def build(exported: bytes, mesh: str, generation: int, fields: list[Any]) -> RevocationList:
            restored = cls(mesh, limits=limits, is_known=is_known)
            authorities, *parts = fields
            restored._generation = generation
            restored._authorities = set(authorities)
            # Who was a stranger is not asked again: authorities and acquaintances may have changed since.
            for stranger, statement in ((place, statement) for place in (False, True) for statement in parts[place]):
                revocation = verify_revocation(statement, mesh=mesh)
                restored._revoked[revocation.subject.raw] = statement
                if stranger:
                    require(revocation.issuer == revocation.subject)
                    restored._strangers.add(revocation.subject.raw)
            require(restored.export_state() == exported)
            return restored

        # Not in `build`, because a wrong argument is not a damaged state.
        cls("m", limits=limits, is_known=is_known)
        return restore_fields(StateKind.REVOCATIONS, (_LIST,), exported, build, at_least_generation=at_least_generation)


def revocations_argument(revocations: RevocationList | None, mesh: str) -> RevocationList | None:
    """Return `revocations`.

    Raises:
        ArgumentInvalid: not a `RevocationList`, or one of another mesh, which would revoke nobody here.
    """
    if revocations is not None and not isinstance(revocations, RevocationList):
        raise ArgumentInvalid("revocations", "not a RevocationList")
    if revocations is not None and revocations.mesh != mesh:
        raise ArgumentInvalid("revocations", "of another mesh")
    return revocations

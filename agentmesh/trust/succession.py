"""Identity rotation: who goes on as whom, once the application has said so (section 9).

A continuity statement is an offer: the old identity says that it goes on as a new one, and the new one agrees. Nothing
follows from it until the application follows. Whoever has stolen an old key can make such an offer too: two offers of
one old identity with different successors are shown side by side, and are a reason to ask by another way.

Names are the application's own words for its peers. Another key under a known name is an error until it was accepted.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, final

from agentmesh.at_rest import MANY, StateKind, require, restore_fields
from agentmesh.envelope import mesh_argument
from agentmesh.errors import ArgumentInvalid, IdentityConflict, StatementStale, StatementUnfit, TrustFull
from agentmesh.identity import IdentityKey
from agentmesh.limits import CLOCK_TOLERANCE_MS
from agentmesh.primitives import _wire
from agentmesh.primitives.arguments import bytes_argument, plain_text, text_argument, uint_argument
from agentmesh.trust.arguments import key_argument, raw_key
from agentmesh.trust.statements import STATEMENT_MAX_BYTES, Continuity, verify_continuity
from agentmesh.trust.steps import Stepwise

_OFFERS: Final = 8  # of one old identity: one is usual, two are a conflict, and more say nothing more
_NAME_MAX_BYTES: Final = 128

# Known: key, name or nil. Followed: old, new. Offers.
_SUCCESSIONS: Final = _wire.array(
    _wire.ArrayOf(_wire.array(_wire.Bin(32), _wire.Maybe(_wire.Text(1, _NAME_MAX_BYTES))), MANY),
    _wire.ArrayOf(_wire.array(_wire.Bin(32), _wire.Bin(32)), MANY),
    _wire.ArrayOf(_wire.Bin(1, STATEMENT_MAX_BYTES), MANY),
)


@final
class Successions(Stepwise):
    """The identities that this application knows, by name if it likes, and who went on as whom.

    Only known identities can offer a successor, so strangers fill nothing. Safe to use from several threads; a child of
    a fork gets `ForkedChild`. A call that was broken off did nothing or all, and can be made again.

    Attributes:
        mesh: The mesh that statements must be for.
        generation: How often it changed. Keep it elsewhere too, to notice an older state that was put back.
    """

    _KIND: ClassVar = StateKind.SUCCESSIONS
    __slots__ = ("_by_name", "_followed", "_known", "_offers", "_successors", "mesh")

    def __init__(self, mesh: str) -> None:
        """Begin with nobody known.

        Raises:
            ArgumentInvalid: not a mesh name.
        """
        super().__init__()
        self.mesh: str = mesh_argument("mesh", mesh)
        self._known: dict[bytes, str | None] = {}
        self._by_name: dict[str, bytes] = {}
        self._followed: dict[bytes, bytes] = {}  # old -> new
        self._successors: set[bytes] = set()
        self._offers: dict[bytes, dict[bytes, tuple[Continuity, bytes]]] = {}  # old -> new -> (continuity, statement)

    # --- whom one knows ----------------------------------------------------------------------------------------------

    def know(self, key: IdentityKey, name: str | None = None) -> None:
        """Know an identity from now on, under a name if it has one.

        Raises:
            ArgumentInvalid: not an `IdentityKey`, a name that is none, or an identity that was retired.
            IdentityConflict: the name is another identity's, or the identity has another name.
        """
        raw = key_argument("key", key).raw
        if name is not None:
            name = text_argument("name", name, 1, _NAME_MAX_BYTES)
        self._ready()
        with self._lock:
            self._finish()
            if raw in self._followed:
                raise ArgumentInvalid("key", "was retired")
            held = self._known.get(raw)
            if name is None or held == name:
                if raw in self._known:
                    return
            elif held is not None or name in self._by_name:
                raise IdentityConflict

            def write() -> None:
                self._known[raw] = name
                if name is not None:
                    self._by_name[name] = raw

            self._change(write)

    def check(self, name: str, key: IdentityKey) -> IdentityKey:
        """Return `key` if it is the one that is known under this name.

        Raises:
            ArgumentInvalid: not an `IdentityKey`, or nobody is known under this name.
            IdentityConflict: another key: refuse it until a succession was accepted.
        """
        key_argument("key", key)
        self._ready()
        name = plain_text(name)
        known = self._by_name.get(name) if type(name) is str else None
        if known is None:
            raise ArgumentInvalid("name", "nobody is known by it")
        if known != key.raw:
            raise IdentityConflict
        return key

    # --- who goes on as whom -----------------------------------------------------------------------------------------

    def offer(self, statement: bytes, *, now_ms: int) -> Continuity:
        """Take a continuity statement of a known identity, and return it. Nothing follows from it yet.

        Raises:
            ArgumentInvalid: not bytes, or `now_ms` is no time.
            TooLarge, Malformed, UnknownVersion, BadIdentityKey, BadSignature: not a continuity, or not acceptable.
            StatementUnfit: of another mesh, or of an identity that is not known or was retired; or its successor
                was retired, succeeds another, or has a name of its own.
            StatementStale: from the future, or not later than one of the same two identities.
            TrustFull: the old identity has offered too many successors already.
        """
        statement = bytes_argument("statement", statement)
        uint_argument("now_ms", now_ms)
        self._ready()
        continuity = verify_continuity(statement, mesh=self.mesh, may_count=self._may_offer)
        if continuity.time_ms > now_ms + CLOCK_TOLERANCE_MS:
            raise StatementStale
        with self._lock:
            self._finish()
            if not self._may_offer(continuity.issuer.raw, continuity.subject.raw):
                raise StatementUnfit
            self._put(continuity, statement)
        return continuity

    def _may_offer(self, old: bytes, new: bytes) -> bool:
        return (
            old in self._known
            and new not in self._followed
            and new not in self._successors
            and self._known.get(new) is None
        )

    def _put(self, continuity: Continuity, statement: bytes) -> None:
        old, new = continuity.issuer.raw, continuity.subject.raw
        offers = self._offers.get(old, {})
        if new in offers:
            held = offers[new][0]
            # One identity offered again: the higher sequence stands, of equal ones the smaller digest.
            if (continuity.sequence, held.digest) <= (held.sequence, continuity.digest):
                raise StatementStale
        elif len(offers) >= _OFFERS:
            raise TrustFull

        def write() -> None:
            self._offers.setdefault(old, {})[new] = (continuity, statement)

        self._change(write)

    def offers(self, old: IdentityKey) -> tuple[Continuity, ...]:
        """Return what an identity offers; more than one is a conflict, and perhaps a theft.

        Raises:
            ArgumentInvalid: not an `IdentityKey`.
        """
        raw = key_argument("old", old).raw
        self._ready()
        with self._lock:
            self._finish()
            found = self._offers.get(raw, {})
            return tuple(found[new][0] for new in sorted(found))

    def check_follow(self, old: IdentityKey, new: IdentityKey) -> None:
        """Say whether `follow` would accept this successor.

        Raises:
            ArgumentInvalid: not identities, or not offered, or no longer possible.
        """
        old_raw, new_raw = key_argument("old", old).raw, key_argument("new", new).raw
        self._ready()
        with self._lock:
            self._finish()
            if new_raw not in self._offers.get(old_raw, {}) or not self._may_offer(old_raw, new_raw):
                raise ArgumentInvalid("new", "not offered, or no longer possible")

    def follow(self, old: IdentityKey, new: IdentityKey) -> None:
        """Accept a successor that was offered: it takes the name over, and the old identity is retired for good.

        Raises:
            ArgumentInvalid: as `check_follow`.
        """
        self._ready()
        with self._lock:
            self.check_follow(old, new)
            old_raw, new_raw = old.raw, new.raw
            name = self._known[old_raw]

            def write() -> None:
                self._known[new_raw] = name
                self._known.pop(old_raw, None)
                if name is not None:
                    self._by_name[name] = new_raw
                self._followed[old_raw] = new_raw
                self._successors.add(new_raw)
                self._offers.pop(old_raw, None)

            self._change(write)

    def is_followed(self, old: IdentityKey, new: IdentityKey) -> bool:
        """Say whether the application follows the new identity in the place of the old one.

        Raises:
            ArgumentInvalid: not identities.
        """
        old_raw, new_raw = key_argument("old", old).raw, key_argument("new", new).raw
        self._ready()
        return self._followed.get(old_raw) == new_raw

    def is_retired(self, identity: IdentityKey | bytes) -> bool:
        """Say whether the application follows another identity in the place of this one.

        Raises:
            ArgumentInvalid: neither an `IdentityKey` nor 32 bytes.
        """
        raw = raw_key(identity)
        self._ready()
        return raw in self._followed

    def current(self, identity: IdentityKey) -> IdentityKey:
        """Return the identity that this one goes on as: itself, unless it was retired.

        Raises:
            ArgumentInvalid: not an `IdentityKey`.
        """
        raw = key_argument("identity", identity).raw
        self._ready()
        with self._lock:
            self._finish()
            newest: bytes = raw
            while newest in self._followed:
                newest = self._followed[newest]
        return identity if newest == raw else IdentityKey(newest)

    # --- at rest -----------------------------------------------------------------------------------------------------

    def _fields(self) -> list[Any]:
        statements = [
            statement for _, found in sorted(self._offers.items()) for _, (_, statement) in sorted(found.items())
        ]
        return [
            [[raw, name] for raw, name in sorted(self._known.items())],
            [[old, new] for old, new in sorted(self._followed.items())],
            statements,
        ]

    def _restored(self, exported: bytes) -> Successions:
        return self.restore(exported)

    @classmethod
    def restore(cls, exported: bytes, *, at_least_generation: int = 0) -> Successions:
        """Return what `export_state` wrote; offers are verified again.

        Raises:
            StateStale: older than it may be.
            StateVersionUnknown: written by a newer release.
            StateMalformed: damaged, or fields that contradict one another.
        """

        def build(exported: bytes, mesh: str, generation: int, fields: list[Any]) -> Successions:
            restored = cls(mesh)
            known, followed, statements = fields
            for raw, name in known:
                IdentityKey(raw)
                require(name is None or name not in restored._by_name)
                restored._known[raw] = name
                if name is not None:
                    restored._by_name[name] = raw
            restored._followed = dict(followed)
            restored._successors = set(restored._followed.values())
            restored._check_chains()
            for statement in statements:
                # What can no longer be followed was offered all the same.
                restored._put(
                    verify_continuity(statement, mesh=mesh, may_count=lambda old, _: old in restored._known), statement
                )
            restored._generation = generation
            require(restored.export_state() == exported)
            return restored

        return restore_fields(
            StateKind.SUCCESSIONS, (_SUCCESSIONS,), exported, build, at_least_generation=at_least_generation
        )

    def _check_chains(self) -> None:
        # Each chain of successors ends at somebody known, none goes in a circle, and no two meet.
        require(len(self._successors) == len(self._followed) and not self._followed.keys() & self._known.keys())
        sound: set[bytes] = set()
        for old in self._followed:
            chain: set[bytes] = set()
            while old in self._followed and old not in sound:
                require(old not in chain)
                chain.add(old)
                old = self._followed[old]
            require(old in sound or old in self._known)
            sound |= chain

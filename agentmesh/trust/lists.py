"""AdmissionLists: whom an owner lets in and whom not, and what strangers have used up: what a policy knows by itself.

A policy has lists of its own, in memory. Given these it answers by them, and a store can keep them.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, final

from agentmesh.at_rest import MANY, StateKind, require, restore_fields
from agentmesh.envelope import mesh_argument
from agentmesh.identity import IdentityKey
from agentmesh.primitives import _wire
from agentmesh.primitives.arguments import uint_argument
from agentmesh.primitives.buckets import Buckets
from agentmesh.trust.arguments import raw_key
from agentmesh.trust.roster import Listed, Roster, listed_argument, listed_did
from agentmesh.trust.steps import Stepwise

_DID_MAX_BYTES: Final = 128
_ROSTER: Final = _wire.array(
    _wire.ArrayOf(_wire.Bin(32), MANY), _wire.ArrayOf(_wire.Text(1, _DID_MAX_BYTES), MANY)
)  # keys, DIDs
# Allowed, blocked, what strangers owe of the hour's one-time bundles, and when they did.
_LISTS: Final = _wire.array(_ROSTER, _ROSTER, _wire.Uint(), _wire.Uint())


@final
class AdmissionLists(Stepwise):
    """The allow list and the block list of an `AdmissionPolicy`, by key or DID.

    Safe to use from several threads; a child of a fork gets `ForkedChild`. A call that was broken off did nothing or
    all, and can be made again.

    Attributes:
        mesh: The mesh of the policy that decides by them.
        generation: How often they changed. Keep it elsewhere too, to notice older lists that were put back.
    """

    _KIND: ClassVar = StateKind.LISTS
    __slots__ = ("_allowed", "_blocked", "_owed", "mesh")

    def __init__(self, mesh: str) -> None:
        """Begin with nobody listed.

        Raises:
            ArgumentInvalid: not a mesh name.
        """
        super().__init__()
        self.mesh: str = mesh_argument("mesh", mesh)
        self._allowed, self._blocked = Roster(), Roster()
        self._owed = (0, 0)  # of the one-time budget, as `Buckets` counts; and when that was so

    # --- who is listed -----------------------------------------------------------------------------------------------

    def allow(self, identity: Listed) -> None:
        """Let an identity pass the threshold from now on, unless it is blocked.

        Raises:
            ArgumentInvalid: neither a key, nor 32 bytes, nor a DID. As in the three calls below.
        """
        self._add(self._allowed, identity)

    def disallow(self, identity: Listed) -> None:
        """Take an identity off the allow list.

        Its key takes off whatever it was listed by. A DID does too, but for the key's other DID alone.
        """
        self._remove(self._allowed, identity)

    def block(self, identity: Listed) -> None:
        """Deny an identity everything from now on."""
        self._add(self._blocked, identity)

    def unblock(self, identity: Listed) -> None:
        """Take an identity off the block list, as `disallow` does off the other."""
        self._remove(self._blocked, identity)

    def is_allowed(self, identity: IdentityKey | bytes) -> bool:
        """Say whether this identity (its key, or the 32 raw bytes) is on the allow list.

        Raises:
            ArgumentInvalid: neither.
        """
        raw = raw_key(identity)
        self._ready()
        return raw in self._allowed

    def is_blocked(self, identity: IdentityKey | bytes) -> bool:
        """Say whether this identity (its key, or the 32 raw bytes) is on the block list.

        Raises:
            ArgumentInvalid: neither.
        """
        raw = raw_key(identity)
        self._ready()
        return raw in self._blocked

    def _add(self, roster: Roster, identity: Listed) -> None:
        self._ready()
        name = listed_argument(identity)
        with self._lock:
            self._finish()
            if not roster.holds(name):
                self._change(lambda: roster.add(name))

    def _remove(self, roster: Roster, identity: Listed) -> None:
        self._ready()
        name = listed_argument(identity)
        with self._lock:
            self._finish()
            names = roster.names(name)
            if names:
                self._change(lambda: roster.remove(names))

    # --- what strangers have used up ---------------------------------------------------------------------------------

    def _owe(self, ration: Buckets) -> None:
        """Let a new ration begin with what is owed."""
        self._ready()
        owed, at_ms = self._owed
        if owed:
            ration.owe(None, owed, at_ms)

    def _charge(self, ration: Buckets, now_ms: int) -> None:
        """Take from a ration, and remember it. A process that is killed in between has given one more."""
        uint_argument("now_ms", now_ms)
        self._ready()
        with self._lock:
            self._finish()
            if not ration.take(None, now_ms):
                return
            owed = (ration.owed(None), now_ms)

            def write() -> None:
                self._owed = owed

            self._change(write)

    # --- at rest -----------------------------------------------------------------------------------------------------

    def _fields(self) -> list[Any]:
        rosters = [[sorted(roster.keys), sorted(roster.dids)] for roster in (self._allowed, self._blocked)]
        return [*rosters, *self._owed]

    def _restored(self, exported: bytes) -> AdmissionLists:
        return self.restore(exported)

    @classmethod
    def restore(cls, exported: bytes, *, at_least_generation: int = 0) -> AdmissionLists:
        """Return what `export_state` wrote. Damaged lists are an error, never empty ones.

        Args:
            exported: The bytes.
            at_least_generation: The `generation` that is known from elsewhere: older lists are refused.

        Raises:
            ArgumentInvalid: an argument of another type or range.
            StateStale: older than they may be.
            StateVersionUnknown: written by a newer release.
            StateMalformed: damaged, or fields that contradict one another.
        """

        def build(exported: bytes, mesh: str, generation: int, fields: list[Any]) -> AdmissionLists:
            lists = cls(mesh)
            allowed, blocked, *owed = fields
            for _, dids in (allowed, blocked):
                for did in dids:
                    listed_did(did)
            lists._generation = generation
            lists._allowed, lists._blocked = Roster(*allowed), Roster(*blocked)
            lists._owed = (owed[0], owed[1])
            require(lists.export_state() == exported)
            return lists

        return restore_fields(StateKind.LISTS, (_LISTS,), exported, build, at_least_generation=at_least_generation)

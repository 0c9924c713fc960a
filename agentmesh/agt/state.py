"""The state of an agent that speaks AGT's protocol, and the changes that are the only way to alter it.

All that it holds are values, each replaced whole: so a change says what is to stand under a name from now on, and the
row that a store writes is that value. As everywhere, applying a change again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, final

from attrs import frozen

from agentmesh.agt.conversation import AgtHeld, AgtSession, Candidate, sends_before
from agentmesh.agt.prekeys import Prekey
from agentmesh.agt_identity import AgtIdentity
from agentmesh.engine.inbox import Inbox
from agentmesh.primitives.keys import Redacted, SessionId


@frozen
class Stock:
    """What was made of prekeys so far.

    Attributes:
        next_signed: The number of the next signed prekey.
        next_one_time: The number of the next one-time prekey.
        first_listed: The number of the first one-time prekey of the last upload: earlier ones are on no shelf.
    """

    next_signed: int = 0
    next_one_time: int = 0
    first_listed: int = 0


class AgtState(Redacted):
    """All that such an agent must not lose.

    Attributes:
        identity: Its identity in AGT's mesh.
        mesh: What its audit records and its policy call that mesh.
        generation: How many steps have changed it. Raised by the seam alone.
        has_policy: It was given a policy of its own, and is not to be restored without one by mistake.
        stock: What was made of prekeys.
        prekeys: Those whose secrets are kept, by name.
        held: Sessions and candidates, by session id, oldest first.
        known: KNOCKs that were proved, without a one-time prekey: by session id, the signed prekey that each used. A
            copy of one would open again for as long as that prekey is there.
        inbox: What the application has not done with.
    """

    __slots__ = (
        "_by_did", "_candidates", "generation", "has_policy", "held", "identity", "inbox", "known", "mesh", "prekeys",
        "stock",
    )  # fmt: skip

    def __init__(self, identity: AgtIdentity, mesh: str) -> None:
        self.identity: AgtIdentity = identity
        self.mesh: str = mesh
        self.generation: int = 0
        self.has_policy: bool = False
        self.stock: Stock = Stock()
        self.prekeys: dict[bytes, Prekey] = {}
        self.held: dict[SessionId, AgtHeld] = {}
        self.known: dict[SessionId, int] = {}
        self.inbox: Inbox = Inbox()
        self._by_did: dict[str, dict[SessionId, None]] = {}
        self._candidates: dict[SessionId, Candidate] = {}  # few among many sessions, and each KNOCK looks at them

    # --- sessions ----------------------------------------------------------------------------------------------------

    def held_with(self, did: str) -> Iterator[AgtHeld]:
        """Yield the sessions and candidates with a peer, oldest first."""
        return (self.held[session_id] for session_id in self._by_did.get(did, ()))

    def sessions_with(self, did: str) -> list[AgtSession]:
        """Return the sessions with a peer; the one that sends first."""
        found = [held for held in self.held_with(did) if isinstance(held, AgtSession)]
        return sorted(found, key=sends_before)

    def candidates_of(self, did: str) -> list[Candidate]:
        """Return the KNOCKs of a peer that are no session yet, oldest first."""
        return [held for held in self.held_with(did) if isinstance(held, Candidate)]

    def candidates(self) -> list[Candidate]:
        """Return the KNOCKs of all peers that are no session yet, oldest first."""
        return [*self._candidates.values()]

    def hold(self, held: AgtHeld) -> None:
        """Hold a session or a candidate. For changes alone."""
        facts = held.facts
        self._by_did.setdefault(facts.peer.did, {})[facts.session_id] = None
        if isinstance(held, Candidate):
            self._candidates[facts.session_id] = held
        else:
            self._candidates.pop(facts.session_id, None)
        self.held[facts.session_id] = held

    def drop(self, session_id: SessionId) -> None:
        """Hold it no more. For changes alone."""
        held = self.held.get(session_id)
        if held is None:
            return
        of_peer = self._by_did.get(held.facts.peer.did, {})
        of_peer.pop(session_id, None)
        if not of_peer:
            self._by_did.pop(held.facts.peer.did, None)
        self._candidates.pop(session_id, None)
        del self.held[session_id]  # last, because it tells whether this is done

    # --- prekeys -----------------------------------------------------------------------------------------------------

    def signed_prekeys(self) -> list[Prekey]:
        """Return the signed prekeys, the newest first."""
        signed = [prekey for prekey in self.prekeys.values() if prekey.is_signed]
        return sorted(signed, key=lambda prekey: -prekey.number)

    @property
    def unused(self) -> int:
        """How many one-time prekeys of the last upload no KNOCK has used."""
        first = self.stock.first_listed
        return sum(not prekey.is_signed and prekey.number >= first for prekey in self.prekeys.values())


# --- changes ---------------------------------------------------------------------------------------------------------


class AgtChange(Protocol):
    """Something that a step alters: see `agentmesh.engine.state.Change`. Its rows are those of what it names."""

    def apply(self, state: AgtState, /) -> None:
        """Alter the state."""
        ...


@frozen
class Stocked:
    """So many prekeys were made by now."""

    stock: Stock

    def apply(self, state: AgtState, /) -> None:
        """Count on from there."""
        state.stock = self.stock


@frozen
class PrekeysPut:
    """KNOCKs may name these prekeys from now on."""

    prekeys: tuple[Prekey, ...]

    def apply(self, state: AgtState, /) -> None:
        """Keep their secrets."""
        for prekey in self.prekeys:
            state.prekeys[prekey.name] = prekey


@frozen
class PrekeysDropped:
    """These prekeys have served, or are past their time."""

    names: tuple[bytes, ...]

    def apply(self, state: AgtState, /) -> None:
        """Delete their secrets."""
        for name in self.names:
            state.prekeys.pop(name, None)


@final
class HeldPut(Redacted):
    """This is a session, or a candidate, from now on."""

    __slots__ = ("held",)

    def __init__(self, held: AgtHeld) -> None:
        self.held: AgtHeld = held

    def apply(self, state: AgtState, /) -> None:
        """Hold it, in the place of what had its id."""
        state.hold(self.held)


@frozen
class HeldDropped:
    """These are over."""

    session_ids: tuple[SessionId, ...]

    def apply(self, state: AgtState, /) -> None:
        """Let their keys go."""
        for session_id in self.session_ids:
            state.drop(session_id)


@frozen
class KnockKnown:
    """A KNOCK without a one-time prekey was proved on this signed prekey."""

    session_id: SessionId
    signed: int

    def apply(self, state: AgtState, /) -> None:
        """Remember it."""
        state.known[self.session_id] = self.signed


@frozen
class KnocksForgotten:
    """The signed prekeys of these KNOCKs are gone: none of them can open again."""

    session_ids: tuple[SessionId, ...]

    def apply(self, state: AgtState, /) -> None:
        """Forget them."""
        for session_id in self.session_ids:
            state.known.pop(session_id, None)

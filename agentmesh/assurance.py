"""What a session gives, and what is known of its other side.

Our own protocol gives all that `Guarantee` names, and AGT's almost none of it. Which of the two a session speaks is in
the peer's name, and which class of bundle it began with is kept anyway, so that nothing here has to be stored: a view,
an event and a policy derive the same from the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from agentmesh.handshake.prekeys import BundleClass
from agentmesh.identity import DID_PREFIX, IdentityKey


class Assurance(StrEnum):
    """What is known of the other side."""

    NONE = "none"  # this side has knocked and heard nothing
    SIGNED = "signed"  # the peer signed a KNOCK; that it holds the session's keys has not shown yet
    CONFIRMED = "confirmed"  # the peer has shown that it holds the session's keys


class Guarantee(StrEnum):
    """What a session may give, each in a word for settings and tables; `lost` says what goes wrong without it."""

    SIGNED_KNOCK = "signed-knock"
    SIGNED_VERDICT = "signed-verdict"
    SIGNED_BUNDLE = "signed-bundle"
    ONE_TIME_PREKEY = "one-time-prekey"
    POST_QUANTUM = "post-quantum"
    SEALED_INTENT = "sealed-intent"
    SEALED_HEADERS = "sealed-headers"
    PADDED_LENGTHS = "padded-lengths"
    BOUND_ENVELOPE = "bound-envelope"
    COMMITTED_CONTENT = "committed-content"
    AGREED_CONDITIONS = "agreed-conditions"
    ACKNOWLEDGEMENTS = "acknowledgements"
    KNOWN_END = "known-end"
    LABELLED_SIGNATURES = "labelled-signatures"

    @property
    def lost(self) -> str:
        """What is lost without it, in a sentence."""
        return _LOST[self]


Guarantees: TypeAlias = frozenset[Guarantee]
"""What a session gives."""

_LOST: Final[Mapping[Guarantee, str]] = MappingProxyType(
    {
        Guarantee.SIGNED_KNOCK: "Nobody can show later who asked, and whoever steals this agent's prekeys can ask in "
        "any name.",
        Guarantee.SIGNED_VERDICT: "Whoever can write to the relay in the peer's name can say that it accepted or "
        "refused.",
        Guarantee.SIGNED_BUNDLE: "A registry can serve an old prekey for ever, and withhold or exchange one-time "
        "prekeys unseen.",
        Guarantee.ONE_TIME_PREKEY: "What is sent before the peer's first answer opens to whoever steals the prekeys "
        "that served it, as long as they are kept.",
        Guarantee.POST_QUANTUM: "What is recorded today opens to whoever breaks X25519 one day.",
        Guarantee.SEALED_INTENT: "The relay reads what a KNOCK asks for, and can alter it.",
        Guarantee.SEALED_HEADERS: "The relay reads how many messages each side has sent, and where its turns are.",
        Guarantee.PADDED_LENGTHS: "The relay reads the exact length of each message.",
        Guarantee.BOUND_ENVELOPE: "The time and the id of a message, and the mesh, are the word of whoever carried it.",
        Guarantee.COMMITTED_CONTENT: "No single message can be disclosed and proved: one ciphertext may open under two "
        "keys.",
        Guarantee.AGREED_CONDITIONS: "The peer is told of no limit on messages, time or actions, and keeps none.",
        Guarantee.ACKNOWLEDGEMENTS: "Whether a message arrived is not known, and none is sent a second time.",
        Guarantee.KNOWN_END: "A session ends unseen: what was withheld at its end is not missed.",
        Guarantee.LABELLED_SIGNATURES: "A signed time is all that registry and relay ask for: for five minutes whoever "
        "sees one can take the identity's mail over, exchange its prekeys or remove it.",
    }
)

AGT: Final[Guarantees] = frozenset()
NATIVE: Final[Guarantees] = frozenset(Guarantee) - {Guarantee.ONE_TIME_PREKEY}


def guarantees_of(peer: IdentityKey, bundle_class: BundleClass) -> Guarantees:
    """Return what a session with this peer gives, by the protocol that its name belongs to and how it began.

    Args:
        peer: The other side. Whoever has no `did:agentmesh:` name speaks AGT's protocol.
        bundle_class: What the KNOCK was made on.
    """
    of_protocol = NATIVE if peer.did.startswith(DID_PREFIX) else AGT
    return of_protocol | {Guarantee.ONE_TIME_PREKEY} if bundle_class is BundleClass.ONE_TIME else of_protocol

"""What every phase of a session shares: its facts, and the memory of one that is over (docs/protocol.md, section 7)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import field, frozen

from agentmesh.envelope import Header, Kind, MessageHeads, OuterEnvelope, envelope_head, long_time, message_heads
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.identity import IdentityKey
from agentmesh.primitives.keys import Receipt, SessionId, TranscriptHash
from agentmesh.session.phases import Phase

SESSION_ID_BYTES: Final = 16


@frozen(kw_only=True, weakref_slot=False)
class Facts:
    """What is fixed for a session's whole life, and not secret.

    Attributes:
        session_id: 16 bytes, on every envelope of the session.
        th: The transcript hash, 64 bytes, in the context of every message.
        mesh: The mesh's name.
        own_did: This side's DID.
        peer: The other side's identity.
        initiator: This side knocked.
        bundle_class: What the KNOCK was made on.
        knock_time_ms: The KNOCK's header time; decides which of several sessions sends.
        knock_receipt: The KNOCK's receipt.
        action: The KNOCK's action, which data messages carry unless they name another.
        early_payload: An early payload went with the KNOCK; it is the initiator's data message number 1.
    """

    session_id: SessionId
    th: TranscriptHash
    mesh: str
    own_did: str
    peer: IdentityKey
    initiator: bool
    bundle_class: BundleClass
    knock_time_ms: int
    knock_receipt: Receipt
    action: str = field(repr=False)
    early_payload: bool
    # How its messages begin. Shared by all sessions of the agent, because a hub has thousands.
    _heads: MessageHeads = field(init=False, eq=False, repr=False)

    def position_out(self, running_number: int) -> int:
        """Return the position in the direction of this side: A's first message is 1, or 2 after an early payload."""
        return running_number + (1 + self.early_payload if self.initiator else 0)

    def position_in(self, running_number: int) -> int:
        """Return the position in the peer's direction: B's ACCEPT is 0."""
        return running_number + (0 if self.initiator else 1 + self.early_payload)

    def positions_in(self, running_numbers: Iterable[int]) -> tuple[range, ...]:
        """Return positions in the peer's direction as ascending ranges that do not touch."""
        found: list[range] = []
        for number in sorted(running_numbers):
            position = self.position_in(number)
            if found and found[-1].stop == position:
                found[-1] = range(found[-1].start, position + 1)
            else:
                found.append(range(position, position + 1))
        return tuple(found)

    @_heads.default
    def _(self) -> MessageHeads:
        return message_heads(self.mesh, self.own_did, len(self.peer.did))

    def header(self, kind: Kind, now_ms: int) -> bytes:
        """Return the encoded outer header of an envelope from this side."""
        return Header(kind=kind, mesh=self.mesh, sender=self.own_did, recipient=self.peer.did, time_ms=now_ms).encode()

    def context(self, header_bytes: bytes) -> bytes:
        """Return what every message of the session authenticates beside itself: session id || th || outer header."""
        return self.session_id + self.th + header_bytes

    def outgoing(self, now_ms: int) -> tuple[bytes, bytes]:
        """Return (the envelope up to its body, the context) of a message from this side."""
        time = long_time(now_ms)
        if time is None:
            header_bytes = self.header(Kind.MESSAGE, now_ms)
            return envelope_head(header_bytes), self.context(header_bytes)
        heads = self._heads
        head = heads.outwards + self.peer.did.encode() + heads.before_time + time
        return head, self.session_id + self.th + head[heads.header_at :]

    def incoming(self, outer: OuterEnvelope) -> tuple[int, bytes] | None:
        """Return (header time, context) of a kind 4 from the peer to this side, if its bytes tell that it is one."""
        heads = self._heads
        time_ms = outer.time_behind(heads.inwards + self.peer.did.encode() + heads.behind)
        return None if time_ms is None else (time_ms, self.session_id + self.th + outer.header_bytes)


@frozen
class PeerClose:
    """The peer's close: its position, the last index that it says it sent, how many it opened, when it arrived."""

    position: int
    data_sent: int
    data_opened: int
    at_ms: int


@frozen(kw_only=True)
class Ended:
    """The memory of a session that is over: its keys are gone.

    Attributes:
        session_id: 16 bytes.
        peer: The other side's identity.
        phase: How it ended.
        detail: A reason of ours, or the REJECT's.
        at_ms: When.
        bundle_class: What its KNOCK was made on.
        initiated: This side knocked.
        data_sent: The index of the last data message that was sealed.
        data_opened: How many data messages were opened.
    """

    session_id: SessionId
    peer: IdentityKey
    phase: Phase
    detail: str
    at_ms: int
    bundle_class: BundleClass
    initiated: bool
    data_sent: int
    data_opened: int

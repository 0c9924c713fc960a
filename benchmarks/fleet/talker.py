"""An agent of a fleet that has sessions: it converses, confirms, and sends again.

Nothing here asks more of the library than its public interface, and nothing is sealed twice. What is sent stays in an
outbox until the peer's application confirms its receipt; until then the same bytes are handed to the relay again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from agentmesh import (
    AgentMeshError,
    Event,
    Kind,
    MessageReceived,
    OuterEnvelope,
    PeerClosed,
    SessionOver,
    SkippedKeysExpired,
    TryAgain,
)
from agentmesh.envelope import receipt_of
from agentmesh.primitives.keys import SessionId
from benchmarks.fleet.closer import FIRST_WAIT_MS, Closer
from benchmarks.fleet.host import Crashed
from benchmarks.fleet.link import Item, Link, Stage
from benchmarks.fleet.script import ACTIONS, Conversation, Frame
from benchmarks.fleet.settings import SECOND_MS
from benchmarks.fleet.world import HOSTILE, Cause

_ACK_MS: Final = 3 * SECOND_MS
_HELD_UP_MS: Final = 10 * SECOND_MS
_THINK_MS: Final = (200, 8 * SECOND_MS)
_OFFERS_MAX: Final = 3
_CHECKED_SHARE: Final = 0.1  # of forgeries: the exported state is compared, byte for byte


class Talker(Closer):
    """See the module."""

    __slots__ = ()

    # --- receiving ---------------------------------------------------------------------------------------------------

    def arrive(self, envelope: bytes, what: str, cause: Cause, tries: int = 0) -> None:
        """Take a copy of an envelope."""
        world = self.world
        if self.is_down:
            world.counts["copies that came while their recipient was down"] += 1
            return
        is_hostile = cause in HOSTILE
        before = self.agent.export_state() if is_hostile and world.happens(_CHECKED_SHARE) else None
        try:
            events = self.call(f"receive {what}", lambda: self.agent.receive(envelope))
        except Crashed:
            return
        except AgentMeshError as error:
            world.refused[cause, error.code] += 1
            if before is not None:
                world.counts["refusals whose state was compared"] += 1
                self.refused(error, before)
            if is_hostile:
                return
            if isinstance(error, TryAgain) and tries < _OFFERS_MAX:
                world.later((tries + 1) * SECOND_MS, self.arrive, envelope, what, Cause.AGAIN, tries + 1)
            elif what in ("message", "close"):
                self._answer_again(envelope)
            return
        if is_hostile:
            world.ledger.fault("forgery", f"agent {self.index} took a {what} that was {cause}")
        for event in events:
            self.take(event, envelope)

    def take(self, event: Event, envelope: bytes = b"") -> None:
        """Take an event of a session."""
        if isinstance(event, MessageReceived):
            link = self.links[event.session_id]
            frame = Frame.decode(event.plaintext)
            link.note_received(event.receipt, event.number, frame.acks, is_payload=frame.conversation >= 0)
            if frame.conversation >= 0:
                self.give(link, frame, event.number)
                self._acknowledge_soon(link)
            self.advance(link)
            self.world.counts["messages whose keys went unused"] += event.lost
        elif isinstance(event, PeerClosed):
            self.peer_closed(self.links[event.session_id], event, receipt_of(envelope))
        elif isinstance(event, SessionOver):
            self.over(event)
        elif isinstance(event, SkippedKeysExpired):
            self.world.counts["messages whose keys went unused"] += event.lost

    def give(self, link: Link, frame: Frame, number: int) -> None:
        """Give the application a payload, and tell the ledger."""
        world, body = self.world, frame.body
        conversation = world.conversations.get(frame.conversation)
        if conversation is None:
            world.ledger.fault("twice", f"conversation {frame.conversation} is over and its step {frame.step} came")
            return
        payload, side = conversation.payload(frame.step), conversation.side_of(self.index)
        if world.plants("alteration"):
            body = body[:-1] + bytes([body[-1] ^ 1])
        if world.plants("order"):
            number += 1
        if not world.plants("loss"):
            world.ledger.deliver(payload, link.peer, self.index, link.session_id, number, body)
        if world.plants("duplicate"):
            world.ledger.deliver(payload, link.peer, self.index, link.session_id, number, body)
        conversation.receive(side, frame.step)
        conversation.knows[side] = True
        if conversation not in link.conversations:
            link.conversations.append(conversation)
        if conversation.is_over:
            self._finish(link, conversation)

    def _finish(self, link: Link, conversation: Conversation) -> None:
        del self.world.conversations[conversation.number]
        self.world.unfinished -= 1
        channel = link.channel
        channel.users -= 1
        if channel.users == 0 and channel.closer is not None:
            self.world.later(SECOND_MS, self.world.recipients[channel.closer].close_if_done, link.session_id)

    # --- speaking ----------------------------------------------------------------------------------------------------

    def advance(self, link: Link) -> None:
        """Think of what is to be said next."""
        if link.stage is not Stage.OPEN or not link.may_speak:
            return
        link.conversations = [one for one in link.conversations if not one.is_over]
        for conversation in link.conversations:
            side = conversation.side_of(self.index)
            if conversation.knows[side] and not conversation.waits[side] and conversation.due(side) is not None:
                conversation.waits[side] = True
                self.world.later(self.world.random.randint(*_THINK_MS), self._speak, link, conversation)

    def _speak(self, link: Link, conversation: Conversation) -> None:
        world, side = self.world, conversation.side_of(self.index)
        step = conversation.due(side)
        if self.is_down or link.is_held_up():
            self._later(link, self._speak, link, conversation)
            return
        conversation.waits[side] = False
        if step is None or link.stage is not Stage.OPEN:
            return
        payload, body, number = conversation.payload(step), conversation.body(step), link.number
        world.ledger.hand(payload, body)
        frame = Frame(link.next_acks(), conversation.number, step, body)
        item = self._seal(link, frame, world.random.choice(ACTIONS))
        if item is None:
            conversation.waits[side] = True
            self._later(link, self._speak, link, conversation)
            return
        world.ledger.send(payload, self.index, link.peer, link.session_id, number)
        conversation.said(side, step)
        world.later(FIRST_WAIT_MS, self._send_again, link, item)
        self.advance(link)

    def _later(self, link: Link, act: Callable[..., None], *arguments: Any) -> None:
        """Do it when the agent is up again, or when what holds it up may have been confirmed."""
        if self.is_down:
            self.when_up(act, *arguments)
            return
        self.world.counts["times that too many turns were unconfirmed"] += 1
        self.send_rest(link)
        self.world.later(_HELD_UP_MS, act, *arguments)

    def _seal(self, link: Link, frame: Frame, action: str | None) -> Item | None:
        did, data, session_id = self.world.dids[link.peer], frame.encode(), link.session_id
        try:
            sealed = self.call("send", lambda: self.agent.send(did, data, action=action, session_id=session_id))
        except Crashed:
            return None
        is_payload = frame.conversation >= 0
        item = link.note_sealed(sealed.envelope, sealed.receipt, frame.acks, is_payload=is_payload)
        self.world.counts["messages sealed"] += 1
        self.world.counts["of them acknowledgements alone"] += not is_payload
        self.hand_over_item(link, item)
        return item

    # --- confirming, and sending again -------------------------------------------------------------------------------

    def _acknowledge_soon(self, link: Link) -> None:
        if not link.is_ack_due:
            link.is_ack_due = True
            self.world.later(_ACK_MS, self._acknowledge, link)

    def _acknowledge(self, link: Link) -> None:
        if link.stage is not Stage.OPEN or not link.owes_payload:
            link.is_ack_due = False
        elif self.is_down or not self._seal_acknowledgement(link):
            self._later(link, self._acknowledge, link)
        else:
            link.is_ack_due = False

    def _seal_acknowledgement(self, link: Link) -> bool:
        acks = link.next_acks()
        status = self.agent.session(self.world.dids[link.peer], link.session_id).status
        if link.is_held_up(acknowledges_all=not status.missing and len(acks) == len(link.owed)):
            return False
        return self._seal(link, Frame(acks, -1, 0, b""), None) is not None

    def _send_again(self, link: Link, item: Item) -> None:
        if item.receipt not in link.outbox or link.stage is Stage.OVER:
            return
        if not self.is_down:
            self.hand_over_item(link, item)
        self.world.later(self.backoff(item.tries), self._send_again, link, item)

    def _answer_again(self, envelope: bytes) -> None:
        """Give the answer again to what came before: the peer does not know that it came."""
        outer = OuterEnvelope.parse(envelope)
        link = self.links.get(SessionId(outer.body[:16])) if outer.header.kind is Kind.MESSAGE else None
        if link is None:
            return
        if outer.receipt == link.close_receipt:
            self.answer_close(link)
        elif outer.receipt in link.answers:
            item = link.answers[outer.receipt]
            if item is None:
                link.owes_payload = True
                self._acknowledge_soon(link)
            elif item.receipt in link.outbox:
                self.hand_over_item(link, item)

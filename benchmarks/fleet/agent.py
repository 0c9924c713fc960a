"""An agent of a fleet: it knocks where it has no session, and decides on the KNOCKs of others."""

from __future__ import annotations

from typing import Final, final

from agentmesh import (
    AnswerRepeated,
    Ask,
    AskApplication,
    Conditions,
    Deny,
    Event,
    Grant,
    Intent,
    KnockReceived,
    KnockRefused,
    KnockRequest,
    Reason,
    SessionEstablished,
    SessionRejected,
)
from agentmesh.errors import BundleExpired, TooManySessions
from agentmesh.primitives.keys import SessionId
from benchmarks.fleet.host import Crashed
from benchmarks.fleet.link import Channel, Link, Stage
from benchmarks.fleet.script import ACTIONS, Conversation, Frame
from benchmarks.fleet.settings import SECOND_MS
from benchmarks.fleet.talker import Talker
from benchmarks.fleet.world import World

_CONDITIONS: Final = Conditions(max_messages=100_000, allowed_actions=ACTIONS)
_EARLY_SHARE: Final = 0.35
_DECIDE_MS: Final = (200, 30 * SECOND_MS)
_VERDICT_MS: Final = 45 * SECOND_MS  # the peer's application may think about it
_EXPIRES_SECONDS: Final = 3600
_GIVE_UP_MS: Final = 600 * SECOND_MS  # behind its end: a verdict may be on its way
_RETRY_SECONDS: Final = 60


class HubPolicy(AskApplication):
    """Decides without asking the application, as an agent does at which many knock."""

    def __init__(self, world: World) -> None:
        self._world = world

    def decide(self, _knock: KnockRequest, /) -> Grant | Deny | Ask:
        """Accept most."""
        if self._world.happens(self._world.settings.rejection):
            return Deny(Reason.BUSY, _RETRY_SECONDS)
        return Grant(_CONDITIONS)


@final
class FleetAgent(Talker):
    """See the module."""

    __slots__ = ()

    # --- knocking ----------------------------------------------------------------------------------------------------

    def begin(self, conversation: Conversation) -> None:
        """Begin a conversation: in the session that there is, or behind a KNOCK."""
        if self.is_down:
            self.when_up(self.begin, conversation)
            return
        link = self.current.get(conversation.sides[1])
        if link is not None and link.channel.closer is None:
            self.world.counts["conversations in a session that was there"] += 1
            self._attach(link, conversation)
            self.advance(link)
        else:
            self._knock([conversation])

    def _attach(self, link: Link, conversation: Conversation) -> None:
        link.conversations.append(conversation)
        link.channel.users += 1
        if conversation.closer is not None:
            link.channel.closer = conversation.sides[conversation.closer]

    def _knock(self, conversations: list[Conversation]) -> None:
        world, first = self.world, conversations[0]
        peer = first.sides[1]
        did = world.dids[peer]
        early: bytes | None = None
        # On a last-resort bundle it would be withheld.
        if world.happens(_EARLY_SHARE) and world.shelf.stock(did):
            body = first.body(0)
            world.ledger.hand(first.payload(0), body)
            early = Frame([], first.number, 0, body).encode()
        bundle, intent = world.shelf.take(did), Intent(ACTIONS[0], description=f"conversation {first.number}")
        expires = None if early else _EXPIRES_SECONDS
        try:
            knock = self.call(
                "knock",
                lambda: self.agent.knock(did, bundle, intent, early_payload=early, expires_in_seconds=expires),
            )
        except (BundleExpired, Crashed):
            self.when_up(self._knock, conversations)
            return
        except TooManySessions:
            world.counts["KNOCKs put off because five sessions with the peer were open"] += 1
            self.world.later(2 * _RETRY_SECONDS * SECOND_MS, self._begin_again, conversations)
            return
        world.counts["KNOCKs made"] += 1
        world.counts["KNOCKs at a peer that was known"] += bool(self.agent.sessions(did)[:-1])
        world.counts["KNOCKs with an early payload"] += early is not None
        world.counts[f"KNOCKs on a {knock.bundle_class.name.lower().replace('_', '-')} bundle"] += 1
        link = Link(peer, knock.session_id, Channel(), begun=True, early=early is not None)
        link.knock_receipt = knock.receipt
        if early is None:
            link.expires_ms = world.clock.now_ms + _EXPIRES_SECONDS * SECOND_MS
        else:
            world.ledger.send(first.payload(0), self.index, peer, knock.session_id, 1)
        for conversation in conversations:
            self._attach(link, conversation)
        world.channels[knock.session_id] = link.channel
        self.links[knock.session_id] = self.current[peer] = link
        self.hand_over(peer, knock.envelope, "KNOCK")
        world.later(_VERDICT_MS, self._knock_again, link, 3)

    def _knock_again(self, link: Link, tries: int) -> None:
        world, did = self.world, self.world.dids[link.peer]
        if link.stage is not Stage.KNOCKING:
            return
        overdue_ms = 0 if link.expires_ms is None else world.clock.now_ms - link.expires_ms
        if not self.is_down:
            if overdue_ms > _GIVE_UP_MS:
                try:
                    self.call("drop", lambda: self.agent.drop(did, link.session_id))
                    world.counts["KNOCKs dropped because nobody answered"] += 1
                    self._end(link)
                    self._begin_again(link.conversations)
                    return
                except Crashed:
                    pass
            elif overdue_ms <= 0:
                for waiting in self.agent.pending_envelopes(did):
                    if waiting.receipt == link.knock_receipt:
                        world.counts["KNOCKs sent again"] += 1
                        self.hand_over(link.peer, waiting.envelope, "KNOCK")
        world.later(self.backoff(tries), self._knock_again, link, tries + 1)

    def _end(self, link: Link) -> None:
        """Forget a KNOCK that led to nothing."""
        link.stage = Stage.OVER
        del self.links[link.session_id]
        self.world.channels.pop(link.session_id, None)
        if self.current.get(link.peer) is link:
            del self.current[link.peer]

    def _begin_again(self, conversations: list[Conversation]) -> None:
        for conversation in conversations:
            self.begin(conversation)

    # --- deciding, and what became of a KNOCK ------------------------------------------------------------------------

    def take(self, event: Event, envelope: bytes = b"") -> None:
        """Take an event."""
        world = self.world
        if isinstance(event, KnockReceived):
            if not event.has_early_payload and world.happens(world.settings.ignored):
                world.counts["KNOCKs that nobody answers"] += 1
            else:
                world.later(world.random.randint(*_DECIDE_MS), self._decide, event.session_id)
        elif isinstance(event, SessionEstablished):
            if event.reply is None:
                self._established(self.links[event.session_id])
            else:
                self._opened(world.index_of[event.peer.did], event.session_id, event.early_payload)
                self.hand_over(world.index_of[event.peer.did], event.reply.envelope, "verdict")
        elif isinstance(event, KnockRefused | AnswerRepeated):
            name = "KNOCKs rejected" if isinstance(event, KnockRefused) else "verdicts given again"
            world.counts[name] += 1
            self.hand_over(world.index_of[event.peer.did], event.reply.envelope, "verdict")
        elif isinstance(event, SessionRejected):
            link = self.links[event.session_id]
            world.counts[f"rejections taken, {event.reason}"] += 1
            self._end(link)
            wait_ms = event.retry_after_seconds * SECOND_MS + world.random.randint(*_DECIDE_MS)
            world.later(wait_ms, self._begin_again, link.conversations)
        else:
            super().take(event, envelope)

    def _decide(self, session_id: SessionId) -> None:
        world = self.world
        if self.is_down:
            self.when_up(self._decide, session_id)
            return
        waiting = [event for event in self.agent.pending_knocks() if event.session_id == session_id]
        if not waiting:
            return
        event = waiting[0]
        peer = world.index_of[event.did]
        try:
            if world.happens(world.settings.rejection):
                reply = self.call(
                    "reject",
                    lambda: self.agent.reject(event, Reason.BUSY, retry_after_seconds=_RETRY_SECONDS),
                )
                world.counts["KNOCKs rejected"] += 1
            else:
                accepted = self.call("accept", lambda: self.agent.accept(event, _CONDITIONS))
                self._opened(peer, session_id, accepted.early_payload)
                reply = accepted
        except Crashed:
            self.when_up(self._decide, session_id)
            return
        self.hand_over(peer, reply.envelope, "verdict")

    def _opened(self, peer: int, session_id: SessionId, early_payload: bytes | None) -> None:
        """Converse in a session that the peer began."""
        world = self.world
        world.counts["sessions accepted"] += 1
        channel = world.channels.pop(session_id)
        link = Link(peer, session_id, channel, begun=False, early=early_payload is not None)
        self.links[session_id] = self.current[peer] = link
        self.tick_soon()  # a bundle went
        if early_payload is not None:
            self.give(link, Frame.decode(early_payload), 1)
            self.advance(link)

    def _established(self, link: Link) -> None:
        """Converse in a session that this agent began."""
        self.world.counts["sessions established"] += 1
        link.stage = Stage.OPEN
        if link.early:
            link.conversations[0].said(0, 0)
        self.advance(link)

"""An agent of a fleet that ends its sessions: each side's close is sent again until it is known to have come."""

from __future__ import annotations

from typing import Final

from agentmesh import Limits, PeerClosed, Policy, SessionOver
from agentmesh.primitives.keys import Receipt, SessionId
from benchmarks.fleet.host import Crashed, FleetHost
from benchmarks.fleet.link import Item, Link, Stage
from benchmarks.fleet.settings import SECOND_MS
from benchmarks.fleet.world import World

FIRST_WAIT_MS: Final = 8 * SECOND_MS
_WAIT_MAX_MS: Final = 300 * SECOND_MS
_LATE_MS: Final = 600 * SECOND_MS
_LINK_KEPT_MS: Final = _LATE_MS + 100 * SECOND_MS  # the peer sends its close again for so long
_ANSWER_PAUSE_MS: Final = 5 * SECOND_MS


class Closer(FleetHost):
    """See the module.

    Attributes:
        links: Its ends of sessions, by session.
        current: With which link it converses with whom.
    """

    __slots__ = ("current", "links")

    def __init__(self, world: World, index: int, policy: Policy, limits: Limits) -> None:
        super().__init__(world, index, policy, limits)
        self.links: dict[SessionId, Link] = {}
        self.current: dict[int, Link] = {}

    # --- handing over ------------------------------------------------------------------------------------------------

    def hand_over_item(self, link: Link, item: Item) -> None:
        """Give a message to the relay, for the first time or again."""
        self.world.counts["messages sent again"] += item.tries > 0
        item.tries += 1
        self.hand_over(link.peer, item.envelope, "message")

    def backoff(self, tries: int) -> int:
        """Return how long to wait before the same bytes are sent again."""
        return int(min(FIRST_WAIT_MS << min(tries, 8), _WAIT_MAX_MS) * self.world.random.uniform(0.8, 1.2))

    # --- closing -----------------------------------------------------------------------------------------------------

    def close_if_done(self, session_id: SessionId) -> None:
        """Close a session in which no conversation goes on."""
        link = self.links[session_id]
        if link.stage is not Stage.OPEN or link.channel.users:
            return
        if self.is_down or link.awaits_confirmation:
            self.world.later(FIRST_WAIT_MS, self.close_if_done, session_id)
            return
        did = self.world.dids[link.peer]
        try:
            sealed = self.call("close", lambda: self.agent.close(did, "done", session_id=session_id))
        except Crashed:
            self.world.later(FIRST_WAIT_MS, self.close_if_done, session_id)
            return
        link.close = sealed.envelope
        self._closing(link)
        self._send_close(link, self.world.clock.now_ms + _LATE_MS, 0)

    def _closing(self, link: Link) -> None:
        if link.stage is Stage.OPEN:
            link.stage = Stage.CLOSING
            self.world.unfinished += 1
        if self.current.get(link.peer) is link:
            del self.current[link.peer]
        self.tick_soon()

    def _send_close(self, link: Link, until_ms: int, tries: int) -> None:
        """Send this side's close, and what it never knew to have come, until the session is over."""
        if link.stage is Stage.OVER or self.world.clock.now_ms > until_ms:
            return
        close = link.close or link.answer
        if not self.is_down and close is not None:
            self.hand_over(link.peer, close, "close")
            self.send_rest(link)
        self.world.later(self.backoff(tries), self._send_close, link, until_ms, tries + 1)

    def send_rest(self, link: Link) -> None:
        """Send everything again that is not known to have come."""
        for item in list(link.outbox.values()):
            self.hand_over_item(link, item)

    def peer_closed(self, link: Link, event: PeerClosed, receipt: Receipt) -> None:
        """Take the peer's close; the agent has answered it."""
        link.close_receipt = receipt
        # The peer closes when all has come to it: what is left to confirm are acknowledgements.
        link.outbox = {one.receipt: one for one in link.outbox.values() if not one.is_payload}
        if event.reply is not None:
            link.answer = event.reply.envelope
            self._closing(link)
            self._send_close(link, self.world.clock.now_ms + (_LATE_MS if event.missing else 0), 0)

    def answer_close(self, link: Link) -> None:
        """Answer the peer's close, which came before, again."""
        now_ms = self.world.clock.now_ms
        if now_ms < link.answered_ms + _ANSWER_PAUSE_MS:
            return
        link.answered_ms = now_ms
        if link.answer is not None:
            self.hand_over(link.peer, link.answer, "close")
        self.send_rest(link)

    def over(self, event: SessionOver) -> None:
        """Note that a session is over."""
        self.world.counts[f"sessions ended as {event.phase}"] += 1
        link = self.links.get(event.session_id)
        if link is None:
            return
        if link.stage is Stage.CLOSING:
            self.world.unfinished -= 1
        link.stage = Stage.OVER
        if self.current.get(link.peer) is link:
            del self.current[link.peer]
        self.world.later(_LINK_KEPT_MS, self._forget, event.session_id)

    def _forget(self, session_id: SessionId) -> None:
        self.links.pop(session_id, None)

"""The applications of a simulated mesh: what they do with their agents, and what they make of what they are told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from agentmesh.agent import Agent
from agentmesh.engine.hooks import Clock
from agentmesh.errors import AgentMeshError, ArgumentInvalid
from agentmesh.events import (
    Delivered,
    Event,
    KnockReceived,
    MessageReceived,
    PeerAhead,
    PeerClosed,
    RolledBack,
    RotationDue,
    SessionEstablished,
    SessionOver,
    SessionRejected,
    SkippedKeysExpired,
    StockLow,
)
from agentmesh.handshake.knock import Intent
from agentmesh.handshake.verdict import Conditions
from agentmesh.limits import Limits
from agentmesh.outgoing import Accepted, Outgoing
from agentmesh.policy import Policy
from agentmesh.primitives.keys import SessionId
from agentmesh.session.facts import SESSION_ID_BYTES
from agentmesh.session.phases import Phase
from agentmesh.testing.clock import ManualClock
from agentmesh.testing.deliveries import Ledger
from agentmesh.testing.entropy import KemKeys
from agentmesh.testing.host import WritingHost
from agentmesh.testing.mutation import split
from agentmesh.testing.shelf import BundleShelf
from agentmesh.testing.store_host import StoreHost


class Applications:
    """One application for each agent, a ledger for each direction, and no network: that is for a subclass.

    Attributes: see `MeshSimulator`.
    """

    def __init__(
        self,
        seed: int | str,
        agents: Sequence[str],
        *,
        limits: Limits | None,
        policy: Policy | None,
        conditions: Conditions,
        one_time: int,
        reject_percent: int,
        defer_percent: int,
        skew_max_ms: int,
        history_max: int,
        acknowledge: bool,
        reliable: bool,
        write_fault_percent: int | None,
    ) -> None:
        if isinstance(agents, str) or len(agents) < 2 or len(set(agents)) != len(agents):
            raise ArgumentInvalid("agents")
        self.names: tuple[str, ...] = tuple(agents)
        self.clock: ManualClock = ManualClock()
        self.shelf: BundleShelf = BundleShelf()
        self.errors: Counter[type[AgentMeshError]] = Counter()
        self.events: Counter[type[Event]] = Counter()
        self.endings: Counter[Phase] = Counter()
        self._random = Random(f"{seed}/mesh")  # noqa: S311 - repeatable on purpose
        self._conditions = conditions
        self._one_time = one_time
        self._reject_percent = reject_percent
        self._defer_percent = defer_percent
        self._ledgers = {(a, b): Ledger(history_max) for a in agents for b in agents if a != b}
        kem_keys: KemKeys = {}
        host: Callable[..., WritingHost] = WritingHost
        if write_fault_percent is not None:
            host = partial(StoreHost, write_fault_percent=write_fault_percent)
        self._hosts = {
            name: host(
                f"{seed}/{name}",
                clock=_skewed(self.clock, self._random.randint(-skew_max_ms, skew_max_ms)),
                policy=policy,
                limits=limits,
                acknowledge=acknowledge,
                reliable=reliable,
                kem_keys=kem_keys,
                errors=self.errors,
            )
            for name in agents
        }
        self._name_of = {host.did: name for name, host in self._hosts.items()}
        for name in agents:
            self.publish(name, one_time)

    # --- looking -----------------------------------------------------------------------------------------------------

    def agent(self, name: str) -> Agent:
        """Return the agent as it is now: a crash puts another object in its place."""
        return self._hosts[name].agent

    def did(self, name: str) -> str:
        """Return an agent's DID, which no crash changes."""
        return self._hosts[name].did

    def sent(self, sender: str, recipient: str) -> tuple[bytes, ...]:
        """Return what was sent, early payloads included, oldest first."""
        return tuple(self._ledgers[sender, recipient].sent)

    def delivered(self, sender: str, recipient: str) -> tuple[bytes, ...]:
        """Return what was delivered, in the order of its arrival."""
        return tuple(self._ledgers[sender, recipient].delivered)

    def dropped(self, sender: str, recipient: str) -> tuple[bytes, ...]:
        """Return the messages of which the network dropped every copy for good."""
        return tuple(self._ledgers[sender, recipient].dropped)

    def refused(self, sender: str, recipient: str) -> tuple[tuple[bytes, type[AgentMeshError]], ...]:
        """Return the messages of which the recipient refused every copy for good, and how: its session was over."""
        return tuple(self._ledgers[sender, recipient].refused)

    def undelivered(self, sender: str, recipient: str) -> tuple[bytes, ...]:
        """Return the messages that are under way or put aside."""
        return self._ledgers[sender, recipient].undelivered

    def lost(self, sender: str, recipient: str) -> int:
        """Return how many messages the recipient said were lost: their keys fell out of its limits."""
        return self._ledgers[sender, recipient].lost

    def unacknowledged(self, sender: str, recipient: str, session_id: SessionId) -> tuple[range, ...]:
        """Return the numbers of messages of a session that were delivered, and that the sender was not told of."""
        return self._ledgers[sender, recipient].unheard(session_id)

    # --- what applications do ----------------------------------------------------------------------------------------

    def publish(self, name: str, one_time: int, *, last_resort: bool = True) -> None:
        """Put fresh bundles of an agent on the shelf."""
        self.shelf.put(self.did(name), self._hosts[name].publish(one_time, last_resort=last_resort))

    def knock(
        self, sender: str, recipient: str, intent: Intent | None = None, *, early_payload: bytes | None = None
    ) -> bool:
        """Have one agent knock at another. Return False, and count the error, where it is refused to."""
        bundle, meant = self.shelf.take(self.did(recipient)), Intent("test") if intent is None else intent
        knock = self._hosts[sender].attempt(
            lambda agent: agent.knock(self.did(recipient), bundle, meant, early_payload=early_payload)
        )
        if isinstance(knock, AgentMeshError):
            return False
        if early_payload is not None and not knock.early_payload_withheld:
            self._ledgers[sender, recipient].send_early(knock.session_id, early_payload)
        self._hand_over(knock)
        return True

    def send(self, sender: str, recipient: str, data: bytes, *, action: str | None = None) -> bool:
        """Have one agent send to another. Return False, and count the error, where there is no session for it."""
        sealed = self._hosts[sender].attempt(lambda agent: agent.send(self.did(recipient), data, action=action))
        if isinstance(sealed, AgentMeshError):
            return False
        session_id = SessionId(split(sealed.envelope)[2][:SESSION_ID_BYTES])
        self._ledgers[sender, recipient].send(sealed.receipt, session_id, data, sealed.number)
        self._hand_over(sealed)
        return True

    def close(self, sender: str, recipient: str, reason: str = "") -> bool:
        """Have one agent close its session with another. Return False, and count the error, where there is none."""
        closing = self._hosts[sender].attempt(lambda agent: agent.close(self.did(recipient), reason))
        if isinstance(closing, AgentMeshError):
            return False
        self._hand_over(closing)
        return True

    def decide(self, name: str, *, accept: bool = True) -> bool:
        """Have an agent decide on the oldest KNOCK that waits for it. Return False where none waits."""
        waiting = self.agent(name).pending_knocks()
        if waiting:
            self._decide(name, waiting[0], accept=accept)
        return bool(waiting)

    def poll(self, name: str) -> None:
        """Have an agent see what time brought. One whose last-resort bundle is due publishes another."""
        self._told(name, Agent.poll)

    # --- what they make of what they are told ------------------------------------------------------------------------

    def _hand_over(self, outgoing: Outgoing) -> None:
        """Give the network what an agent made."""
        raise NotImplementedError

    def _happens(self, percent: int) -> bool:
        return self._random.randrange(100) < percent

    def _offer(self, did: str, envelope: bytes) -> AgentMeshError | None:
        """Offer an envelope to an agent. Return the error, where it is refused."""
        return self._told(self._name_of[did], lambda agent: agent.receive(envelope))

    def _told(self, name: str, call: Callable[[Agent], tuple[Event, ...]]) -> AgentMeshError | None:
        """Have an application take what a call tells it. Return the error, where the call was refused."""
        events = self._hosts[name].attempt(call)
        if isinstance(events, AgentMeshError):
            return events
        for event in events:
            self.events[type(event)] += 1
            if event.reply is not None:
                self._hand_over(event.reply)
            if isinstance(event, RotationDue):
                self.publish(name, 0)
            elif isinstance(event, KnockReceived):
                if not self._happens(self._defer_percent):
                    self._decide(name, event, accept=not self._happens(self._reject_percent))
            elif isinstance(event, SessionRejected):
                self._ledgers[name, self._name_of[event.peer.did]].reject(event.session_id)
            elif isinstance(event, SessionEstablished) and event.reply is None:
                self._ledgers[name, self._name_of[event.peer.did]].accept_early(event.session_id)
            elif isinstance(event, Delivered):
                self._ledgers[name, self._name_of[event.peer.did]].acknowledge(event.session_id, event.indices)
            elif isinstance(event, PeerAhead):
                raise AssertionError("what was never sent was acknowledged")
            elif not isinstance(event, StockLow | RolledBack):
                self._note(self._ledgers[self._name_of[event.peer.did], name], event)
        return None

    def _note(self, incoming: Ledger, event: Event) -> None:
        if isinstance(event, MessageReceived | PeerClosed | SkippedKeysExpired):
            incoming.lost += event.lost
        if isinstance(event, MessageReceived):
            incoming.deliver(event.receipt, event.session_id, event.plaintext, event.number)
        elif isinstance(event, SessionEstablished) and event.early_payload is not None:
            incoming.deliver_early(event.session_id, event.early_payload)
        elif isinstance(event, SessionOver):
            self.endings[event.phase] += 1
            if event.phase is Phase.CLOSED:
                incoming.close(event.session_id)

    def _decide(self, name: str, knock: KnockReceived, *, accept: bool) -> None:
        reply = self._hosts[name].attempt(
            lambda agent: agent.accept(knock, self._conditions) if accept else agent.reject(knock)
        )
        if isinstance(reply, AgentMeshError):
            return
        if isinstance(reply, Accepted) and reply.early_payload is not None:
            incoming = self._ledgers[self._name_of[knock.did], name]
            incoming.deliver_early(reply.session_id, reply.early_payload)
        self._hand_over(reply)


def _skewed(clock: ManualClock, skew_ms: int) -> Clock:
    return lambda: clock() + skew_ms

"""A mesh of agents over a hostile network, repeated exactly by its seed.

Theory of operation. The agents are real; the network between them drops, delays, reorders, duplicates, tampers and
replays, and the agents crash. The simulator plays both hosts: it hands every reply to the network, exports an agent's
state after every call, restores a crashed agent from its last export, and keeps what was answered with `TryAgain`. At
every step it holds the agents to four rules, and raises AssertionError where one breaks:

    a refusal leaves the exported state byte for byte as it was;
    a restored agent, or one opened in a store, exports the state that was written;
    a message is delivered at most once, as it was sent, from who sent it, in the session it was sent in;
    a session that ends as closed has delivered all that was sent in it.

What is to arrive is for the caller to say, after `settle`: see `sent`, `delivered`, `dropped`, `refused` and
`undelivered`. An error that is none of the library's is not caught.

A run depends on the seed and the calls alone, to the byte. Therefore the ML-KEM ciphertexts are drawn from the seed and
are no encapsulations: FIPS 203 has every ciphertext decapsulate to something, which here both sides take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, final

from agentmesh.engine.conversing import signal_due_ms
from agentmesh.envelope import receipt_of
from agentmesh.errors import GapTooLarge, TryAgain
from agentmesh.handshake.verdict import UNLIMITED, Conditions
from agentmesh.limits import LATE_CHAINS, Limits
from agentmesh.outgoing import Outgoing
from agentmesh.policy import Policy
from agentmesh.session.established import Session
from agentmesh.testing.applications import Applications
from agentmesh.testing.deliveries import Ledger
from agentmesh.testing.mutation import forge
from agentmesh.testing.network import Carried, Faults, Network

_STALLED_ROUNDS_MAX: Final = 5  # of a settling; together they stay well inside the 600 s for late data
_TAKE_UP_PERCENT: Final = 25  # of the steps: something that was put aside comes back
_POLL_PERCENT: Final = 5  # of the steps: an agent is polled


@final
class MeshSimulator(Applications):
    """Agents that knock, converse and close over a hostile network.

    `step` and `run` let chance decide what the network does; `deliver`, `drop`, `delay`, `duplicate`, `tamper`,
    `replay`, `crash` and `lose_state` do one thing at a time.

        >>> mesh = MeshSimulator(seed=7, faults=Faults(drop_percent=5, crash_percent=20))
        >>> mesh.knock("alice", "bob")
        True
        >>> mesh.settle()  # everything under way arrives, and Bob accepts
        >>> for number in range(20):
        ...     sealed = mesh.send("alice", "bob", b"%d" % number)
        ...     mesh.run(steps=3)
        >>> mesh.settle()
        >>> arrived = (*mesh.delivered("alice", "bob"), *mesh.dropped("alice", "bob"))
        >>> sorted(arrived) == sorted(mesh.sent("alice", "bob"))
        True

    Attributes:
        names: The agents' names, in the order they were given.
        clock: The time of all; each agent's own may differ from it by `skew_max_ms`.
        shelf: The registry of bundles.
        errors: How often which error was raised to the application, by class.
        events: How often which event was told, by class.
        endings: How often a session ended in which phase.
        faults: How often which fault happened, by the name of its method, and `reorder`.
    """

    def __init__(
        self,
        seed: int | str,
        agents: Sequence[str] = ("alice", "bob"),
        *,
        faults: Faults | None = None,
        limits: Limits | None = None,
        policy: Policy | None = None,
        conditions: Conditions = UNLIMITED,
        one_time: int = 4,
        reject_percent: int = 0,
        defer_percent: int = 0,
        step_max_ms: int = 50,
        skew_max_ms: int = 0,
        in_flight_max: int = 256,
        late_answers_max: int | None = LATE_CHAINS,
        history_max: int = 10_000,
        acknowledge: bool = False,
        reliable: bool = False,
        write_fault_percent: int | None = None,
    ) -> None:
        """Make the agents, and put their bundles on the shelf.

        Args:
            seed: What everything depends on.
            agents: Their names; at least two.
            faults: How often what goes wrong; the defaults of `Faults` if `None`.
            limits: The limits of every agent.
            policy: The policy of every agent. Where it asks the application, the simulator decides.
            conditions: What the simulator accepts KNOCKs under.
            one_time: One-time bundles of each agent.
            reject_percent: How many KNOCKs the simulator rejects.
            defer_percent: How many KNOCKs it leaves for a later step.
            step_max_ms: How much time passes in a step, at most.
            skew_max_ms: How far an agent's clock is off, at most.
            in_flight_max: How many envelopes the network holds under way, and how many put aside.
            late_answers_max: How many envelopes may overtake one that goes the other way. With `None` more than a
                ratchet waits for, so that messages can be lost.
            history_max: How many messages of each direction `sent`, `delivered`, `dropped` and `refused` return.
            acknowledge: Every agent tells which messages it opened, and is held to what was delivered.
            reliable: Every agent keeps outbox and inbox; what leaves is handed to the network once all the same.
            write_fault_percent: Every agent lives in a store in memory, and in so many of its calls a write fails or is
                broken off; the call is made again. Without a store if `None`.

        Raises:
            ArgumentInvalid: fewer than two names, a name twice, or another argument out of range.
        """
        super().__init__(
            seed, agents, limits=limits, policy=policy, conditions=conditions, one_time=one_time,
            reject_percent=reject_percent, defer_percent=defer_percent, skew_max_ms=skew_max_ms,
            history_max=history_max, acknowledge=acknowledge, reliable=reliable,
            write_fault_percent=write_fault_percent
        )  # fmt: skip
        self.faults: Counter[str] = Counter()
        self._chances = Faults() if faults is None else faults
        self._step_max_ms = step_max_ms
        self._network = Network(in_flight_max=in_flight_max, late_answers_max=late_answers_max)

    # --- looking -----------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """How many envelopes are under way."""
        return len(self._network.queue)

    @property
    def envelopes(self) -> tuple[bytes, ...]:
        """The envelopes under way, oldest first: what a relay sees."""
        return tuple(carried.envelope for carried in self._network.queue)

    @property
    def put_aside(self) -> int:
        """How many envelopes are put aside: delayed, or answered with `TryAgain` or `GapTooLarge`."""
        return len(self._network.aside)

    @property
    def replayable(self) -> int:
        """How many envelopes that were taken before can be replayed."""
        return len(self._network.received)

    # --- what the network does, one thing at a time ------------------------------------------------------------------

    def deliver(self, index: int = 0) -> None:
        """Deliver an envelope under way; 0 is the oldest."""
        if index:
            self.faults["reorder"] += 1
        self._deliver(self._network.queue.pop(index))

    def drop(self, index: int = 0) -> None:
        """Drop an envelope under way, for good."""
        self.faults["drop"] += 1
        self._forget(self._network.queue.pop(index))

    def delay(self, index: int = 0) -> None:
        """Put an envelope under way aside, until chance or `settle` takes it up."""
        self.faults["delay"] += 1
        self._put_aside(self._network.queue.pop(index))

    def duplicate(self, index: int = 0) -> None:
        """Deliver an envelope under way, and leave a copy under way."""
        self.faults["duplicate"] += 1
        carried = self._network.queue.pop(index)
        self._hand_over(Outgoing(carried.envelope))
        self._deliver(carried)

    def tamper(self, index: int = 0, forged: bytes | None = None) -> None:
        """Deliver a forgery of an envelope under way, which stays under way. The simulator forges one if `None`.

        Raises:
            AssertionError: the forgery was taken.
        """
        self.faults["tamper"] += 1
        carried = self._network.queue[index]
        if forged is None:
            others = [other.envelope for other in (*self._network.queue, *self._network.received)]
            forged = forge(self._random, carried.envelope, others)
        # Wherever its header may point now, it is offered to both: a relay misroutes too.
        for did in (carried.recipient, carried.sender):
            if self._offer(did, forged) is None:
                raise AssertionError("a forgery was taken")

    def replay(self, index: int = -1) -> None:
        """Deliver an envelope that its recipient took before; -1 is the latest."""
        self.faults["replay"] += 1
        carried = self._network.received[index]
        self._offer(carried.recipient, carried.envelope)

    def crash(self, name: str) -> None:
        """Restart an agent from the state that it exported after its last call."""
        self.faults["crash"] += 1
        self._hosts[name].crash()

    def lose_state(self, name: str) -> None:
        """Restart an agent with its identity alone: it publishes new bundles, and knocks at everybody it had met."""
        self.faults["lost_state"] += 1
        met = [other for other in self.names if other != name and self.agent(name).sessions(self.did(other))]
        self.shelf.withdraw(self.did(name))
        self.clock.advance(seconds=1)  # because its next KNOCK must be later than those it has forgotten
        self._hosts[name].lose_state()
        self.publish(name, self._one_time)
        for other in met:
            self.knock(name, other)

    # --- running -----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Let a little time pass, and let chance handle one envelope."""
        chances, network = self._chances, self._network
        self.clock.advance(ms=self._random.randint(0, self._step_max_ms))
        if self._happens(chances.crash_percent):
            self.crash(self._random.choice(self.names))
        if self._happens(chances.lost_state_percent):
            self.lose_state(self._random.choice(self.names))
        if self._happens(_POLL_PERCENT):
            self.poll(self._random.choice(self.names))
        if self._defer_percent:
            self.decide(self._random.choice(self.names), accept=not self._happens(self._reject_percent))
        if network.received and self._happens(chances.replay_percent):
            self.replay(self._random.randrange(len(network.received)))
        if network.aside and self._happens(_TAKE_UP_PERCENT):
            network.take_up(self._random.randrange(len(network.aside)))
        if not network.queue:
            return
        index = self._random.randrange(len(network.queue)) if self._happens(chances.reorder_percent) else 0
        if self._happens(chances.tamper_percent):
            self.tamper(index)
        fate = self._random.randrange(100)
        for percent, happen in (
            (chances.drop_percent, self.drop),
            (chances.delay_percent, self.delay),
            (chances.duplicate_percent, self.duplicate),
        ):
            if fate < percent:
                happen(index)
                return
            fate -= percent
        self.deliver(index)

    def run(self, steps: int) -> None:
        """Take that many steps."""
        for _ in range(steps):
            self.step()

    def settle(self) -> None:
        """Be honest until nothing moves any more.

        Everything under way or put aside is delivered in order, every KNOCK is decided on, and those that wait for a
        verdict are offered again. Where that brings nothing, a few minutes pass at most.
        """
        stalled = 0
        while stalled < _STALLED_ROUNDS_MAX:
            self._network.take_up()
            moved = self._drain()
            for name in self.names:
                while self.decide(name, accept=not self._happens(self._reject_percent)):
                    moved = True
                self.poll(name)
            if moved or self._network.queue:
                continue
            unanswered = [
                knock
                for (sender, recipient) in self._ledgers
                for knock in self.agent(sender).pending_envelopes(self.did(recipient))
            ]
            if not unanswered and not self._network.aside and not self._owes():
                return
            for knock in unanswered:
                self._hand_over(knock)
            stalled += 1
            # A budget comes back within a second, the right to another repeated answer within a minute.
            self.clock.advance(seconds=1 if stalled < 3 else 60)

    def _owes(self) -> bool:
        """Say whether some agent is to acknowledge something as soon as its time comes."""
        return any(
            isinstance(held, Session) and signal_due_ms(core, held, core.now_ms()) is not None
            for core in (self.agent(name)._core for name in self.names)
            for held in core.state.sessions.values()
        )

    # --- inside ------------------------------------------------------------------------------------------------------

    def _hand_over(self, outgoing: Outgoing) -> None:
        crowded_out = self._network.hand_over(outgoing.envelope)
        if crowded_out is not None:
            self._deliver(crowded_out)

    def _put_aside(self, carried: Carried) -> None:
        crowded_out = self._network.put_aside(carried)
        if crowded_out is not None:
            self._forget(crowded_out)

    def _forget(self, carried: Carried) -> None:
        if not self._network.holds(carried.envelope):
            self._ledger(carried).drop(receipt_of(carried.envelope))

    def _ledger(self, carried: Carried) -> Ledger:
        return self._ledgers[self._name_of[carried.sender], self._name_of[carried.recipient]]

    def _drain(self) -> bool:
        moved = False
        while self._network.queue:
            moved |= self._deliver(self._network.queue.pop(0))
        return moved

    def _deliver(self, carried: Carried) -> bool:
        """Offer a genuine envelope, after those that it may not overtake. Return whether any was taken."""
        taken = False
        waiting, tried = [carried], {carried.sequence}
        while waiting:
            overdue = self._network.take_overdue(waiting[-1], tried)
            if overdue is not None:
                tried.add(overdue.sequence)
                waiting.append(overdue)
                continue
            taken |= self._offer_genuine(waiting.pop())
        return taken

    def _offer_genuine(self, carried: Carried) -> bool:
        error = self._offer(carried.recipient, carried.envelope)
        if error is None:
            self._network.note_received(carried)
            return True
        if isinstance(error, TryAgain | GapTooLarge):
            self._put_aside(carried)
        elif not self._network.holds(carried.envelope):
            self._ledger(carried).refuse(receipt_of(carried.envelope), error)
        return False

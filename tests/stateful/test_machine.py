"""Two agents and a hostile network as a state machine: Hypothesis looks for an order of events that loses a message.

The reference model is a plain multiset a direction: what was sent and has not been delivered. Whatever the network
did, a message is delivered at most once, as it was sent; and when the network has become honest, everything was
delivered. Nothing is dropped for good here, no state is lost, and what is late stays within the past turns that a
ratchet keeps, so there is no excuse.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentmesh import Limits, Phase
from agentmesh.envelope import OuterEnvelope
from agentmesh.testing import HONEST, MeshSimulator, Mutation, with_header
from agentmesh.testing import strategies as am

NAMES = ("alice", "bob")
SIDES = st.integers(0, 1)
PLACES = st.integers(0, 7)


class TwoAgents(RuleBasedStateMachine):
    @initialize(
        seed=st.integers(0, 3),
        one_time=st.sampled_from((0, 3)),
        acquainted=st.sampled_from((True, True, False)),
        acknowledge=st.booleans(),
        epoch_turns=st.sampled_from((1, 2, 16)),
        write_fault_percent=st.sampled_from((None, None, 0, 60)),
    )
    def meet(
        self,
        seed: int,
        one_time: int,
        acquainted: bool,
        acknowledge: bool,
        epoch_turns: int,
        write_fault_percent: int | None,
    ) -> None:
        self.mesh = MeshSimulator(
            seed,
            NAMES,
            faults=HONEST,
            one_time=one_time,
            defer_percent=100,
            acknowledge=acknowledge,
            limits=Limits(epoch_turns=epoch_turns),
            write_fault_percent=write_fault_percent,
        )
        self.waiting: dict[int, Counter[bytes]] = {0: Counter(), 1: Counter()}
        self.seen = {0: 0, 1: 0}
        self.sent = 0
        self.knocks = 0
        if acquainted:
            self.mesh.knock("alice", "bob")
            self.mesh.settle()

    # --- the applications ---

    def _few_sessions(self) -> bool:
        return self.knocks < 5

    @precondition(_few_sessions)
    @rule(knockers=st.sampled_from((NAMES[:1], NAMES[1:], NAMES)))
    def knock(self, knockers: tuple[str, ...]) -> None:
        for name in knockers:
            self.knocks += 1
            self.mesh.knock(name, NAMES[1 - NAMES.index(name)])

    @rule(who=SIDES, accept=st.sampled_from((True, True, True, False)))
    def decide(self, who: int, accept: bool) -> None:
        self.mesh.decide(NAMES[who], accept=accept)

    @rule(first=SIDES, turns=st.integers(1, 4))
    def take_turns(self, first: int, turns: int) -> None:
        for turn in range(turns):
            who = (first + turn) % 2
            self.send(who, [b"turn"])
            if self.mesh.in_flight:
                self.mesh.deliver(self.mesh.in_flight - 1)

    @rule(who=SIDES, payloads=st.lists(am.plaintexts(200), min_size=1, max_size=4))
    def send(self, who: int, payloads: list[bytes]) -> None:
        for data in payloads:
            self.sent += 1
            unique = b"%d " % self.sent + data
            if self.mesh.send(NAMES[who], NAMES[1 - who], unique):
                self.waiting[who][unique] += 1

    def _much_said(self) -> bool:
        return self.sent > 10

    @precondition(_much_said)
    @rule(who=SIDES)
    def close(self, who: int) -> None:
        self.mesh.close(NAMES[who], NAMES[1 - who])

    # --- the network ---

    def _under_way(self) -> bool:
        return self.mesh.in_flight > 0

    def _received(self) -> bool:
        return self.mesh.replayable > 0

    @precondition(_under_way)
    @rule(at=PLACES)
    def deliver(self, at: int) -> None:
        self.mesh.deliver(at % self.mesh.in_flight)

    @precondition(_under_way)
    @rule(count=st.integers(1, 4))
    def deliver_newest(self, count: int) -> None:
        for _ in range(count):
            if self.mesh.in_flight:
                self.mesh.deliver(self.mesh.in_flight - 1)

    @precondition(_under_way)
    @rule(at=PLACES)
    def delay(self, at: int) -> None:
        self.mesh.delay(at % self.mesh.in_flight)

    @precondition(_under_way)
    @rule(at=PLACES)
    def duplicate(self, at: int) -> None:
        self.mesh.duplicate(at % self.mesh.in_flight)

    @precondition(_under_way)
    @rule(at=PLACES, mutation=am.mutations())
    def mutate(self, at: int, mutation: Mutation) -> None:
        place = at % self.mesh.in_flight
        self.mesh.tamper(place, mutation.apply(self.mesh.envelopes[place]))

    @precondition(_under_way)
    @rule(at=PLACES, kind=am.kinds(), exchange_names=st.booleans())
    def relabel(self, at: int, kind, exchange_names: bool) -> None:
        place = at % self.mesh.in_flight
        envelope = self.mesh.envelopes[place]
        header = OuterEnvelope.parse(envelope).header
        names = {"sender": header.recipient, "recipient": header.sender} if exchange_names else {}
        forged = with_header(envelope, kind=kind, **names)
        if forged != envelope:
            self.mesh.tamper(place, forged)

    @precondition(_received)
    @rule(at=st.integers(0, 63))
    def replay(self, at: int) -> None:
        self.mesh.replay(at % self.mesh.replayable)

    # --- machines and time ---

    @rule(who=SIDES)
    def crash(self, who: int) -> None:
        self.mesh.crash(NAMES[who])

    @rule(ms=st.integers(0, 2000))
    def wait(self, ms: int) -> None:
        self.mesh.clock.advance(ms=ms)
        for name in NAMES:
            self.mesh.poll(name)

    # --- what must hold ---

    @invariant()
    def nothing_arrives_twice_or_altered(self) -> None:
        for who, name in enumerate(NAMES):
            delivered = self.mesh.delivered(name, NAMES[1 - who])
            for data in delivered[self.seen[who] :]:
                assert self.waiting[who][data] == 1
                del self.waiting[who][data]
            self.seen[who] = len(delivered)

    @rule()
    def settle(self) -> None:
        self.mesh.settle()
        self.nothing_arrives_twice_or_altered()
        assert not self.waiting[0]
        assert not self.waiting[1]
        for name, other in (NAMES, NAMES[::-1]):
            assert self.mesh.agent(name).pending_envelopes(self.mesh.did(other)) == ()
        assert self.mesh.refused("alice", "bob") == self.mesh.refused("bob", "alice") == ()
        assert set(self.mesh.endings) <= {Phase.CLOSED}

    def teardown(self) -> None:
        if hasattr(self, "mesh"):
            self.settle()


TestTwoAgents = TwoAgents.TestCase
TestTwoAgents.settings = settings(stateful_step_count=40)

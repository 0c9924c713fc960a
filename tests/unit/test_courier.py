"""The courier: what the broker is told of each envelope, what is tried again and when, and how it ends."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import (
    Agent,
    AgentMeshError,
    Identity,
    Intent,
    KnockReceived,
    Limits,
    MessageReceived,
)
from agentmesh.courier import Courier, Pauses
from agentmesh.errors import ArgumentInvalid, CourierStopped, NoBundle, StoreFailed, StoreFenced, TransportFailed
from agentmesh.testing import AtOnce, ManualTimer, MemoryBroker, MemoryTransport, SeededEntropy

MESH = "example/courier"


class World:
    """A broker, a timer, and couriers."""

    def __init__(self) -> None:
        self.timer = ManualTimer()
        self.broker = MemoryBroker()
        self.notes: list[tuple[str, bytes | None]] = []
        self._agents = 0

    def agent(self, **options: Any) -> Agent:
        self._agents += 1
        given = {"clock": self.timer.clock, "entropy": SeededEntropy(self._agents), "acknowledge": True}
        return Agent.create(MESH, reliable=True, **given, **options)

    def courier(self, agent: Agent, transport: Any = None, **options: Any) -> Courier:
        def note(error: AgentMeshError, envelope: bytes | None) -> None:
            self.notes.append((error.code, envelope))

        return Courier(
            agent,
            self.broker.transport(agent.did) if transport is None else transport,
            clock=self.timer.clock,
            pause=self.timer.pause,
            thread=AtOnce(),
            notice=note,
            **{"one_time": 2, **options},
        )

    def put(self, agent: Agent, one_time: int = 2) -> None:
        self.broker.shelf.put(agent.did, agent.publish_bundles(one_time))

    def established(self, alice: Agent, bob: Agent) -> None:
        """Give the two a session, in memory."""
        knock = alice.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("x"))
        [asked] = bob.receive(knock)
        [told] = alice.receive(bob.accept(asked))
        alice.done(told)
        for agent in (alice, bob):
            for waiting in agent.outbox():
                agent.sent(waiting.receipt, final=True)

    async def connected(self, agent: Agent) -> None:
        """Wait until what comes for an agent is taken."""
        self.broker.keep(agent.did, b"rubbish")
        await self.until(lambda: not self.broker.kept(agent.did))

    async def until(self, is_so: Callable[[], bool]) -> None:
        await self.timer.run_until(is_so)


def in_a_world(test: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    """Run a coroutine as a test."""

    def run() -> None:
        async def main() -> None:
            await test(World())

        asyncio.run(main())

    run.__name__ = test.__name__  # type: ignore[attr-defined]
    return run


def in_a_world_with(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a coroutine with one parameter more as a test."""

    def run(**given: Any) -> None:
        async def main() -> None:
            await test(World(), **given)

        asyncio.run(main())

    run.__name__ = test.__name__  # type: ignore[attr-defined]
    names = list(inspect.signature(test).parameters.values())[1:]
    run.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]
    return run


# --- what the broker is told -----------------------------------------------------------------------------------------


@in_a_world
async def test_what_is_bad_is_acknowledged_and_told_once(world: World) -> None:
    bob = world.agent()
    world.broker.keep(bob.did, b"rubbish")
    async with world.courier(bob):
        await world.until(lambda: not world.broker.kept(bob.did))
    assert world.notes == [("wire.malformed", b"rubbish")]
    assert bob.inbox() == ()


@in_a_world
async def test_what_the_policy_denies_stays_with_the_broker_and_is_taken_once_it_is_allowed(world: World) -> None:
    class Policy:
        allows = False

        def may_knock(self, sender: Any, /) -> bool:
            return True

        def decide(self, knock: Any, /) -> Any:
            raise AssertionError

        def still_allowed(self, peer: Any, /) -> bool:
            return self.allows

    policy = Policy()
    alice, bob = world.agent(), world.agent(policy=policy)
    policy.allows = True
    from agentmesh import Grant

    policy.decide = lambda knock: Grant()  # type: ignore[method-assign]
    [established] = bob.receive(alice.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("x")))
    alice.receive(established.reply)
    policy.allows = False
    envelope = alice.send(bob.did, b"1").envelope
    world.broker.keep(bob.did, envelope)
    async with world.courier(bob):
        await world.until(lambda: len(world.notes) >= 3)
        assert world.broker.kept(bob.did) == (envelope,)
        assert set(world.notes) == {("policy.denied", envelope)}
        policy.allows = True
        await world.until(lambda: envelope not in world.broker.kept(bob.did))
    assert any(isinstance(event, MessageReceived) for event in bob.inbox())


class Journal:
    """Takes steps, or does not."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def commit(self, changes: Any, records: Any, /) -> None:
        if self.error is not None:
            raise self.error


@in_a_world
async def test_nothing_is_acknowledged_before_it_is_durable(world: World) -> None:
    journal = Journal()
    alice, bob = world.agent(), world.agent(journal=journal)
    world.established(alice, bob)
    world.broker.keep(bob.did, alice.send(bob.did, b"1").envelope)
    async with world.courier(bob, one_time=0):
        journal.error = StoreFailed()
        await world.until(lambda: len(world.notes) >= 4)
        assert len(world.broker.kept(bob.did)) == 1
        assert not any(isinstance(event, MessageReceived) for event in bob.inbox())
        journal.error = None
        await world.until(lambda: not world.broker.kept(bob.did))
    assert [event.plaintext for event in bob.inbox() if isinstance(event, MessageReceived)] == [b"1"]


@in_a_world
async def test_an_acknowledgement_that_was_lost_costs_a_duplicate(world: World) -> None:
    alice, bob = world.agent(), world.agent()
    world.established(alice, bob)
    envelope = alice.send(bob.did, b"1").envelope
    bob.receive(envelope)
    world.broker.keep(bob.did, envelope)
    async with world.courier(bob):
        await world.until(lambda: not world.broker.kept(bob.did))
    assert world.notes == [("message.duplicate", envelope)]


@in_a_world
async def test_what_is_held_is_not_taken_again_because_the_broker_gives_it_again(world: World) -> None:
    bob = world.agent(limits=Limits(knocks_per_identity=1, knock_refill_seconds=3600))
    bundle, identity = bob.publish_bundles(1).last_resort, Identity.from_seed(bytes(32))
    assert bundle is not None
    for number in range(2):
        mallory = Agent.create(MESH, identity=identity, clock=world.timer.clock, entropy=SeededEntropy(100 + number))
        world.broker.keep(bob.did, mallory.knock(bob.did, bundle, Intent("x")).envelope)
    async with world.courier(bob, one_time=0):
        await world.until(lambda: bool(world.notes))
        [(code, envelope)] = world.notes
        assert code == "knock.busy"
        for number in range(50):
            world.broker.keep(bob.did, b"rubbish %d" % number)
            world.broker.cut()  # so that all of it comes again
            await world.until(lambda number=number: ("wire.malformed", b"rubbish %d" % number) in world.notes)
        assert sum(one == envelope for _, one in world.notes) <= 10
        await world.until(lambda: world.broker.kept(bob.did) == (envelope,))


@in_a_world
async def test_a_full_inbox_holds_back_and_the_broker_keeps_it(world: World) -> None:
    alice, bob = world.agent(), world.agent(limits=Limits(inbox_max_events=8))
    world.established(alice, bob)
    for event in bob.inbox():
        bob.done(event)
    for number in range(6):
        world.broker.keep(bob.did, alice.send(bob.did, b"%d" % number).envelope)
    read: list[bytes] = []
    async with world.courier(bob) as courier:
        await world.until(lambda: bool(world.notes))
        assert {code for code, _ in world.notes} == {"inbox.full"}
        kept = len(world.broker.kept(bob.did))
        assert kept > 0

        async def consume() -> None:
            async for event in courier.events():
                if isinstance(event, MessageReceived):
                    read.append(event.plaintext)
                await courier.done(event)

        task = asyncio.create_task(consume())
        await world.until(lambda: len(read) == 6)
        courier.stop()
        await task
    assert sorted(read) == [b"%d" % number for number in range(6)]


# --- what leaves -----------------------------------------------------------------------------------------------------


@in_a_world
async def test_one_that_no_broker_takes_does_not_hold_up_the_others(world: World) -> None:
    alice, bob = world.agent(), world.agent()
    world.established(alice, bob)
    first, second, third = (alice.send(bob.did, b"%d" % number).envelope for number in range(3))

    class Transport:
        def __init__(self, inner: MemoryTransport) -> None:
            self._inner = inner
            self.envelopes, self.put_bundles, self.take_bundle = inner.envelopes, inner.put_bundles, inner.take_bundle

        async def publish(self, recipient: str, envelope: bytes, /) -> None:
            if envelope == first:
                raise ValueError("too large")
            await self._inner.publish(recipient, envelope)

    async with world.courier(alice, Transport(world.broker.transport(alice.did))):
        await world.until(lambda: {second, third} <= set(world.broker.kept(bob.did)))
        assert first in {waiting.envelope for waiting in alice.outbox()}
        late = await asyncio.to_thread(lambda: alice.send(bob.did, b"late").envelope)
        before_ms = world.timer.clock()
        await world.until(lambda: late in world.broker.kept(bob.did))
        assert world.timer.clock() - before_ms <= 31_000
    assert {code for code, _ in world.notes} == {"transport.failed"}


@in_a_world
async def test_a_broker_that_does_not_answer_is_given_up_in_time(world: World) -> None:
    alice, bob = world.agent(), world.agent()
    world.established(alice, bob)
    envelope = alice.send(bob.did, b"1").envelope

    class Transport:
        tries = 0

        def __init__(self, inner: MemoryTransport) -> None:
            self._inner = inner
            self.envelopes, self.put_bundles, self.take_bundle = inner.envelopes, inner.put_bundles, inner.take_bundle

        async def publish(self, recipient: str, envelope: bytes, /) -> None:
            self.tries += 1
            if self.tries == 1:
                await asyncio.Event().wait()
            await self._inner.publish(recipient, envelope)

    async with world.courier(alice, Transport(world.broker.transport(alice.did)), answer_seconds=7.0):
        began_ms = world.timer.clock()
        await world.until(lambda: envelope in world.broker.kept(bob.did))
        assert 7_000 <= world.timer.clock() - began_ms <= 8_000


@in_a_world
async def test_a_transport_that_cancels_something_of_its_own_has_failed(world: World) -> None:
    alice, bob = world.agent(), world.agent()
    world.established(alice, bob)
    envelope = alice.send(bob.did, b"1").envelope

    class Transport:
        tries = 0

        def __init__(self, inner: MemoryTransport) -> None:
            self._inner = inner
            self.put_bundles, self.take_bundle = inner.put_bundles, inner.take_bundle

        async def publish(self, recipient: str, envelope: bytes, /) -> None:
            self.tries += 1
            if self.tries == 1:
                raise asyncio.CancelledError
            await self._inner.publish(recipient, envelope)

        async def envelopes(self) -> Any:
            if self.tries < 2:
                raise asyncio.CancelledError
            async for one in self._inner.envelopes():
                yield one

    world.broker.keep(alice.did, b"rubbish")
    async with world.courier(alice, Transport(world.broker.transport(alice.did))):
        await world.until(lambda: envelope in world.broker.kept(bob.did) and not world.broker.kept(alice.did))


class Bare:
    """A transport over which nothing comes, and that takes everything."""

    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        pass

    async def envelopes(self) -> Any:
        await asyncio.Event().wait()
        yield

    async def put_bundles(self, did: str, one_time: Any, last_resort: Any, /) -> None:
        pass

    async def take_bundle(self, did: str, /) -> Any:
        return None


@pytest.mark.parametrize("served", ["a bundle", 5, [b"bundle"]])
@in_a_world_with
async def test_a_shelf_that_serves_no_bytes_was_not_reached(world: World, served: Any) -> None:
    class Transport(Bare):
        async def take_bundle(self, did: str, /) -> Any:
            return served

    async with world.courier(world.agent(), Transport()) as courier:
        await world.until(lambda: len(world.notes) >= 3)
        with pytest.raises(TransportFailed):
            await courier.knock(world.agent().did, Intent("x"))
    assert {code for code, _ in world.notes} == {"transport.failed"}


@pytest.mark.parametrize("error", [ArgumentInvalid("x", "y"), StoreFailed(), StoreFenced(), KeyError("x")])
@in_a_world_with
async def test_whatever_a_transport_raises_means_that_the_broker_was_not_reached(
    world: World, error: Exception
) -> None:
    class Transport(Bare):
        async def envelopes(self) -> Any:
            raise error
            yield

        async def take_bundle(self, did: str, /) -> Any:
            raise error

        async def publish(self, recipient: str, envelope: bytes, /) -> None:
            raise error

    alice, bob = world.agent(), world.agent()
    world.established(alice, bob)
    alice.send(bob.did, b"1")
    for one_time in (0, 2):
        world.notes.clear()
        async with world.courier(alice, Transport(), one_time=one_time):
            await world.until(lambda: len(world.notes) >= 6)
        assert {code for code, _ in world.notes} == {"transport.failed"}


@pytest.mark.parametrize("where", ["publish", "envelopes", "put_bundles", "take_bundle"])
@in_a_world_with
async def test_a_transport_that_raises_where_it_is_broken_off_does_not_keep_the_courier(
    world: World, where: str
) -> None:
    waits: set[str] = set()

    class Transport(Bare):
        async def wait(self, name: str) -> None:
            if name == where:
                waits.add(name)
                try:
                    await asyncio.Event().wait()
                finally:
                    raise ConnectionError("no connection to unsubscribe over")

        async def publish(self, recipient: str, envelope: bytes, /) -> None:
            await self.wait("publish")

        async def envelopes(self) -> Any:
            await self.wait("envelopes")
            await asyncio.Event().wait()
            yield

        async def put_bundles(self, did: str, one_time: Any, last_resort: Any, /) -> None:
            await self.wait("put_bundles")

        async def take_bundle(self, did: str, /) -> Any:
            await self.wait("take_bundle")

    alice, bob = world.agent(), world.agent()
    world.established(alice, bob)
    alice.send(bob.did, b"1")
    courier = world.courier(alice, Transport())

    async def run() -> None:
        async with courier:
            await world.until(lambda: where in waits)

    left = asyncio.create_task(run())
    await world.until(left.done)
    await left


# --- the shelf -------------------------------------------------------------------------------------------------------


@in_a_world
async def test_a_shelf_that_lost_its_bundles_is_filled_again(world: World) -> None:
    bob = world.agent()
    async with world.courier(bob, one_time=3):
        await world.connected(bob)
        assert world.broker.shelf.stock(bob.did) == 3
        world.broker.shelf.withdraw(bob.did)
        world.broker.cut()
        await world.connected(bob)
        assert world.broker.shelf.stock(bob.did) == 3
        world.broker.cut()
        await world.connected(bob)
        assert world.broker.shelf.stock(bob.did) == 3  # a shelf that has some gets no more


@in_a_world
async def test_bundles_that_the_shelf_did_not_take_are_put_again(world: World) -> None:
    bob = world.agent()
    tried: list[tuple[bytes, ...]] = []

    class Transport:
        def __init__(self, inner: MemoryTransport) -> None:
            self._inner = inner
            self.envelopes, self.publish, self.take_bundle = inner.envelopes, inner.publish, inner.take_bundle

        async def put_bundles(self, did: str, one_time: Any, last_resort: Any, /) -> None:
            tried.append(tuple(one_time))
            if len(tried) == 1:
                raise ConnectionError
            await self._inner.put_bundles(did, one_time, last_resort)

    async with world.courier(bob, Transport(world.broker.transport(bob.did))):
        await world.until(lambda: world.broker.shelf.stock(bob.did) == 2)
    assert tried[0] == tried[1]  # and no new ones: the agent would take the first for unused


@in_a_world
async def test_a_knock_on_a_last_resort_bundle_has_the_shelf_looked_at(world: World) -> None:
    alice, bob = world.agent(), world.agent()
    async with world.courier(bob, one_time=2), world.courier(alice, one_time=0) as courier:
        await world.until(lambda: world.broker.shelf.stock(bob.did) == 2)
        while world.broker.shelf.stock(bob.did):
            world.broker.shelf.take(bob.did)  # as a put that was broken off leaves it: the agent knows of two
        await courier.knock(bob.did, Intent("x"))
        await world.until(lambda: world.broker.shelf.stock(bob.did) == 2)
    assert any(isinstance(event, KnockReceived) for event in bob.inbox())


@in_a_world
async def test_where_no_more_bundles_can_be_kept_all_are_made_anew(world: World) -> None:
    bob = world.agent(limits=Limits(bundles_max=5))
    bob.publish_bundles(4)
    async with world.courier(bob, one_time=3):
        await world.until(lambda: world.broker.shelf.stock(bob.did) == 3)


@in_a_world
async def test_nobody_is_to_knock_at_an_agent_without_bundles(world: World) -> None:
    alice, bob = world.agent(), world.agent()
    async with world.courier(bob, one_time=0), world.courier(alice) as courier:
        await world.until(lambda: world.broker.shelf.stock(alice.did) == 2)
        with pytest.raises(NoBundle):
            await courier.knock(bob.did, Intent("x"))


@in_a_world
async def test_bundles_that_have_expired_are_passed_over(world: World) -> None:
    alice, bob = world.agent(), world.agent()
    world.put(bob, 3)
    world.timer.clock.advance(seconds=40 * 86_400)
    world.put(bob, 1)
    async with world.courier(alice) as courier:
        await courier.knock(bob.did, Intent("x"))
        assert world.broker.shelf.stock(bob.did) == 0
        world.timer.clock.advance(seconds=400 * 86_400)
        with pytest.raises(NoBundle):  # the last resort has expired too, and is all that there is
            await courier.knock(bob.did, Intent("x"))
        world.broker.is_away = True
        with pytest.raises(TransportFailed) as caught:
            await courier.knock(bob.did, Intent("x"))
        assert isinstance(caught.value.__cause__, ConnectionError)


# --- how it ends -----------------------------------------------------------------------------------------------------


@in_a_world
async def test_what_ends_the_store_ends_the_courier(world: World) -> None:
    journal = Journal()
    alice, bob = world.agent(), world.agent(journal=journal)
    world.established(alice, bob)
    for event in bob.inbox():
        bob.done(event)
    envelope = alice.send(bob.did, b"1").envelope
    journal.error = StoreFenced()
    world.broker.keep(bob.did, envelope)

    async def listen() -> None:
        async with world.courier(bob, one_time=0) as courier:
            async for _ in courier.events():
                raise AssertionError

    async def wait() -> None:
        async with world.courier(bob, one_time=0):
            for _ in range(200):
                await asyncio.sleep(0)

    for run in (listen, wait):  # also where nobody asks for events
        running = asyncio.create_task(run())
        for _ in range(500):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(StoreFenced):
            await running
        assert world.broker.kept(bob.did) == (envelope,)


@in_a_world
async def test_leaving_offers_what_waits_and_then_takes_no_calls(world: World) -> None:
    alice, bob = world.agent(), world.agent()
    world.established(alice, bob)
    courier = world.courier(alice)
    async with courier:
        with pytest.raises(CourierStopped):
            await courier.__aenter__()
        sealed = await courier.send(bob.did, b"1")
        courier.stop()
        assert [event async for event in courier.events()] == []
        with pytest.raises(CourierStopped):
            await courier.knock(bob.did, Intent("x"))
    assert sealed.envelope in world.broker.kept(bob.did)
    with pytest.raises(CourierStopped):
        await courier.__aenter__()


class Stubborn(Bare):
    """Waits where it is told to, and does with a cancellation what it is told to."""

    def __init__(self, where: str, cancelled: str) -> None:
        self._where, self.cancelled = where, cancelled
        self.waiting = 0

    async def _wait(self, where: str) -> None:
        swallows = self._where == where
        while swallows:
            self.waiting += 1
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if self.cancelled == "raises":
                    raise ConnectionError from None
                swallows = self.cancelled == "goes on"

    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        await self._wait("publish")

    async def envelopes(self) -> Any:
        await self._wait("envelopes")
        if self._where != "envelopes":
            await asyncio.Event().wait()
        elif self.cancelled == "yields":
            yield b"rubbish", self.put_bundles

    async def put_bundles(self, did: str, one_time: Any, last_resort: Any, /) -> None:
        await self._wait("put_bundles")


@pytest.mark.parametrize("cancelled", ["raises", "returns", "yields", "goes on"])
@pytest.mark.parametrize("where", ["publish", "envelopes", "put_bundles"])
def test_leaving_ends_it_whatever_a_transport_makes_of_its_cancellation(where: str, cancelled: str) -> None:
    async def leave(world: World, *, again: bool) -> None:
        alice, bob = world.agent(), world.agent()
        world.established(alice, bob)
        if where == "publish":
            alice.send(bob.did, b"1")
        transport, left = Stubborn(where, cancelled), asyncio.Event()

        async def run() -> None:
            async with world.courier(alice, transport, one_time=2 if where == "put_bundles" else 0, answer_seconds=7.0):
                await left.wait()

        running = asyncio.create_task(run())
        try:
            await world.until(lambda: transport.waiting > 0)
            world.notes.clear()
            began_ms = world.timer.clock()
            left.set()
            for _ in range(20 * again):
                await asyncio.sleep(0)
            if again:
                running.cancel()
            await world.until(running.done)
            # At most: two cancellations of what runs, an offer that is not taken, and two cancellations of that.
            answers = 0 if again else 5 if cancelled == "goes on" else 1 if where == "publish" else 0
            assert world.timer.clock() - began_ms <= answers * 7_000
            assert world.notes == []
        finally:
            transport.cancelled = "raises"
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            for _ in range(20):
                await asyncio.sleep(0)

    for again in (False, True):
        loop = asyncio.new_event_loop()  # not `run`, which waits for ever for a task that does not end: that is to fail
        try:
            loop.run_until_complete(leave(World(), again=again))
        finally:
            loop.close()


def test_a_thread_of_its_own_ends_with_it() -> None:
    async def run() -> None:
        alice = Agent.create(MESH, reliable=True)
        broker = MemoryBroker()
        async with Courier(alice, broker.transport(alice.did), one_time=1) as courier:
            assert await courier.call(alice.inbox) == ()
        with pytest.raises(CourierStopped):
            await courier.call(alice.inbox)

    asyncio.run(run())


@in_a_world
async def test_a_new_loop_begins_with_all_that_is_not_done(world: World) -> None:
    alice, bob = world.agent(), world.agent()
    world.established(alice, bob)
    for event in bob.inbox():
        bob.done(event)
    for number in range(3):
        world.broker.keep(bob.did, alice.send(bob.did, b"%d" % number).envelope)
    async with world.courier(bob) as courier:
        await world.until(lambda: not world.broker.kept(bob.did))
        events = courier.events()
        assert (await anext(events)).plaintext == b"0"
        await courier.done(await anext(events))
        await events.aclose()
        events = courier.events()
        assert [(await anext(events)).plaintext for _ in range(2)] == [b"0", b"2"]
        world.broker.keep(bob.did, alice.send(bob.did, b"3").envelope)
        assert (await anext(events)).plaintext == b"3"  # and none of the others again


@pytest.mark.parametrize("agent", [Agent.create(MESH), "an agent", None])
def test_only_a_reliable_agent_has_a_courier(agent: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        Courier(agent, MemoryBroker().transport("did"))
    assert caught.value.argument == "agent"


def test_a_courier_shows_nothing_of_its_agent() -> None:
    agent = Agent.create(MESH, reliable=True)
    assert repr(Courier(agent, MemoryBroker().transport(agent.did))) == f"Courier({agent!r})"


# --- pauses ----------------------------------------------------------------------------------------------------------


class Fixed:
    """Draws the same bytes each time."""

    def __init__(self, byte: int) -> None:
        self._byte = byte

    def token(self, size: int, /) -> bytes:
        return bytes([self._byte]) * size

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        raise AssertionError


@given(st.integers(1, 10_000), st.integers(1, 100_000), st.binary(min_size=12, max_size=12))
def test_each_pause_is_twice_as_long_up_to_the_longest_and_half_of_it_at_least(
    first: int, longest: int, draws: bytes
) -> None:
    class Drawn(Fixed):
        def token(self, size: int, /) -> bytes:
            return bytes([draws[next(numbers)]]) * size

    numbers = iter(range(12))
    pauses = Pauses(first_ms=first, longest_ms=longest, entropy=Drawn(0))
    for number in range(12):
        whole = min(first * 2**number, longest)
        assert whole / 2000 <= pauses.next_seconds() <= whole / 1000


def test_pauses_begin_anew() -> None:
    pauses = Pauses(first_ms=100, longest_ms=250, entropy=Fixed(0))
    assert [pauses.next_seconds() for _ in range(3)] == [0.1, 0.2, 0.25]
    pauses.reset()
    assert pauses.next_seconds() == 0.1
    assert Pauses(first_ms=100, entropy=Fixed(255)).next_seconds() == pytest.approx(0.05)


def test_agents_that_lost_one_broker_do_not_come_back_in_one_moment() -> None:
    assert len({Pauses().next_seconds() for _ in range(20)}) > 1

"""What every transport must pass: the promises of `Transport`, asked of a real broker (docs/how-to/broker.md).

A transport of your own is tested so. One broker serves all checks, because each makes agents of its own:

    @contextlib.asynccontextmanager
    async def connect(did):
        transport = MyTransport("mybroker://127.0.0.1", did)
        try:
            yield transport
        finally:
            await transport.close()

    @pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
    def test_my_transport(check):
        asyncio.run(check(connect))

Of an agent only one connection is open at a time. Where `publish` or `envelopes` raises, the call is made again, as a
courier does; a shelf that raises has failed. What the broker does not do is an `AssertionError`, whose cause is what
the transport raised last. Each step is waited for so long and no longer, but for one that blocks the event loop. Let it
be a broker of the tests' own: what no check acknowledges stays there.

What only its author can do is not among them: kill the broker in the midst of a call, cut its connections, wipe its
disk, fill it up. And a call that swallows its cancellation looks like one that was answered at that moment: only of
`envelopes`, which waits for ever, can it be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

from agentmesh.agent import Agent
from agentmesh.courier import Courier
from agentmesh.engine.hooks import Clock, system_clock_ms
from agentmesh.errors import AgentMeshError
from agentmesh.events import Delivered, Event, KnockReceived, MessageReceived, SessionEstablished
from agentmesh.handshake.knock import Intent
from agentmesh.limits import Limits
from agentmesh.store import MemoryStore
from agentmesh.testing.broker import AtOnce
from agentmesh.testing.transport_bench import (
    MESH,
    PAUSE_SECONDS,
    USUAL_BYTES,
    Bench,
    Bounds,
    Connect,
    Connection,
    Guarded,
    end,
    together,
)

Check = Callable[..., Coroutine[Any, Any, None]]
USUAL: Final[Bounds] = Bounds()
_MANY: Final = 1100  # more than brokers have under way by themselves: NATS has 1000
_ROUNDS: Final = 5  # an acknowledgement may be lost, but not five times
_CONNECTIONS: Final = 4
_TURNS: Final = 16  # of the event loop: after each a call is broken off
_AT_ONCE: Final = 8
_MOMENT_SECONDS: Final = 0.25  # for what is to wait to have begun to
_OFFER_SECONDS: Final = 1.0  # until the same bytes are offered again
_ODD: Final = (
    b"",
    *(bytes([byte]) for byte in (0, 9, 10, 13, 32, 34, 127, 128, 255)),
    bytes(range(256)),
    b"\r\n\x00\r\n",
)

__all__ = [
    "TRANSPORT_CHECKS",
    "Bounds",
    "check_acknowledging",
    "check_agents_apart",
    "check_at_once",
    "check_bytes",
    "check_cancelling",
    "check_conversation",
    "check_copies",
    "check_held_back",
    "check_kept",
    "check_publishers",
    "check_shelf",
    "check_takers",
    "check_transport",
    "check_waking",
]


@asynccontextmanager
async def _pair(connect: Connect, bounds: Bounds) -> AsyncIterator[tuple[Connection, Connection]]:
    """Connect for two new agents: one that publishes, one that reads."""
    bench = Bench(connect, bounds)
    async with bench.connection() as sender, bench.connection() as reader:
        yield sender, reader


# --- envelopes -------------------------------------------------------------------------------------------------------


async def check_kept(connect: Connect, bounds: Bounds = USUAL) -> None:
    """What was published before its recipient ever connected is there when it does."""
    bench, bob = Bench(connect, bounds), Agent.create(MESH)
    async with bench.connection() as sender:
        sent = [await sender.publish(bob.did) for _ in range(3)]
    async with bench.connection(bob) as reader:
        await reader.read(
            sent, "what was published before its recipient ever connected did not come: who is away misses it"
        )


async def check_bytes(connect: Connect, bounds: Bounds = USUAL) -> None:
    """Bytes come as they were, of any value and size. What is no envelope, or too large, may be refused, not lost."""
    most = bounds.envelope_max_bytes
    async with _pair(connect, bounds) as (sender, reader):
        for size_bytes in (USUAL_BYTES, most // 2, most - 1, most):
            sent = await sender.publish(reader.did, sender.made(reader.did, size_bytes))
            await reader.read((sent,), f"an envelope of {size_bytes} bytes was taken and did not come", (sent,))
        larger = sender.made(reader.did, most + 1)
        odd = [one for one in (*_ODD, larger) if await sender.offer(reader.did, one)]
        await reader.read(odd, "bytes that were taken did not come: what the broker does not want, it is to refuse")


async def check_acknowledging(connect: Connect, bounds: Bounds = USUAL) -> None:
    """What was not acknowledged comes again, over this connection and the next; what was, stops."""
    lost = "what was not acknowledged did not come again {}: an agent that is killed before it is durable loses it"
    async with AsyncExitStack() as stack:
        sender, reader = await stack.enter_async_context(_pair(connect, bounds))
        sent = [await sender.publish(reader.did) for _ in range(3)]
        done, undone = sent[1], (sent[0], sent[2])
        await reader.read(sent, "what was published did not come")
        await reader.read(sent, lost.format("when `envelopes` was called again"))
    for number in range(_ROUNDS + 1):
        async with sender.bench.connection(reader.agent) as again:
            wanted = undone if number else sent
            came = await again.read(wanted, lost.format("over a new connection"), acknowledge=(done,))
        if done not in came:
            return
    raise sender.bench.failure(
        "what was acknowledged comes again for ever: no queue gets shorter, and each restart is longer"
    )


async def check_copies(connect: Connect, bounds: Bounds = USUAL) -> None:
    """The same bytes come again, published after they were acknowledged: nothing is dropped as a duplicate."""
    again = (
        "the same bytes did not come again, published after they were acknowledged: where the word that they arrived "
        "is lost, they are offered on purpose"
    )
    async with _pair(connect, bounds) as (sender, reader):
        for is_new in (False, True):  # within one call of `envelopes`, and over another
            sent, acknowledged = await sender.publish(reader.did), asyncio.Event()
            if is_new:
                await reader.read((sent,), "what was published did not come", acknowledge=(sent,))
                acknowledged.set()
            wanted = (sent,) if is_new else (sent, sent)
            reading = asyncio.create_task(reader.read(wanted, again, (sent,), acknowledged.set))
            try:
                while not reading.done():
                    if acknowledged.is_set():
                        await sender.publish(reader.did, sent)
                    await asyncio.wait({reading}, timeout=_OFFER_SECONDS)
                await reading
            finally:
                await end(reading)


async def check_held_back(connect: Connect, bounds: Bounds = USUAL) -> None:
    """However much was not acknowledged, what is behind it comes."""
    async with _pair(connect, bounds) as (sender, reader):
        sent = [await sender.publish(reader.did) for _ in range(_MANY)]
        await reader.read(
            sent, f"of {_MANY} envelopes that nobody acknowledged not all came: one stranger's stop those of all others"
        )


async def check_agents_apart(connect: Connect, bounds: Bounds = USUAL) -> None:
    """What is of one agent never comes to another, and no bundle comes as an envelope."""
    async with _pair(connect, bounds) as (one, other):
        await one.stock(2)
        served = await other.take(other.did)
        if served is not None:
            raise one.bench.failure(
                "a bundle was served of an agent that has put none: whoever knocks with it is refused"
            )
        for _ in range(2):  # what comes to the wrong one comes before what is published behind it
            sent = [(await one.publish(other.did), await other.publish(one.did)) for _ in range(3)]
            await other.read([theirs for theirs, _ in sent], "what was published for one of two agents did not come")
            await one.read([own for _, own in sent], "what was published for one of two agents did not come")


async def check_waking(connect: Connect, bounds: Bounds = USUAL) -> None:
    """Who waits for envelopes gets what is published meanwhile."""
    async with _pair(connect, bounds) as (sender, reader):
        sent = sender.made(reader.did)
        reading = asyncio.create_task(
            reader.read((sent,), "what was published while its recipient waited did not come: it waits for ever")
        )
        try:
            await asyncio.sleep(_MOMENT_SECONDS)
            await sender.publish(reader.did, sent)
            await reading
        finally:
            await end(reading)


async def check_publishers(connect: Connect, bounds: Bounds = USUAL) -> None:
    """What many publish at the same moment comes, all of it, to who waits for it meanwhile."""
    async with _pair(connect, bounds) as (one, reader), AsyncExitStack() as stack:
        others = [await stack.enter_async_context(one.bench.connection()) for _ in range(_CONNECTIONS)]
        sent = {sender: [sender.made(reader.did) for _ in range(_AT_ONCE)] for sender in (one, *others)}
        otherwise = "of what several published at the same moment not all came: the reader went past what was not there"
        reading = asyncio.create_task(reader.read([each for own in sent.values() for each in own], otherwise))
        try:
            await asyncio.sleep(_MOMENT_SECONDS)
            await together(*(_publish(sender, reader.did, own) for sender, own in sent.items()))
            await reading
        finally:
            await end(reading)


async def _publish(sender: Connection, did: str, envelopes: list[bytes]) -> None:
    for envelope in envelopes:
        await sender.publish(did, envelope)


# --- the shelf -------------------------------------------------------------------------------------------------------


async def check_shelf(connect: Connect, bounds: Bounds = USUAL) -> None:
    """A one-time bundle serves once, then the last resort again and again; a newer one takes its place."""
    async with _pair(connect, bounds) as (taker, owner):
        bench = owner.bench

        async def serves(expected: bytes | None, otherwise: str) -> None:
            if await taker.take(owner.did) != expected:
                raise bench.failure(otherwise)

        await serves(None, "take_bundle served something where the shelf had nothing: it is to return None")
        await owner.stock(0, last_resort=False)
        await serves(None, "take_bundle served something where the shelf had nothing: it is to return None")
        first = await owner.stock(Limits().one_time_bundles)
        served = [await taker.take(owner.did) for _ in first.one_time]
        if not {*served} <= {*first.one_time, first.last_resort}:
            raise bench.failure("what was served is not what was put on the shelf: nobody can knock with it")
        if {*served} != {*first.one_time}:
            raise bench.failure(
                "the one-time bundles were not each served once, before the last resort: used twice, one is refused"
            )
        for _ in range(3):
            await serves(
                first.last_resort, "the last resort was not served again and again: nobody reaches who is away"
            )
        newer = await owner.stock(0)
        await serves(newer.last_resort, "a newer last resort did not take the place of the old one, which expires")
        added = [(await owner.stock(1, last_resort=False)).one_time[0] for _ in range(2)]
        if {await taker.take(owner.did) for _ in added} != {*added}:
            raise bench.failure("one-time bundles that were added one by one were not each served once")
        await serves(newer.last_resort, "the last resort was gone once bundles were added without one")


async def check_takers(connect: Connect, bounds: Bounds = USUAL) -> None:
    """Who takes at the same moment gets one each: none is served twice, and none is lost."""
    async with _pair(connect, bounds) as (taker, owner), AsyncExitStack() as stack:
        takers = [await stack.enter_async_context(owner.bench.connection()) for _ in range(_CONNECTIONS)]
        put = await owner.stock(_CONNECTIONS * _AT_ONCE)

        async def takes(one: Connection) -> list[bytes | None]:
            return [await one.take(owner.did) for _ in range(_AT_ONCE)]

        served = [bundle for each in await together(*map(takes, takers)) for bundle in each]
        if not {*served} <= {*put.one_time, put.last_resort}:
            raise owner.bench.failure("what was served to who took at the same moment is not what was put on the shelf")
        one_time = [bundle for bundle in served if bundle != put.last_resort]
        if len(set(one_time)) < len(one_time):
            raise owner.bench.failure("a bundle was served twice to who took at the same moment: the second is refused")
        if set(one_time) != set(put.one_time):
            raise owner.bench.failure("a one-time bundle was served to nobody where several took at the same moment")
        if await taker.take(owner.did) != put.last_resort:
            raise owner.bench.failure("the last resort was not served once all others were")


# --- calls that meet -------------------------------------------------------------------------------------------------


async def check_cancelling(connect: Connect, bounds: Bounds = USUAL) -> None:
    """A call that is broken off ends, and leaves the transport usable."""
    async with _pair(connect, bounds) as (one, other):
        await other.stock(1)
        mine = await one.stock(0)
        if await one.take(one.did) != mine.last_resort:
            raise one.bench.failure("the last resort that an agent had put was not served")
        for wait in (lambda: asyncio.sleep(0), lambda: asyncio.sleep(_MOMENT_SECONDS)):
            if await other.cancel(other.first(), "envelopes", wait) is False:
                raise one.bench.failure("envelopes swallows that it is cancelled: who breaks off is not told from it")
        transport = one.transport
        calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "publish": lambda: transport.publish(other.did, one.made(other.did)),
            "take_bundle": lambda: transport.take_bundle(other.did),
            "put_bundles": lambda: transport.put_bundles(one.did, (), mine.last_resort),
        }
        for turns in range(1, _TURNS + 1):
            for name, call in calls.items():
                await one.cancel(call(), name, partial(_turn, turns))
            served = await one.take(one.did)
            if served is None:
                raise one.bench.failure("the last resort was gone once put_bundles had been broken off")
            if served != mine.last_resort:
                raise one.bench.failure("take_bundle gave the answer to a call that was broken off before it")
        sent = await one.publish(other.did)
        await other.read((sent,), "what was published did not come: calls had been broken off before")


async def _turn(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def check_at_once(connect: Connect, bounds: Bounds = USUAL) -> None:
    """Several calls at once on one transport are answered each for itself."""
    async with Bench(connect, bounds).connection() as one:
        await one.take(one.did)  # so that a transport that connects when it must has done it, once
        sent = [one.made(one.did) for _ in range(_AT_ONCE)]
        otherwise = "what was published did not come, where other calls were made at the same time on one transport"
        reading = asyncio.create_task(one.read(sent, otherwise))
        try:
            put = await together(*(one.stock(1, last_resort=False) for _ in sent))
            calls = [call for envelope in sent for call in (one.take(one.did), one.publish(one.did, envelope))]
            served = (await together(*calls))[::2]
            if sorted(map(repr, served)) != sorted(repr(shelf.one_time[0]) for shelf in put):
                raise one.bench.failure("calls at the same time on one transport were not answered each for itself")
            await reading
        finally:
            await end(reading)


# --- all of it -------------------------------------------------------------------------------------------------------


async def check_conversation(connect: Connect, bounds: Bounds = USUAL) -> None:
    """Two agents meet and converse over couriers: KNOCK, accept, a message each way, and both know that it arrived."""
    bench, clock = Bench(connect, bounds), _loops_clock()
    alice, bob = (MemoryStore().open_agent(MESH, clock=clock, limits=Limits(ack_delay_ms=1)) for _ in range(2))
    noted: list[str] = []
    told = ["the beginning"]

    def note(error: AgentMeshError, _envelope: bytes | None) -> None:
        noted.append(error.code)
        bench.raised = error

    def run(connection: Connection, one_time: int) -> Courier:
        return Courier(
            connection.agent,
            Guarded(connection),
            one_time=one_time,
            notice=note,
            clock=clock,
            thread=AtOnce(),
            answer_seconds=bounds.within_seconds,
        )

    async with (
        bench.connection(alice) as one,
        bench.connection(bob) as other,
        run(one, 0) as asking,
        run(other, 3) as answering,
    ):
        await bench.within(
            together(_ask(asking, bob.did, told, noted), _answer(answering, told)),
            lambda: (
                f"two agents came no further than {told[-1]}; their couriers noted {sorted(set(noted)) or 'nothing'}"
            ),
        )


def _loops_clock() -> Clock:
    """Return the clock of the event loop, set by the system's: whoever tests with a loop of its own has one time."""
    loop = asyncio.get_running_loop()
    begun_ms = system_clock_ms() - int(loop.time() * 1000)
    return lambda: begun_ms + int(loop.time() * 1000)


async def _ask(courier: Courier, did: str, told: list[str], noted: list[str]) -> None:
    while True:
        try:
            await courier.knock(did, Intent("kit"))
            break
        except AgentMeshError as error:  # the other has not begun yet, or the broker was not reached
            noted.append(error.code)
            await asyncio.sleep(PAUSE_SECONDS)
    await _until(courier, told, {SessionEstablished, Delivered, MessageReceived}, did)


async def _answer(courier: Courier, told: list[str]) -> None:
    await _until(courier, told, {KnockReceived, MessageReceived, Delivered}, "")


async def _until(courier: Courier, told: list[str], missing: set[type[Event]], did: str) -> None:
    """Take part in a conversation until events of all these kinds were told."""
    async for event in courier.events():
        told.append(f"{type(event).__name__}")
        missing.discard(type(event))
        if isinstance(event, KnockReceived):
            await courier.accept(event)
        elif isinstance(event, SessionEstablished):
            await courier.send(did, b"question")
        elif isinstance(event, MessageReceived) and event.plaintext == b"question":
            await courier.send(event.peer.did, b"answer")
        await courier.done(event)
        if not missing:
            return


TRANSPORT_CHECKS: Final[tuple[Check, ...]] = (
    check_kept,
    check_bytes,
    check_waking,
    check_acknowledging,
    check_copies,
    check_held_back,
    check_publishers,
    check_shelf,
    check_takers,
    check_agents_apart,
    check_cancelling,
    check_at_once,
    check_conversation,
)


async def check_transport(connect: Connect, bounds: Bounds = USUAL) -> None:
    """Run every check of the kit, one after another.

    Args:
        connect: Returns, for a DID, an asynchronous context manager of a new connection for that agent.
        bounds: How long the broker may take, and the largest envelope that it is to take.

    Raises:
        AssertionError: the broker does not do what it must; the message says what, and why it matters.
    """
    for check in TRANSPORT_CHECKS:
        await check(connect, bounds)

"""Whatever becomes of couriers and broker, at whatever turn of the event loop: each row arrives, and is done once."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentmesh import Agent, Delivered, Intent, KnockReceived, MessageReceived, SessionEstablished
from agentmesh.courier import Courier
from agentmesh.testing import AtOnce, ManualTimer, MemoryBroker, SeededEntropy

ROWS = 6
MESH = "example/courier"


class Side:
    """An application and its store: what is in `export` and `table` survives a kill, and nothing else does."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        options = {"clock": world.timer.clock, "acknowledge": True, "entropy": SeededEntropy(number)}
        self.agent = Agent.create(MESH, reliable=True, **options)
        self.table: dict[bytes, bytes] = {}  # by receipt: what the application wrote down
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        world = self.world
        courier = Courier(
            self.agent,
            world.broker.transport(self.agent.did),
            one_time=2,
            clock=world.timer.clock,
            pause=world.timer.pause,
            entropy=SeededEntropy(self.number),
            thread=AtOnce(),
        )
        async with courier:
            await self.converse(courier)

    async def converse(self, courier: Courier) -> None:
        raise NotImplementedError

    async def kill(self) -> None:
        """End it where it stands. What its store had at that moment is what goes on, whatever it does as it ends."""
        exported = self.agent.export_state()
        table = dict(self.table)
        await self.cancel()
        options = {"clock": self.world.timer.clock, "acknowledge": True, "entropy": SeededEntropy(self.world.fresh())}
        self.agent, self.table = Agent.restore(exported, **options), table

    async def cancel(self) -> None:
        assert self.task is not None
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


class Reader(Side):
    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, number)
        self.told: Counter[bytes] = Counter()

    async def converse(self, courier: Courier) -> None:
        async for event in courier.events():
            if isinstance(event, KnockReceived):
                await courier.accept(event)
            if isinstance(event, MessageReceived):
                self.table.setdefault(event.receipt, event.plaintext)
            await courier.done(event)
            if isinstance(event, MessageReceived):
                self.told[event.plaintext] += 1  # `done` has returned: never again


class Writer(Side):
    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, number)
        self.peer = ""

    async def converse(self, courier: Courier) -> None:
        if not self.agent.sessions(self.peer):
            while True:
                with suppress(Exception):
                    await courier.knock(self.peer, Intent("rows"))
                    break
                await self.world.timer.pause(1)
        if self.agent.session(self.peer).status.sends:
            await self._send(courier)
        async for event in courier.events():
            if isinstance(event, SessionEstablished):
                await self._send(courier)
            if isinstance(event, Delivered):
                self.table.update({message.receipt: message.label for message in event.messages})
            await courier.done(event)

    async def _send(self, courier: Courier) -> None:
        # How many left is durable with the last of them, so it says where to go on.
        for number in range(self.agent.session(self.peer).status.data_sent, ROWS):
            row = b"row %d" % number
            await courier.send(self.peer, row, label=row)


class World:
    def __init__(self) -> None:
        self.timer = ManualTimer()
        self.broker = MemoryBroker()
        self._seed = 100
        self.reader = Reader(self, 1)
        self.writer = Writer(self, 2)
        self.writer.peer = self.reader.agent.did

    def fresh(self) -> int:
        self._seed += 1
        return self._seed

    @property
    def is_over(self) -> bool:
        return len(self.writer.table) == ROWS

    async def run(self, faults: list[tuple[int, str]]) -> None:
        self.reader.start()
        self.writer.start()
        for turns, fault in faults:
            for _ in range(turns):
                await asyncio.sleep(0)
            if self.writer.task is not None and self.writer.task.done():
                self.writer.task.result()
            await self.do(fault)
        self.broker.is_away = False
        await self.timer.run_until(lambda: self.is_over)
        for side in (self.reader, self.writer):
            assert side.task is not None
            assert not side.task.done()
            await side.cancel()

    async def do(self, fault: str) -> None:
        sides = {"reader": self.reader, "writer": self.writer}
        what, _, who = fault.partition(" ")
        if what == "kill":
            await sides[who].kill()
            sides[who].start()
        elif what == "cancel":
            await sides[who].cancel()
            sides[who].start()
        elif what == "away":
            self.broker.is_away = not self.broker.is_away
        elif what == "cut":
            self.broker.cut()
        elif what == "double":
            for envelope in self.broker.kept(sides[who].agent.did):
                self.broker.keep(sides[who].agent.did, envelope)
        elif what == "rubbish":
            self.broker.keep(sides[who].agent.did, b"rubbish")

    def check(self) -> None:
        rows = {b"row %d" % number for number in range(ROWS)}
        assert Counter(self.reader.table.values()) == Counter(rows)
        assert all(count == 1 for count in self.reader.told.values())
        assert set(self.writer.table.values()) == rows


WHO = ("reader", "writer")
FAULTS = [*(f"{what} {who}" for what in ("kill", "cancel", "double", "rubbish") for who in WHO), "away", "cut"]


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 120), st.sampled_from(FAULTS)), max_size=12))
@example([])
@example([(60, "kill writer"), (30, "kill reader"), (20, "away"), (30, "kill writer"), (10, "away")])
def test_every_row_arrives_once(faults: list[tuple[int, str]]) -> None:
    async def run() -> None:
        world = World()
        await world.run(faults)
        world.check()

    asyncio.run(run())

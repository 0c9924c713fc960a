"""The broker in memory passes the kit; and each transport that breaks a promise is found by the check meant for it.

The time of the loop here is its own: where nothing is left to do, it is the next timer's. So nothing sleeps.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest

from agentmesh.courier import Acknowledge
from agentmesh.testing import MemoryBroker
from agentmesh.testing.transport_kit import TRANSPORT_CHECKS, Bounds, Check, check_transport

MIB = 1 << 20


class Selector(selectors.SelectSelector):
    """Waits for no time: it tells how long it was to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nothing will ever happen"
        self.now += max(0.0, timeout)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop with a time of its own."""

    def __init__(self) -> None:
        self._own = Selector()
        super().__init__(self._own)

    def time(self) -> float:
        return self._own.now


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main)


class Sound:
    """A transport over a broker in memory, without a fault."""

    def __init__(self, broker: MemoryBroker, did: str, shared: dict[Any, Any]) -> None:
        self.inner, self.broker, self.did, self.shared = broker.transport(did), broker, did, shared

    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        await self.inner.publish(recipient, envelope)

    def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        return self.inner.envelopes()

    async def put_bundles(self, did: str, one_time: Sequence[bytes], last_resort: bytes | None, /) -> None:
        await self.inner.put_bundles(did, one_time, last_resort)

    async def take_bundle(self, did: str, /) -> bytes | None:
        return await self.inner.take_bundle(did)


def connect_to(kind: type[Sound]) -> Callable[[str], Any]:
    """Return what connects to a new broker by transports of a kind."""
    broker, shared = MemoryBroker(), dict[Any, Any]()

    @asynccontextmanager
    async def connect(did: str) -> AsyncIterator[Sound]:
        yield kind(broker, did, shared)

    return connect


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
def test_the_broker_in_memory_passes_the_kit(check: Check) -> None:
    run(check(connect_to(Sound)))


def test_the_kit_is_one_call_too() -> None:
    run(check_transport(connect_to(Sound), Bounds(within_seconds=5)))


# --- faults of envelopes ---------------------------------------------------------------------------------------------


class KeepsNothingForWhoIsNew(Sound):
    def __init__(self, broker: MemoryBroker, did: str, shared: dict[Any, Any]) -> None:
        super().__init__(broker, did, shared)
        shared[did] = True

    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        if recipient in self.shared:
            await super().publish(recipient, envelope)


class CutsOff(Sound):
    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        await super().publish(recipient, envelope[:MIB])


class LosesWhatIsLarge(Sound):
    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        if len(envelope) < 2 * MIB:
            await super().publish(recipient, envelope)


class RefusesWhatIsLarge(Sound):
    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        if len(envelope) >= 2 * MIB:
            raise ValueError("too large")
        await super().publish(recipient, envelope)


class Strips(Sound):
    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        await super().publish(recipient, envelope.strip() if len(envelope) < 300 else envelope)


class LosesWhatIsShort(Sound):
    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        if len(envelope) > 2:
            await super().publish(recipient, envelope)


class Given(Sound):
    """Forgets what it gave out."""

    async def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        async for envelope, acknowledge in self.inner.envelopes():
            await acknowledge()
            yield envelope, acknowledge


class GivenOverAConnection(Sound):
    """Gives again what it gave out, over the same connection alone."""

    def __init__(self, broker: MemoryBroker, did: str, shared: dict[Any, Any]) -> None:
        super().__init__(broker, did, shared)
        for forget in shared.pop(did, ()):
            forget()

    async def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        async for envelope, acknowledge in self.inner.envelopes():
            assert isinstance(acknowledge, partial)
            self.shared.setdefault(self.did, []).append(partial(self.broker.forget, self.did, *acknowledge.args))
            yield envelope, acknowledge


class AcknowledgesAllBefore(Sound):
    async def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        before: list[Acknowledge] = []

        async def acknowledge(number: int) -> None:
            for one in before[:number]:
                await one()

        async for envelope, one in self.inner.envelopes():
            before.append(one)
            yield envelope, partial(acknowledge, len(before))


class AcknowledgesNothing(Sound):
    async def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        async for envelope, _ in self.inner.envelopes():
            yield envelope, partial(asyncio.sleep, 0)


class RefusesAcknowledgements(Sound):
    async def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        async for envelope, _ in self.inner.envelopes():
            yield envelope, self.refuse

    async def refuse(self) -> None:
        raise ConnectionError


class AnswersNoAcknowledgement(RefusesAcknowledgements):
    async def refuse(self) -> None:
        await asyncio.Event().wait()


class DropsCopies(Sound):
    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        if envelope not in self.shared:
            self.shared[envelope] = True
            await super().publish(recipient, envelope)


class RemembersWithinACall(Sound):
    async def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        seen = set()
        async for envelope, acknowledge in self.inner.envelopes():
            if envelope not in seen:
                seen.add(envelope)
                yield envelope, acknowledge


class DropsWhatIsTooLarge(Sound):
    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        if len(envelope) <= 2 * MIB:
            await super().publish(recipient, envelope)


class GoesPastWhatComesLate(Sound):
    """Numbers what is published before it is there, and reads behind the last number that it saw."""

    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        number = self.shared["number"] = self.shared.get("number", 0) + 1
        for _ in range(3 if number % 2 else 0):
            await asyncio.sleep(0)
        self.shared.setdefault(recipient, {})[number] = envelope
        self.shared.setdefault(("come", recipient), asyncio.Event()).set()

    async def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        seen, come = 0, self.shared.setdefault(("come", self.did), asyncio.Event())
        while True:
            come.clear()
            kept = self.shared.setdefault(self.did, {})
            for number in sorted(number for number in kept if number > seen):
                seen = number
                yield kept[number], partial(self.acknowledge, number)
            await come.wait()

    async def acknowledge(self, number: int) -> None:
        self.shared[self.did].pop(number, None)


class GivesNoPairs(Sound):
    async def envelopes(self) -> AsyncIterator[Any]:
        async for envelope, _ in self.inner.envelopes():
            yield envelope


class StopsAtAThousand(Sound):
    async def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        given = 0
        async for one in self.inner.envelopes():
            yield one
            given += 1
            if given == 1000:
                await asyncio.Event().wait()


class WakesNobody(Sound):
    async def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        for number, envelope in self.broker.waiting(self.did, -1)[1]:
            yield envelope, partial(self.inner._acknowledge, number)
        await asyncio.Event().wait()


class GivesAllToAll(Sound):
    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        self.shared[recipient] = self.shared[self.did] = True
        for did in list(self.shared):
            await super().publish(did, envelope)


class GivesBundles(Sound):
    async def put_bundles(self, did: str, one_time: Sequence[bytes], last_resort: bytes | None, /) -> None:
        await super().put_bundles(did, one_time, last_resort)
        for bundle in one_time:
            await self.publish(did, bundle)


class GivesText(Sound):
    async def envelopes(self) -> AsyncIterator[Any]:
        async for envelope, acknowledge in self.inner.envelopes():
            yield envelope.hex(), acknowledge


class LosesAcceptances(Sound):
    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        if b"\x01\x02\xd9" not in envelope[:8]:
            await super().publish(recipient, envelope)


# --- faults of the shelf ---------------------------------------------------------------------------------------------


class ServesNothingAsBytes(Sound):
    async def take_bundle(self, did: str, /) -> bytes | None:
        return await super().take_bundle(did) or b""


class ServesViews(Sound):
    async def take_bundle(self, did: str, /) -> Any:
        taken = await super().take_bundle(did)
        return None if taken is None else memoryview(taken)


class CutsOffBundles(Sound):
    async def put_bundles(self, did: str, one_time: Sequence[bytes], last_resort: bytes | None, /) -> None:
        await super().put_bundles(did, [bundle[:255] for bundle in one_time], last_resort)


class KeepsTheNewestBundles(Sound):
    async def put_bundles(self, did: str, one_time: Sequence[bytes], last_resort: bytes | None, /) -> None:
        if one_time and (earlier := self.broker.shelf._one_time.get(did)) is not None:
            earlier.clear()
        await super().put_bundles(did, one_time, last_resort)


class RemovesBeforeItPuts(Sound):
    async def put_bundles(self, did: str, one_time: Sequence[bytes], last_resort: bytes | None, /) -> None:
        if last_resort is not None:
            self.broker.shelf._last_resort.pop(did, None)
        await super().put_bundles(did, one_time, last_resort)


class ServesTwice(Sound):
    async def take_bundle(self, did: str, /) -> bytes | None:
        taken = await super().take_bundle(did)
        key = did, taken
        if taken is not None and self.broker.shelf.stock(did) and key not in self.shared:
            self.shared[key] = True
            self.broker.shelf._one_time[did].appendleft(taken)
        return taken


class ServesTheLastResortOnce(Sound):
    async def take_bundle(self, did: str, /) -> bytes | None:
        is_last = not self.broker.shelf.stock(did)
        taken = await super().take_bundle(did)
        if is_last:
            self.broker.shelf._last_resort.pop(did, None)
        return taken


class KeepsTheFirstLastResort(Sound):
    async def put_bundles(self, did: str, one_time: Sequence[bytes], last_resort: bytes | None, /) -> None:
        if last_resort is not None:
            last_resort = self.shared.setdefault(did, last_resort)
        await super().put_bundles(did, one_time, last_resort)


class DropsTheLastResort(Sound):
    async def put_bundles(self, did: str, one_time: Sequence[bytes], last_resort: bytes | None, /) -> None:
        if last_resort is None and one_time:
            self.broker.shelf._last_resort.pop(did, None)
        await super().put_bundles(did, one_time, last_resort)


class RefusesNoBundles(Sound):
    async def put_bundles(self, did: str, one_time: Sequence[bytes], last_resort: bytes | None, /) -> None:
        if not one_time and last_resort is None:
            raise ValueError("nothing to put")
        await super().put_bundles(did, one_time, last_resort)


class Racing(Sound):
    """Looks, and takes away what it saw a moment later; each connection in turn."""

    def __init__(self, broker: MemoryBroker, did: str, shared: dict[Any, Any]) -> None:
        super().__init__(broker, did, shared)
        self.lock = asyncio.Lock()

    async def take_bundle(self, did: str, /) -> bytes | None:
        async with self.lock:
            seen = list(self.broker.shelf._one_time.get(did, ()))
            if not seen:
                return await super().take_bundle(did)
            await asyncio.sleep(0)
            with suppress(ValueError):
                self.broker.shelf._one_time[did].remove(seen[0])
            return seen[0]


class LosingARace(Racing):
    """Takes one more away where two take."""

    async def take_bundle(self, did: str, /) -> bytes | None:
        async with self.lock:
            self.shared["taking"] = self.shared.get("taking", 0) + 1
            taken = await self.inner.take_bundle(did)
            if self.shared["taking"] > 1 and self.broker.shelf.stock(did) and not self.shared.get("lost"):
                self.shared["lost"] = await self.inner.take_bundle(did)
            self.shared["taking"] -= 1
            return taken


class SharesTheShelf(Sound):
    async def put_bundles(self, did: str, one_time: Sequence[bytes], last_resort: bytes | None, /) -> None:
        await super().put_bundles(did, one_time, last_resort)
        self.shared["anybody's"] = last_resort or self.shared.get("anybody's")

    async def take_bundle(self, did: str, /) -> bytes | None:
        return await super().take_bundle(did) or self.shared.get("anybody's")


# --- faults of calls that meet ---------------------------------------------------------------------------------------


class Waiting(Sound):
    """Has a loop of its own, and may do something when its waiting is cancelled."""

    async def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        seen = -1
        while True:
            changed, waiting = self.broker.waiting(self.did, seen)
            for seen, envelope in waiting:
                yield envelope, partial(self.inner._acknowledge, seen)
            if not waiting:
                try:
                    await changed.wait()
                except asyncio.CancelledError:
                    if self.ends():
                        return

    def ends(self) -> bool:
        raise asyncio.CancelledError


class GoesOn(Waiting):
    def ends(self) -> bool:
        return False


class EndsInstead(Waiting):
    def ends(self) -> bool:
        return True


class IsDeafAfterwards(Waiting):
    is_deaf = False

    def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        if self.is_deaf:
            raise ConnectionError
        return super().envelopes()

    def ends(self) -> bool:
        self.is_deaf = True
        raise asyncio.CancelledError


class PublishesOn(Sound):
    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        try:
            await super().publish(recipient, envelope)
        except asyncio.CancelledError:
            await asyncio.Event().wait()


class StaysBusy(Sound):
    is_busy = False

    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        while self.is_busy:
            await asyncio.sleep(1)
        self.is_busy = True
        await super().publish(recipient, envelope)
        self.is_busy = False


class KeepsAnswers(Sound):
    def __init__(self, broker: MemoryBroker, did: str, shared: dict[Any, Any]) -> None:
        super().__init__(broker, did, shared)
        self.answers: list[bytes | None] = []

    async def take_bundle(self, did: str, /) -> bytes | None:
        self.answers.append(await super().take_bundle(did))
        await asyncio.sleep(0)
        return self.answers.pop(0)


class MixesAnswers(Sound):
    answer: bytes | None = None

    async def take_bundle(self, did: str, /) -> bytes | None:
        self.answer = await super().take_bundle(did)
        await asyncio.sleep(0)
        return self.answer


class NeverAnswers(Sound):
    async def take_bundle(self, did: str, /) -> bytes | None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


READING = "kept bytes waking acknowledging copies held_back publishers agents_apart cancelling at_once conversation"
FAULTS: list[tuple[type[Sound], str, str]] = [
    (KeepsNothingForWhoIsNew, "kept", "before its recipient ever connected did not come"),
    (CutsOff, "bytes", "1048576 bytes came that nobody published"),
    (LosesWhatIsLarge, "bytes", "an envelope of 2097152 bytes was taken and did not come"),
    (RefusesWhatIsLarge, "bytes", "no success with an envelope of 2097152 bytes"),
    (DropsWhatIsTooLarge, "bytes", "bytes that were taken did not come"),
    (Strips, "bytes", "bytes that were taken did not come"),
    (LosesWhatIsShort, "bytes", "bytes that were taken did not come"),
    (GivesText, READING, "is no bytes"),
    (GivesNoPairs, READING, "is no pair"),
    (WakesNobody, "waking copies publishers at_once conversation", "while its recipient waited did not come"),
    (Given, "acknowledging", "did not come again when `envelopes` was called again"),
    (GivenOverAConnection, "acknowledging", "did not come again over a new connection"),
    (AcknowledgesAllBefore, "acknowledging", "did not come again over a new connection"),
    (AcknowledgesNothing, "acknowledging", "was acknowledged comes again for ever"),
    (RefusesAcknowledgements, "acknowledging conversation", "was acknowledged comes again for ever"),
    (AnswersNoAcknowledgement, "bytes acknowledging copies conversation", "was not answered"),
    (RemembersWithinACall, "copies", "the same bytes did not come again"),
    (GoesPastWhatComesLate, "publishers at_once", "not all came"),
    (DropsCopies, "copies", "the same bytes did not come again"),
    (StopsAtAThousand, "held_back", "of 1100 envelopes that nobody acknowledged not all came"),
    (ServesNothingAsBytes, "shelf agents_apart", "where the shelf had nothing"),
    (ServesViews, "shelf takers cancelling at_once", "neither bytes nor None"),
    (CutsOffBundles, "shelf takers at_once", "is not what was put"),
    (KeepsTheNewestBundles, "shelf", "were added one by one"),
    (RemovesBeforeItPuts, "cancelling", "was gone once put_bundles had been broken off"),
    (ServesTwice, "shelf takers", "not each served once"),
    (ServesTheLastResortOnce, "shelf cancelling", "not served again and again"),
    (KeepsTheFirstLastResort, "shelf", "a newer last resort did not take the place"),
    (DropsTheLastResort, "shelf", "the last resort was gone"),
    (RefusesNoBundles, "shelf", "put_bundles raised"),
    (Racing, "takers", "served twice"),
    (LosingARace, "takers", "served to nobody"),
    (SharesTheShelf, "agents_apart", "of an agent that has put none"),
    (GivesAllToAll, "agents_apart", "an agent that it is not for"),
    (GivesBundles, "agents_apart cancelling at_once", "a bundle came as an envelope"),
    (GoesOn, "cancelling", "envelopes goes on"),
    (EndsInstead, "cancelling", "envelopes swallows"),
    (IsDeafAfterwards, "cancelling", "calls had been broken off before"),
    (PublishesOn, "cancelling", "publish goes on"),
    (StaysBusy, "cancelling", "publish had no success"),
    (KeepsAnswers, "cancelling", "the answer to a call that was broken off"),
    (MixesAnswers, "at_once", "not answered each for itself"),
    (NeverAnswers, "shelf takers agents_apart cancelling at_once conversation", "take_bundle never returned"),
    (LosesAcceptances, "conversation", "no further than KnockReceived"),
]


@pytest.mark.parametrize(("kind", "checks", "sentence"), FAULTS, ids=[kind.__name__ for kind, _, _ in FAULTS])
def test_each_fault_is_found_by_the_check_meant_for_it(kind: type[Sound], checks: str, sentence: str) -> None:
    found: dict[str, str] = {}
    for check in TRANSPORT_CHECKS:
        try:
            run(check(connect_to(kind)))
        except AssertionError as failed:
            found[check.__name__.removeprefix("check_")] = str(failed)
    assert list(found) == checks.split(), found
    assert sentence in found[checks.split()[0]]


@pytest.mark.parametrize(("when", "sentence"), [("begin", "connect did not give"), ("end", "the end of a connection")])
def test_a_connection_that_hangs_is_not_waited_for_without_a_bound(when: str, sentence: str) -> None:
    sound = connect_to(Sound)

    @asynccontextmanager
    async def connect(did: str) -> AsyncIterator[Sound]:
        async with sound(did) as transport:
            if when == "begin":
                await asyncio.Event().wait()
            yield transport
        await asyncio.Event().wait()

    with pytest.raises(AssertionError, match=sentence):
        run(check_transport(connect))


def test_what_the_transport_raised_last_is_the_cause() -> None:
    with pytest.raises(AssertionError) as failed:
        run(check_transport(connect_to(RefusesWhatIsLarge)))
    assert isinstance(failed.value.__cause__, ValueError)


def test_a_broker_that_takes_less_is_asked_for_what_its_agents_send() -> None:
    run(check_transport(connect_to(RefusesWhatIsLarge), Bounds(envelope_max_bytes=2 * MIB - 1)))

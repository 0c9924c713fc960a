"""What the checks of `transport_kit` stand on: connections to a broker, and bounds on all waiting for it.

A transport may hang, swallow its cancellation, or yield anything. So each call of one is a task of its own, which is
awaited for so long and then ended, by force where it must be; and what comes is judged by what was published.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from random import Random
from typing import Any, Final, TypeVar

from attrs import frozen

from agentmesh.agent import Agent
from agentmesh.courier import Acknowledge, Transport
from agentmesh.engine.hooks import system_clock_ms
from agentmesh.engine.upkeep import Shelf
from agentmesh.envelope import Header, Kind, build
from agentmesh.limits import MESH_MAX_BYTES, Limits

_T = TypeVar("_T")
MESH: Final[str] = "example/kit".ljust(MESH_MAX_BYTES, "-")  # the longest name, so that bundles are the largest
USUAL_BYTES: Final = 512
PAUSE_SECONDS: Final = 0.05
_AGAIN_SECONDS: Final = 1.0
_CANCELLATIONS: Final = 2
_PROMPT_SECONDS: Final = 5.0  # an application that is told to stop waits no longer


@frozen
class Bounds:
    """How long a broker may take, and how large an envelope it is to take.

    Attributes:
        within_seconds: After which what has not happened is said not to happen: longer than the broker waits before it
            gives again what was not acknowledged.
        envelope_max_bytes: The `Limits` of the agents that will use it.
    """

    within_seconds: float = 30.0
    envelope_max_bytes: int = Limits().envelope_max_bytes


Connect = Callable[[str], AbstractAsyncContextManager[Transport]]


class Bench:
    """A broker, what was handed to it, and the bounds of all waiting for it."""

    def __init__(self, connect: Connect, bounds: Bounds) -> None:
        self.bounds: Bounds = bounds
        self.published: dict[str, set[bytes]] = {}
        self.bundles: set[bytes] = set()
        self.raised: Exception | None = None  # the last time that a call failed
        self._connect = connect
        self._random = Random()  # noqa: S311 - fresh each time, and no secret

    def failure(self, sentence: str) -> AssertionError:
        """Return what a check raises; its cause is what the transport raised last."""
        failed = AssertionError(sentence)
        failed.__cause__ = self.raised
        return failed

    async def within(self, call: Awaitable[_T], otherwise: str | Callable[[], str], seconds: float | None = None) -> _T:
        """Return what a call returns; where it does not in time, say so, whatever it makes of being cancelled."""
        task = asyncio.create_task(_awaited(call))
        try:
            await asyncio.wait({task}, timeout=self.bounds.within_seconds if seconds is None else max(0.0, seconds))
            if not task.done():
                raise self.failure(otherwise if isinstance(otherwise, str) else otherwise())
            if task.cancelled():
                raise ConnectionError("cancelled within the transport")
            return task.result()
        finally:
            await end(task)

    @asynccontextmanager
    async def connection(self, agent: Agent | None = None) -> AsyncIterator[Connection]:
        """Connect for an agent, a new one if `None`."""
        agent = Agent.create(MESH) if agent is None else agent
        opened = self._connect(agent.did)
        transport = await self._promptly(opened.__aenter__(), "connect did not give a transport in time")
        try:
            yield Connection(self, agent, transport)
        finally:
            await self._promptly(opened.__aexit__(None, None, None), "the end of a connection did not come in time")

    async def _promptly(self, call: Awaitable[_T], otherwise: str) -> _T:
        """Bound a call that is made in this task, because a task that opened a connection may have to close it."""
        try:
            async with asyncio.timeout(self.bounds.within_seconds) as bound:
                return await call
        except TimeoutError:
            if not bound.expired():
                raise
        raise self.failure(otherwise)

    def envelope(self, sender: str, recipient: str, size_bytes: int = USUAL_BYTES) -> bytes:
        """Return an envelope that any relay takes for one, of so many bytes: nobody holds a key that opens it."""
        time_ms = system_clock_ms()
        header = Header(kind=Kind.MESSAGE, mesh=MESH, sender=sender, recipient=recipient, time_ms=time_ms).encode()
        frame_bytes = len(build(header, bytes(size_bytes))) - size_bytes
        return build(header, self._random.randbytes(size_bytes - frame_bytes))

    def judge(self, did: str, came: Any) -> tuple[bytes, Acknowledge]:
        """Return what came for an agent, if it is an envelope that was published for it, and what acknowledges it."""
        if not isinstance(came, tuple) or len(came) != 2 or not callable(came[1]):
            raise self.failure("what `envelopes` yielded is no pair of an envelope and of what acknowledges it")
        envelope, acknowledge = came
        if not isinstance(envelope, bytes):
            raise self.failure("the envelope that `envelopes` yielded is no bytes")
        if envelope in self.published.get(did, ()):
            return envelope, acknowledge
        if any(envelope in theirs for theirs in self.published.values()):
            raise self.failure("an envelope came to an agent that it is not for, which may acknowledge it away")
        if envelope in self.bundles:
            raise self.failure("a bundle came as an envelope: the shelf and the queue of an agent are not apart")
        raise self.failure(
            f"{len(envelope)} bytes came that nobody published for this agent: altered or cut off, or of another agent"
        )


@frozen
class Connection:
    """An agent's connection."""

    bench: Bench
    agent: Agent
    transport: Transport

    @property
    def did(self) -> str:
        """The agent's DID."""
        return self.agent.did

    def made(self, recipient: str, size_bytes: int = USUAL_BYTES) -> bytes:
        """Return a new envelope for an agent, which may come to it from now on."""
        envelope = self.bench.envelope(self.did, recipient, size_bytes)
        self.bench.published.setdefault(recipient, set()).add(envelope)
        return envelope

    async def publish(self, recipient: str, envelope: bytes | None = None) -> bytes:
        """Publish an envelope, a new one if `None`; where the broker was not reached, again, as a courier does."""
        envelope = self.made(recipient) if envelope is None else envelope
        loop, bench = asyncio.get_running_loop(), self.bench
        last = loop.time() + bench.bounds.within_seconds
        otherwise = f"publish had no success with an envelope of {len(envelope)} bytes: it can never leave"
        while True:
            try:
                await bench.within(self.transport.publish(recipient, envelope), otherwise, last - loop.time())
            except AssertionError:
                raise
            except Exception as error:
                bench.raised = error
            else:
                return envelope
            if loop.time() > last:
                raise bench.failure(otherwise)
            await asyncio.sleep(PAUSE_SECONDS)

    async def offer(self, recipient: str, envelope: bytes) -> bool:
        """Publish any bytes once; say whether the broker takes them, because it may refuse what is no envelope."""
        self.bench.published.setdefault(recipient, set()).add(envelope)
        try:
            await self.bench.within(self.transport.publish(recipient, envelope), "publish never returned")
        except AssertionError:
            raise
        except Exception:
            return False
        return True

    async def read(
        self,
        wanted: Collection[bytes],
        otherwise: str,
        acknowledge: Collection[bytes] = (),
        acknowledged: Callable[[], object] = lambda: None,
    ) -> list[bytes]:
        """Return what came until all that is wanted had; each time that something wanted comes, the wait begins anew.

        Where `envelopes` ends or raises, it is called again. What is named in `acknowledge` is, as often as it comes,
        and then `acknowledged` is called. What is wanted twice has to come twice.
        """
        loop, bench = asyncio.get_running_loop(), self.bench
        missing, came = list(wanted), list[bytes]()
        last = loop.time() + bench.bounds.within_seconds
        while missing:
            envelopes = None
            try:
                envelopes = self.transport.envelopes()
                while missing and (one := await bench.within(following(envelopes), otherwise, last - loop.time())):
                    envelope, done = bench.judge(self.did, one)
                    came.append(envelope)
                    if envelope in missing:
                        missing.remove(envelope)
                        last = loop.time() + bench.bounds.within_seconds
                    if envelope in acknowledge:
                        await self._acknowledge(done)
                        acknowledged()
            except AssertionError:
                raise
            except Exception as error:
                bench.raised = error
            finally:
                await self.close(envelopes)
            if missing and loop.time() > last:
                raise bench.failure(otherwise)
            await asyncio.sleep(PAUSE_SECONDS if missing else 0)
        return came

    async def _acknowledge(self, acknowledge: Acknowledge) -> None:
        try:
            await self.bench.within(
                acknowledge(), "an acknowledgement was not answered: its courier waits, and takes nothing meanwhile"
            )
        except AssertionError:
            raise
        except Exception as error:  # it comes again
            self.bench.raised = error

    async def close(self, envelopes: AsyncIterator[Any] | None) -> None:
        """End what `envelopes` returned, where it can be ended: it need not be a generator."""
        with suppress(AssertionError):  # it is over
            await self.bench.within(_closed(envelopes), "", _PROMPT_SECONDS)

    async def stock(self, one_time: int, *, last_resort: bool = True) -> Shelf:
        """Put new bundles of this agent on the shelf, as large as bundles are."""
        made = self.agent.publish_bundles(one_time, last_resort=last_resort)
        self.bench.bundles |= {*made.one_time, *([] if made.last_resort is None else [made.last_resort])}
        put = partial(self.transport.put_bundles, self.did, made.one_time, made.last_resort)
        await self._shelf(put, "put_bundles")
        return made

    async def take(self, did: str) -> bytes | None:
        """Take a bundle of an agent."""
        taken: object = await self._shelf(partial(self.transport.take_bundle, did), "take_bundle")
        if taken is None or isinstance(taken, bytes):
            return taken
        raise self.bench.failure("what take_bundle returned is neither bytes nor None")

    async def _shelf(self, call: Callable[[], Awaitable[_T]], name: str) -> _T:
        try:
            return await self.bench.within(call(), f"{name} never returned: nobody can knock, or be knocked at")
        except AssertionError:
            raise
        except Exception as error:
            self.bench.raised = error
        raise self.bench.failure(f"{name} raised where nothing was wrong: nobody can knock, or be knocked at")

    async def first(self) -> None:
        """Wait for the first envelope of a new call of `envelopes`."""
        envelopes = self.transport.envelopes()
        try:
            await following(envelopes)
        finally:
            await _closed(envelopes)

    async def cancel(self, call: Awaitable[object], name: str, after: Callable[[], Awaitable[object]]) -> bool | None:
        """Begin a call, break it off, and see that it ends; say whether as cancelled, `None` where it had before."""
        task = asyncio.create_task(_awaited(call))
        try:
            await after()
            was_done = task.done()
            task.cancel()
            await asyncio.wait({task}, timeout=min(_PROMPT_SECONDS, self.bench.bounds.within_seconds))
            if not task.done():
                raise self.bench.failure(f"{name} goes on when it is cancelled: a courier over it is slow to be left")
            return None if was_done else task.cancelled()
        finally:
            await end(task)


@frozen
class Guarded:
    """A transport for a courier: no call of it goes on once the courier has broken it off, whatever the other does."""

    connection: Connection

    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        """Publish an envelope."""
        await self._call(self.connection.transport.publish(recipient, envelope))

    async def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        """Yield what comes."""
        envelopes = self.connection.transport.envelopes()
        try:
            while one := await self._call(following(envelopes)):
                yield one
        finally:
            await self.connection.close(envelopes)

    async def put_bundles(self, did: str, one_time: Sequence[bytes], last_resort: bytes | None, /) -> None:
        """Put bundles on the shelf."""
        await self._call(self.connection.transport.put_bundles(did, one_time, last_resort))

    async def take_bundle(self, did: str, /) -> bytes | None:
        """Take a bundle."""
        return await self._call(self.connection.transport.take_bundle(did))

    async def _call(self, call: Awaitable[_T]) -> _T:
        return await self.connection.bench.within(call, "it was not answered")


async def together(*calls: Coroutine[Any, Any, _T]) -> list[_T]:
    """Return what calls return that are made at once; where one fails, none of the others goes on."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            await end(task)


async def _awaited(call: Awaitable[_T]) -> _T:
    return await call


async def _closed(envelopes: AsyncIterator[Any] | None) -> None:
    close = getattr(envelopes, "aclose", None)
    if close is not None:
        with suppress(Exception):  # it is over
            await close()


async def following(envelopes: AsyncIterator[tuple[bytes, Acknowledge]]) -> tuple[bytes, Acknowledge] | None:
    """Return what an iterator yields next; `None` where it ends."""
    async for one in envelopes:
        return one
    return None


async def end(task: asyncio.Task[Any]) -> None:
    """End a task, also one that swallows its cancellation: `asyncio.run` would wait for it for ever."""
    task.add_done_callback(_looked_at)
    try:
        for _ in range(_CANCELLATIONS):
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_AGAIN_SECONDS)
    finally:
        if not task.done():
            _force(task)
    if not task.done():
        await asyncio.wait({task}, timeout=_AGAIN_SECONDS)


def _looked_at(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # what nobody asks for is logged at length


def _force(task: asyncio.Task[Any]) -> None:
    call = task.get_coro()
    with suppress(Exception, KeyboardInterrupt, asyncio.CancelledError):
        call.throw(KeyboardInterrupt())  # which nobody swallows, and which ends a generator too
    with suppress(Exception):
        call.close()
    task.cancel()

"""A transport over Redis Streams: copy this file. It needs `redis` and this library, nothing else.

docs/how-to/redis.md says why it is as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from agentmesh.courier import Acknowledge

GROUP: Final = "agent"
CONSUMER: Final = "courier"
LOOK_MS: Final = 1000
ANSWER_SECONDS: Final = 5


class RedisTransport:
    """One agent's connections to a server; the client makes them anew where they have ended."""

    def __init__(self, url: str, did: str) -> None:
        self._did = did
        self._redis: Any = Redis.from_url(
            url, protocol=2, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS
        )

    async def close(self) -> None:
        """End the connections."""
        await self._redis.aclose()

    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        """Append to the recipient's stream."""
        await self._redis.xadd(stream_of(recipient), {"envelope": envelope})

    async def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        """Read what was given out and not acknowledged, from its beginning, and then what is new."""
        stream = stream_of(self._did)
        try:
            await self._redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):  # it is there
                raise
        after = "0"
        while not is_broken_off():
            found = await self._redis.xreadgroup(GROUP, CONSUMER, {stream: after}, count=16, block=LOOK_MS)
            entries = found[0][1] if found else []
            for number, fields in entries:
                # An entry that was trimmed since has no fields.
                yield (fields or {}).get(b"envelope", b""), partial(self._acknowledge, number)
            if after != ">":
                after = entries[-1][0] if entries else ">"
        raise asyncio.CancelledError

    async def _acknowledge(self, number: bytes) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            await pipe.xack(stream_of(self._did), GROUP, number).xdel(stream_of(self._did), number).execute()

    async def put_bundles(self, did: str, one_time: Sequence[bytes], last_resort: bytes | None, /) -> None:
        """Put all at once; one that is put twice is there once."""
        async with self._redis.pipeline(transaction=True) as pipe:
            if last_resort is not None:
                pipe.set(f"agentmesh:last-resort:{did}", last_resort)
            if one_time:
                pipe.sadd(f"agentmesh:one-time:{did}", *one_time)
            await pipe.execute()

    async def take_bundle(self, did: str, /) -> bytes | None:
        """Take one that nobody else takes."""
        taken: bytes | None = await self._redis.spop(f"agentmesh:one-time:{did}")
        if taken is None:
            taken = await self._redis.get(f"agentmesh:last-resort:{did}")
        return taken


def stream_of(did: str) -> str:
    """Return the stream of an agent."""
    return f"agentmesh:to:{did}"


def is_broken_off() -> bool:
    """Say whether this task was cancelled: `asyncio.wait_for` of Python 3.11, which the client uses, may lose that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

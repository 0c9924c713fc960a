"""A transport over NATS JetStream: copy this file. It needs `nats-py` and this library, nothing else.

docs/how-to/nats.md says why it is as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from typing import Final

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NothingCame
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy
from nats.js.errors import APIError, BucketNotFoundError
from nats.js.kv import KeyValue

from agentmesh.courier import Acknowledge

STREAM: Final = "agentmesh"
BUCKET: Final = "agentmesh-bundles"
DAY_SECONDS: Final = 86_400
AGAIN_SECONDS: Final = 2  # after which what was not acknowledged comes again
LOOK_SECONDS: Final = 1
LAST_RESORT: Final = "last-resort"
WRONG_LAST_SEQUENCE: Final = 10071  # the server's word that a key has another revision


class NatsTransport:
    """One agent's connection to a server, made when it is needed and there is none."""

    def __init__(self, url: str, did: str) -> None:
        self._url, self._name = url, name_of(did)
        self._client: Client | None = None
        self._lock = asyncio.Lock()

    async def _stream(self) -> JetStreamContext:
        async with self._lock:
            if self._client is None or self._client.is_closed:
                # Without its own way of connecting again: the courier has one, and wants to know of each end. The
                # first connection has that way too, whatever `allow_reconnect` says: sixty tries, two seconds apart.
                self._client = await nats.connect(
                    self._url,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=2,
                    error_cb=unheard,
                )
                await self._client.jetstream().add_stream(
                    name=STREAM,
                    subjects=[f"{STREAM}.*"],
                    retention=RetentionPolicy.WORK_QUEUE,
                    max_age=14 * DAY_SECONDS,
                )
            return self._client.jetstream(timeout=5)

    async def close(self) -> None:
        """End the connection, if there is one."""
        if self._client is not None:
            await self._client.close()

    async def _bucket(self) -> KeyValue:
        stream = await self._stream()
        try:
            return await stream.key_value(BUCKET)
        except BucketNotFoundError:
            return await stream.create_key_value(bucket=BUCKET, ttl=30 * DAY_SECONDS)

    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        """Publish, and wait until the stream has it."""
        await (await self._stream()).publish(f"{STREAM}.{name_of(recipient)}", envelope)

    async def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        """Pull from this agent's durable consumer."""
        # However many are held back and not acknowledged: what one peer sends too much of must not stop the others.
        config = ConsumerConfig(ack_wait=AGAIN_SECONDS, max_ack_pending=-1)
        stream = await self._stream()
        consumer = await stream.pull_subscribe(f"{STREAM}.{self._name}", durable=self._name, config=config)
        while not is_broken_off():
            try:
                messages = await consumer.fetch(16, timeout=LOOK_SECONDS)
            except NothingCame:
                if self._client is None or self._client.is_closed:
                    raise ConnectionError from None
                continue
            for message in messages:
                yield message.data, message.ack
        raise asyncio.CancelledError

    async def put_bundles(self, did: str, one_time: Sequence[bytes], last_resort: bytes | None, /) -> None:
        """Put each under a key of its own: one that is put twice is there once."""
        bucket = await self._bucket()
        if last_resort is not None:
            await bucket.put(f"{name_of(did)}.{LAST_RESORT}", last_resort)
        for bundle in one_time:
            await bucket.put(f"{name_of(did)}.{sha256(bundle).hexdigest()}", bundle)

    async def take_bundle(self, did: str, /) -> bytes | None:
        """Take one that nobody else takes: a key is deleted at the revision that was read, or not at all."""
        bucket, stream = await self._bucket(), await self._stream()
        # Not by `watch`, which says now and then that there is nothing: what is under way to it has not come.
        config = ConsumerConfig(deliver_policy=DeliverPolicy.LAST_PER_SUBJECT, ack_policy=AckPolicy.NONE)
        keys = await stream.pull_subscribe(f"$KV.{BUCKET}.{name_of(did)}.*", stream=f"KV_{BUCKET}", config=config)
        last: bytes | None = None
        try:
            left = (await keys.consumer_info()).num_pending or 0
            while left:
                for entry in await keys.fetch(16, timeout=LOOK_SECONDS):
                    left, key = entry.metadata.num_pending, entry.subject.rpartition(".")[2]
                    if key == LAST_RESORT:
                        last = entry.data
                    elif not entry.headers and await taken(bucket, f"{name_of(did)}.{key}", entry):
                        return entry.data
        finally:
            await keys.unsubscribe()
        return last


async def taken(bucket: KeyValue, key: str, entry: Msg) -> bool:
    """Delete a key, and say whether nobody else has."""
    try:
        return await bucket.delete(key, last=entry.metadata.sequence.stream)
    except APIError as error:
        if error.err_code != WRONG_LAST_SEQUENCE:
            raise
    return False


def name_of(did: str) -> str:
    """Return what an agent is called in subjects, consumers and keys: a colon may not stand in all of them."""
    return did.rpartition(":")[2]


def is_broken_off() -> bool:
    """Say whether this task was cancelled: `asyncio.wait_for` of Python 3.11, which the client uses, may lose that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def unheard(_error: Exception) -> None:
    """Print nothing: a call that fails raises, and the courier's notice is told."""

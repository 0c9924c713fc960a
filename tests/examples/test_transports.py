"""The transports of the examples pass the kit, over brokers that run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest

from agentmesh.testing.transport_kit import TRANSPORT_CHECKS, Check

KINDS = ("Nats", "Redis", "WebSocket", "Http")


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_it_passes_the_kit(
    kind: str, check: Check, broker_of: Callable[[str], Any], brokers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brokers.Http, "rate", 10_000)  # else a thousand envelopes take twenty seconds
    broker = broker_of(kind)
    transport_of = getattr(brokers.example(broker.example.removesuffix(".py")), f"{kind}Transport")

    @asynccontextmanager
    async def connect(did: str) -> AsyncIterator[Any]:
        transport = transport_of(broker.url, did)
        try:
            yield transport
        finally:
            await transport.close()

    asyncio.run(check(connect))


class Deaf:
    """A client of a broker that takes a cancellation for an answer, as that of Python 3.11 may; then it has ended."""

    def __init__(self) -> None:
        self.waits = 0

    async def __call__(self, *_arguments: Any, **_named: Any) -> Any:
        return self

    pull_subscribe = xgroup_create = __call__

    async def fetch(self, *_arguments: Any, **_named: Any) -> list[Any]:
        self.waits += 1
        if self.waits > 1:
            raise ConnectionError
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return []
        raise AssertionError

    xreadgroup = fetch


@pytest.mark.parametrize(("kind", "client"), [("Nats", "_stream"), ("Redis", "_redis")])
def test_a_cancellation_that_the_client_loses_ends_the_reading(kind: str, client: str, brokers: ModuleType) -> None:
    pytest.importorskip(kind.lower())
    transport = getattr(brokers.example(f"{kind.lower()}_transport"), f"{kind}Transport")(
        f"{kind}://x".lower(), "did:a:a"
    )
    deaf = Deaf()
    setattr(transport, client, deaf)

    async def main() -> None:
        reading = asyncio.ensure_future(anext(transport.envelopes()))
        while not deaf.waits:
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(main())

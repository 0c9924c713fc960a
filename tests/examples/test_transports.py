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

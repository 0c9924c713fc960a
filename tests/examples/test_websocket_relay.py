"""examples/websocket_relay.py and its agent: what one who holds no key can do to the others, and what not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest

from agentmesh import Agent
from agentmesh.courier import Courier

DEADLINE_SECONDS = 30  # only so that a hang fails
NO_ENVELOPES = ("a", 5, None, ["YQ=="], "\u00e9")


@pytest.fixture
def relayed(brokers: ModuleType) -> Callable[[Callable[[str], Awaitable[None]]], None]:
    """Return what runs a coroutine with the URL of a relay."""
    if what := brokers.WebSocket.missing():
        pytest.skip(what)
    from websockets.asyncio.server import serve

    relay = brokers.example("websocket_relay")

    def run(talk: Callable[[str], Awaitable[None]]) -> None:
        async def main() -> None:
            # No pings, because they would end the connection of who does not read, and so hide that others wait.
            listening = serve(relay.Relay().serve, "127.0.0.1", 0, ping_interval=None)
            async with asyncio.timeout(DEADLINE_SECONDS), listening as server:
                port = next(iter(server.sockets)).getsockname()[1]
                await talk(f"ws://127.0.0.1:{port}")

        asyncio.run(main())

    return run


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Callable[..., Awaitable[dict[str, Any]]]]:
    from websockets.asyncio.client import connect

    async with connect(url, proxy=None, **options) as socket:

        async def ask(do: str, **what: Any) -> dict[str, Any]:
            await socket.send(json.dumps({"n": 1, "do": do, **what}))
            while "answer" not in (said := json.loads(await socket.recv())):
                pass
            return dict(said)

        yield ask


@pytest.mark.parametrize("rubbish", NO_ENVELOPES)
def test_the_relay_keeps_no_rubbish_for_others(relayed: Callable[..., None], rubbish: Any) -> None:
    async def talk(url: str) -> None:
        from websockets.asyncio.client import connect

        with pytest.raises(Exception, match=r"1000|1011"):  # the connection ends
            async with connected(f"{url}/mallory") as ask:
                await ask("publish", to="bob", envelope=rubbish)
        async with connected(f"{url}/mallory") as ask:
            assert (await ask("publish", to="bob", envelope="aGVsbG8="))["ok"]
        async with connect(f"{url}/bob", proxy=None) as bob:
            assert json.loads(await bob.recv())["envelope"] == "aGVsbG8="

    relayed(talk)


@pytest.mark.parametrize("rubbish", NO_ENVELOPES)
def test_rubbish_of_a_relay_is_not_in_the_way_of_what_stands_behind_it(brokers: ModuleType, rubbish: Any) -> None:
    if what := brokers.WebSocket.missing():
        pytest.skip(what)
    from websockets.asyncio.server import ServerConnection, serve

    transport_of = brokers.example("websocket_agent").WebSocketTransport
    told: list[int] = []

    async def careless(socket: ServerConnection) -> None:
        for number, envelope in enumerate((rubbish, "aGVsbG8=")):
            if number not in told:
                await socket.send(json.dumps({"number": number, "envelope": envelope}))
        async for frame in socket:
            asked = json.loads(frame)
            told.append(asked.get("number"))
            await socket.send(json.dumps({"answer": asked["n"], "ok": True, "bundle": None}))

    async def main() -> None:
        async with asyncio.timeout(DEADLINE_SECONDS), serve(careless, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            agent = Agent.create("example/rows", reliable=True)
            transport = transport_of(f"ws://127.0.0.1:{port}", agent.did)
            async with Courier(agent, transport, one_time=0):
                while not {0, 1} <= set(told):
                    await asyncio.sleep(0.01)
            await transport.close()

    asyncio.run(main())


def test_who_does_not_read_stops_nobody_who_writes_to_it(relayed: Callable[..., None]) -> None:
    async def talk(url: str) -> None:
        from websockets.asyncio.client import connect

        async with (
            connect(f"{url}/mallory", proxy=None, max_queue=1, compression=None, close_timeout=0),
            connected(f"{url}/alice") as ask,
        ):
            for _ in range(32):  # more than the system keeps for a connection
                assert (await ask("publish", to="mallory", envelope="YWFh" * 200_000))["ok"]

    relayed(talk)

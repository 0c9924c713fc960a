"""The examples over brokers, as two processes: whoever is killed, every row arrives once, and none is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agentmesh.store import SQLiteStore

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("Nats", "Redis", "WebSocket", "Http")


@pytest.fixture
def broker(request: pytest.FixtureRequest, broker_of: Callable[[str], Any]) -> Any:
    """Give a broker of the kind that the test is for."""
    return broker_of(request.param)


def check(pair: Any, reader: Any, writer: Any) -> None:
    """Let both end, and see that every row is there once, and nothing is left to do."""
    pair.until(lambda: writer.look() == 0, "the writer has ended")
    assert writer.lines("arrived") == [{"event": "arrived", "count": pair.count}]
    assert reader.terminate() == 0, reader.said()
    expected = Counter(f"row {number}" for number in range(pair.count))
    assert Counter(reader.rows()) == expected
    assert Counter(writer.rows()) == expected
    for process in (reader, writer):
        assert process.points == []
        with SQLiteStore(process.store, key=bytes(range(32))) as store:
            agent = store.open_agent("example/rows")
            left = [type(event).__name__ for event in agent.inbox()]
            assert left in ([], ["Delivered"])  # the writer's last, told and written down, and not done


@pytest.mark.parametrize("broker", KINDS, indirect=True)
def test_either_side_is_killed_at_any_point(broker: Any, brokers: ModuleType, tmp_path: Path) -> None:
    point = brokers.Point
    with brokers.pair(broker, tmp_path, 20) as pair:
        reader = pair.reader(
            point("agentmesh:Agent.accept", 1),  # durable, and not sent
            point("agentmesh:Agent.receive", 3),  # durable, and not acknowledged
            point("rows:Table.write", 2, "before"),  # told, and neither written down nor done
            point("rows:Table.write", 3),  # written down, and not done
        )
        pair.until(lambda: bool(reader.lines("ready")), "the reader can be reached")
        did = reader.lines("ready")[0]["did"]
        writer = pair.writer(
            did,
            point("agentmesh:Agent.knock", 1),  # durable, and not sent
            point("agentmesh:Agent.sent", 4, "before"),  # sent, and not known to be
            point("rows:Table.write", 3),  # known to have arrived, and not done
        )
        check(pair, reader, writer)


@pytest.mark.parametrize("broker", KINDS, indirect=True)
def test_the_broker_is_killed(broker: Any, brokers: ModuleType, tmp_path: Path) -> None:
    with brokers.pair(broker, tmp_path, 80) as pair:
        reader = pair.reader()
        pair.until(lambda: bool(reader.lines("ready")), "the reader can be reached")
        writer = pair.writer(reader.lines("ready")[0]["did"])
        for rows in (1, 20):
            pair.until(lambda rows=rows: len(reader.lines("row")) >= rows, "rows arrive")
            broker.kill()
            broker.start()
        check(pair, reader, writer)


def test_a_server_of_nats_that_is_away_is_given_up_at_once_and_quietly(
    brokers: ModuleType, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself the client tries its first connection sixty times, two seconds apart, and logs each at length."""
    errors = pytest.importorskip("nats.errors")
    transport = brokers.example("nats_transport").NatsTransport(f"nats://127.0.0.1:{brokers.free_port()}", "did:a:a")
    refused: list[str] = []

    async def connect(*_arguments: Any, **_named: Any) -> None:
        refused.append("once")
        if len(refused) > 2:
            raise asyncio.CancelledError  # what no client takes for a server that is away
        raise ConnectionRefusedError

    async def main() -> None:
        with pytest.raises((errors.Error, OSError)):
            await transport.publish("did:a:b", b"1")

    monkeypatch.setattr(asyncio, "open_connection", connect)
    asyncio.run(main())
    assert len(refused) == 2
    assert not [record for record in caplog.records if record.name.startswith("nats")]


def test_every_example_is_short_and_stands_in_a_how_to() -> None:
    pages = "".join(page.read_text("utf-8") for page in sorted((ROOT / "docs" / "how-to").glob("*.md")))
    for path in sorted((ROOT / "examples").glob("*.py")):
        assert f"examples/{path.name}" in pages
        assert path.name.startswith("agt_") or len(path.read_text("utf-8").splitlines()) <= 150, path.name

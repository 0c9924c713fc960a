"""examples/agt_agent.py on AGT's own registry and relay: with itself, and with agents of AGT's cryptography."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

COUNT = 150
SEED = "a6" * 32
IMPATIENT = "import agt_agent; agt_agent.SILENCES_SECONDS = (1, 1)"
# AGT's TypeScript client holds what precedes a KNOCK for three seconds, and ends the next session over it.
PATIENT = "import agt_agent; agt_agent.SILENCES_SECONDS = (4, 4)"
Start = Callable[..., Any]
MANNERS = pytest.mark.parametrize("manners", ["kars", "ts"])


def result(count: int) -> dict[str, Any]:
    return {"event": "result", "ok": True, "sent": count, "received": count}


@pytest.fixture
def start(mesh: Any, agt_example: ModuleType) -> Iterator[Start]:
    """Return what starts the example."""
    examples = agt_example.Examples(mesh.registry.url, mesh.relay.url)
    yield examples.start
    examples.stop()


@pytest.fixture
def peer(mesh: Any, started: Any, agt_environment: Any) -> Start:
    """Return what starts an agent of theirs: the process, and its DID."""

    def start(**options: Any) -> tuple[Any, str]:
        worker = started.worker(agt_environment, "agt_peer.py")
        options = {"registry": mesh.registry.url, "relay": mesh.relay.url, **options}
        return worker, worker.ask("start", **options)["did"]

    return start


def test_with_itself(start: Start) -> None:
    waiter = start("wait", name="bob", count=COUNT)
    initiator = start("initiate", "--peer-did", waiter.ready(), name="alice", count=COUNT)
    assert initiator.end() == (0, result(COUNT), "")
    assert waiter.end() == (0, result(COUNT), "")


def test_it_finds_itself_by_name(start: Start) -> None:
    waiter = start("wait", name="a pair of this test")
    waiter.ready()
    assert start("initiate", name="a pair of this test").end() == (0, result(10), "")
    assert waiter.end() == (0, result(10), "")


@MANNERS
def test_it_initiates(start: Start, peer: Start, manners: str) -> None:
    _, did = peer(manners=manners, echo=True)
    assert start("initiate", "--peer-did", did, count=COUNT).end() == (0, result(COUNT), "")


@MANNERS
def test_it_waits_and_echoes_what_came_as_it_came(start: Start, peer: Start, manners: str) -> None:
    waiter = start("wait", count=COUNT + 5)
    did = waiter.ready()
    theirs, _ = peer(manners=manners)
    forms: list[Any] = [{"b64": "//79"}, {"json": {"a": [1, None, "\u00e9"]}}, {"json": []}, "\u00e9\u2603", ""]
    payloads = [*forms, *(f"text {number}" for number in range(COUNT))]
    for first in range(0, len(payloads), 31):  # in bursts, and turns
        said = payloads[first : first + 31]
        theirs.ask("send", to=did, payloads=said)
        events = theirs.ask("take", count=len(said), only="message")["events"]
        echoed = [event for event in events if event["event"] == "message"]
        assert [
            event.get("text", {form: event[form] for form in ("b64", "json") if form in event}) for event in echoed
        ] == said
    assert waiter.end() == (0, result(COUNT + 5), "")


@MANNERS
def test_a_peer_that_was_restarted_is_reached_again(start: Start, peer: Start, manners: str) -> None:
    theirs, did = peer(manners=manners, echo=True)
    initiator = start("initiate", "--peer-did", did, count=400, changes=PATIENT)
    theirs.ask("take", count=20, only="message")
    theirs.ask("restart")
    assert initiator.end()[:2] == (0, result(400))


@MANNERS
def test_it_reaches_a_peer_that_remembers_it_from_before(start: Start, peer: Start, manners: str) -> None:
    _, did = peer(manners=manners, echo=True)
    for _ in range(2):
        assert start("initiate", "--peer-did", did, "--seed", SEED, changes=IMPATIENT).end()[:2] == (0, result(10))


@MANNERS
def test_a_peer_that_is_away_finds_it_all_when_it_is_back(start: Start, peer: Start, manners: str) -> None:
    theirs, did = peer(manners=manners, echo=True)
    theirs.ask("drop")
    initiator = start("initiate", "--peer-did", did)
    initiator.ready()
    theirs.ask("connect")
    assert initiator.end()[:2] == (0, result(10))


def test_a_relay_that_is_restarted_is_found_again(
    agt_environment: Any, agt_example: ModuleType, lasting: Any, started: Any
) -> None:
    registry, relay = (started.server(agt_environment, kind) for kind in ("registry", "relay"))
    examples = agt_example.Examples(registry.url, relay.url)
    try:
        waiter = examples.start("wait", count=5000)
        did = waiter.ready()
        initiator = examples.start("initiate", "--peer-did", did, count=400, changes=IMPATIENT)
        initiator.ready()
        relay.stop()
        relay.restart()
        assert initiator.end()[:2] == (0, result(400))
        waiter.signal(signal.SIGTERM)
        assert waiter.end().result["received"] >= 400
    finally:
        examples.stop()

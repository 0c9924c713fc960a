"""examples/agt_agent.py as its users run it, and as they see it fail: against servers that behave as AGT's."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import signal
import socket
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentmesh import Grant
from agentmesh.agt import AgtAgent, AgtFrame, AgtIdentity, payload, stage

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
DID = "did:mesh:" + "0" * 32
SEED = "5e" * 32
SEEDED_DID = AgtIdentity.from_seed(bytes.fromhex(SEED)).did
IMPATIENT = "import agt_agent; agt_agent.SILENCES_SECONDS = (0.5, 0.5)"
PATIENT = "import agt_agent; agt_agent.SILENCES_SECONDS = (2, 2)"  # longer than the pause before a new connection
BUSY = "import agt_participant; agt_participant.TICK_SECONDS = 0.05"
Start = Callable[..., Any]


def result(count: int, *, ok: bool = True) -> dict[str, Any]:
    return {"event": "result", "ok": ok, "sent": count, "received": count}


def check_sent_once(relay: Any) -> None:
    """No frame has left twice: neither its id nor what is sealed in it."""
    routed = [frame for frame in relay.frames if "id" in frame and frame["type"] != "ack"]
    ids = [frame["id"] for frame in routed]
    assert len(set(ids)) == len(ids)
    sealed = [frame["ciphertext"] for frame in relay.of("message")]
    assert len(set(sealed)) == len(sealed)


def test_two_agents_converse(start: Start, servers: Any) -> None:
    waiter = start("wait", name="bob", count=120)
    did = waiter.ready()
    initiator = start("initiate", "--peer-did", did, name="alice", count=120)
    assert initiator.end() == (0, result(120), "")
    assert waiter.end() == (0, result(120), "")
    assert len(servers.relay.of("knock")) == 1
    assert len(servers.relay.of("message", did)) == 120
    assert len(servers.relay.of("disconnect")) == 2
    check_sent_once(servers.relay)


@pytest.mark.parametrize("role", ["wait", "initiate"])
def test_nothing_to_do_is_done_at_once(start: Start, servers: Any, role: str) -> None:
    running = start(role, "--peer-did", DID, "--seed", SEED, count=0)
    assert running.ready() == SEEDED_DID
    assert running.end() == (0, result(0), "")
    assert not servers.relay.of("knock")


def test_a_peer_that_is_not_there_yet_is_waited_for(start: Start, servers: Any) -> None:
    initiator = start("initiate", "--peer-did", SEEDED_DID)
    servers.registry.until(lambda: servers.registry.asked.count(("GET", f"/v1/agents/{SEEDED_DID}/prekeys")) >= 2)
    waiter = start("wait", "--seed", SEED)
    assert initiator.end()[:2] == waiter.end()[:2] == (0, result(10))


def test_servers_that_are_not_there_yet_are_waited_for(start: Start, servers: Any) -> None:
    for server in servers:
        server.stop()
    waiter = start("wait", "--seed", SEED)
    initiator = start("initiate", "--peer-did", SEEDED_DID)
    for server in servers:
        server.start()
    assert initiator.end()[:2] == waiter.end()[:2] == (0, result(10))


def test_the_one_other_agent_of_the_same_name_is_found(start: Start) -> None:
    waiter = start("wait", name="the pair")
    waiter.ready()
    assert start("initiate", name="the pair").end()[:2] == (0, result(10))
    assert waiter.end()[:2] == (0, result(10))


def test_of_several_agents_of_one_name_none_is_guessed(start: Start) -> None:
    for _ in range(2):
        start("wait", name="the pair").ready()
    status, last, said = start("initiate", name="the pair").end()
    assert (status, last["ok"], last["sent"]) == (1, False, 0)
    assert "--peer-did" in said


def test_a_waiter_with_a_peer_listens_to_no_other(start: Start, servers: Any) -> None:
    waiter = start("wait", "--peer-did", SEEDED_DID)
    did = waiter.ready()
    stranger = start("initiate", "--peer-did", did, changes=IMPATIENT)
    servers.relay.until(lambda: len(servers.relay.of("message")) >= 2)
    assert start("initiate", "--peer-did", did, "--seed", SEED).end()[:2] == (0, result(10))
    assert waiter.end()[:2] == (0, result(10))
    stranger.signal(signal.SIGTERM)
    assert stranger.end().result["received"] == 0


# --- what is lost, and what comes back -------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["the waiter's", "the initiator's"])
def test_a_connection_that_is_cut_is_made_anew(start: Start, servers: Any, whose: str) -> None:
    waiter = start("wait", count=2000)
    did = waiter.ready()
    initiator = start("initiate", "--peer-did", did, count=300, changes=PATIENT)
    own = initiator.ready()
    servers.relay.until(lambda: len(servers.relay.of("message", did)) >= 20)
    servers.relay.lose.add("message")  # with the connection
    servers.relay.until(lambda: not servers.relay.lose)
    servers.relay.cut(did if whose == "the waiter's" else own)
    assert initiator.end()[:2] == (0, result(300))
    check_sent_once(servers.relay)
    if whose == "the initiator's":  # it saw the cut itself: the message is said again, and the session goes on
        assert len(servers.relay.of("knock")) == 1
    waiter.signal(signal.SIGTERM)
    assert waiter.end().result["received"] >= 300


def test_a_relay_that_is_restarted_is_found_again(start: Start, servers: Any) -> None:
    waiter = start("wait", "--seed", SEED, count=2000)
    waiter.ready()
    initiator = start("initiate", "--peer-did", SEEDED_DID, count=300, changes=IMPATIENT)
    servers.relay.until(lambda: len(servers.relay.of("message", SEEDED_DID)) >= 20)
    servers.relay.stop()
    servers.relay.start()
    assert initiator.end()[:2] == (0, result(300))
    check_sent_once(servers.relay)
    waiter.signal(signal.SIGTERM)
    assert waiter.end().result["received"] >= 300


@pytest.mark.parametrize("kind", ["knock", "message"])
def test_what_the_relay_loses_is_said_again_in_another_frame(start: Start, servers: Any, kind: str) -> None:
    waiter = start("wait", count=10)
    did = waiter.ready()
    servers.relay.lose.add(kind)
    initiator = start("initiate", "--peer-did", did, count=10, changes=IMPATIENT)
    assert initiator.end()[:2] == waiter.end()[:2] == (0, result(10))
    assert len(servers.relay.of("knock")) == 2
    check_sent_once(servers.relay)


def test_a_peer_that_has_forgotten_everything_is_knocked_on_again(start: Start, servers: Any) -> None:
    first = start("wait", "--seed", SEED, count=2000)
    first.ready()
    initiator = start("initiate", "--peer-did", SEEDED_DID, count=300, changes=IMPATIENT)
    servers.relay.until(lambda: len(servers.relay.of("message", SEEDED_DID)) >= 20)
    first.kill()
    second = start("wait", "--seed", SEED, count=2000)
    assert initiator.end()[:2] == (0, result(300))
    second.signal(signal.SIGTERM)
    assert second.end().result["received"] >= 200


def test_an_agent_in_a_store_answers_what_came_while_it_was_away(start: Start, servers: Any, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(os.urandom(32))
    kept = ("--store", str(tmp_path / "bob.mesh"), "--key-file", str(tmp_path / "key"))
    waiter = start("wait", *kept, count=5)
    did = waiter.ready()
    assert start("initiate", "--peer-did", did, count=5).end()[:2] == waiter.end()[:2] == (0, result(5))
    initiator = start("initiate", "--peer-did", did, count=5)
    servers.relay.until(lambda: any(frame["type"] == "message" for frame in servers.relay.stored.values()))
    waiter = start("wait", *kept, count=5)
    assert waiter.ready() == did
    assert initiator.end()[:2] == waiter.end()[:2] == (0, result(5))
    assert len(servers.relay.of("knock")) == 2
    assert not servers.relay.stored


def test_heartbeats_bring_mail_to_who_says_nothing_else(start: Start, servers: Any, agt_servers: Any) -> None:
    relay = agt_servers.Relay(patience_seconds=2)
    try:
        often = "import agentmesh.agt.link as link; link.HEARTBEAT_MS = 200"
        waiter = start("wait", "--relay", relay.url, count=3, changes=often)
        did = waiter.ready()
        relay.until(lambda: len(relay.of("heartbeat", did)) >= 12)  # over two seconds' worth
        initiator = start("initiate", "--relay", relay.url, "--peer-did", did, count=3)
        assert initiator.end()[:2] == waiter.end()[:2] == (0, result(3))
        assert not relay.stored
    finally:
        relay.stop()


def test_a_registry_that_has_forgotten_an_agent_is_told_of_it_again(start: Start, servers: Any) -> None:
    did = start("wait", changes=BUSY).ready()
    servers.registry.stop()
    servers.registry.start()
    servers.registry.until(lambda: did in servers.registry.prekeys)


def test_prekeys_are_topped_up(start: Start, servers: Any) -> None:
    low = "import agentmesh.agt as agt, agentmesh\nagt.AgtAgent.poll = lambda _: (agentmesh.StockLow(unused=1),)"
    did = start("wait", changes=f"{BUSY}\n{low}").ready()
    servers.registry.until(lambda: servers.registry.asked.count(("PUT", f"/v1/agents/{did}/prekeys")) >= 3)


class Welcome:
    def may_knock(self, _sender: Any) -> bool:
        return True

    def decide(self, _knock: Any) -> Grant:
        return Grant()

    def still_allowed(self, _peer: Any) -> bool:
        return True


def pair() -> tuple[AgtAgent, AgtAgent]:
    """Return two agents, of which the first has knocked on the second."""
    alice, bob = AgtAgent.create("agt"), AgtAgent.create("agt", policy=Welcome())
    upload = json.loads(bob.publish_prekeys(1).body)
    upload["one_time_pre_key"] = upload["one_time_pre_keys"][0]
    bob.receive(alice.knock(bob.did, json.dumps(upload).encode()))
    return alice, bob


class Cut:
    """A socket that is cut as it takes its first frame, so that nobody knows whether that got through."""

    def __init__(self, error: Any) -> None:
        self.texts: list[str] = []
        self._error = error

    async def send(self, text: str) -> None:
        self.texts.append(text)
        if len(self.texts) == 1:
            raise self._error(None, None)


def test_a_frame_whose_fate_is_unknown_is_made_anew(monkeypatch: pytest.MonkeyPatch, agt_example: Any) -> None:
    participant = agt_example.module("agt_participant")
    monkeypatch.setattr(participant, "PAUSE_FIRST_SECONDS", 0)
    alice, bob = pair()
    one = participant.Participant(alice, "alice", "http://127.0.0.1:1", "ws://127.0.0.1:1")
    one._socket = cut = Cut(participant.ConnectionClosed)

    async def make() -> AgtFrame:
        return alice.send(bob.did, b"hello")

    async def ship() -> None:
        one._is_connected.set()
        await one.ship(make)

    asyncio.run(ship())
    first, second = (bob.receive(text)[-1] for text in cut.texts)
    assert (first.number, first.plaintext) == (1, b"hello")
    assert (second.number, second.plaintext) == (2, b"hello")


@pytest.mark.parametrize(
    ("given", "is_json"),
    [
        ("\u00e9\u2603".encode(), False),
        (b"", False),
        (b"\xff{", False),
        (b"5", False),
        (b"{no JSON", False),
        (b'{"a": [1, null], "z": 1.0}', True),
        (b" [1e400] ", True),
        (b'"text"', False),
    ],
)
def test_an_echo_is_of_the_form_in_which_it_came(
    monkeypatch: pytest.MonkeyPatch, agt_example: Any, given: bytes, is_json: bool
) -> None:
    example = agt_example.module("agt_agent")
    alice, bob = pair()
    plaintexts: list[bytes] = []
    monkeypatch.setattr(stage, "unwrap", lambda plaintext: (plaintexts.append(plaintext), payload.unwrap(plaintext))[1])
    event = bob.receive(alice.send(bob.did, given, json=is_json))[-1]
    [echo] = alice.receive(example.echo_of(bob, event))
    assert echo.plaintext == event.plaintext == given
    sent, echoed = plaintexts
    assert sent == echoed


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("role", ["wait", "initiate"])
def test_a_signal_ends_it_in_order(start: Start, servers: Any, number: int, role: str) -> None:
    running = start(role, "--peer-did", DID)
    running.ready()
    running.signal(number)
    status, last, said = running.end()
    assert (status, last["ok"], last["received"]) == (1, False, 0)
    assert "told to stop" in said


@pytest.mark.parametrize("role", ["wait", "initiate"])
def test_it_waits_for_nobody_for_ever(start: Start, role: str) -> None:
    status, last, said = start(role, "--peer-did", DID, "--deadline", "0.5").end()
    assert (status, last["ok"]) == (1, False)
    assert "out of time" in said


def test_a_registry_that_never_answers_does_not_hold_it_up(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        patient = "import agt_participant; agt_participant.ANSWER_SECONDS = 1000"
        status, last, _ = start("wait", "--registry", url, "--deadline", "0.5", changes=patient).end()
    assert (status, last) == (1, result(0, ok=False))


def test_who_is_replaced_does_not_come_back(start: Start, servers: Any) -> None:
    waiter = start("wait", "--seed", SEED)
    servers.relay.until(lambda: servers.relay.is_there(SEEDED_DID))
    other = start("wait", "--seed", SEED)
    other.ready()
    status, last, said = waiter.end()
    assert (status, last) == (1, result(0, ok=False))
    assert "taken its place" in said
    assert servers.relay.is_there(SEEDED_DID)


def test_frames_of_no_use_are_acknowledged_and_passed_over(start: Start, servers: Any) -> None:
    waiter = start("wait")
    did = waiter.ready()
    servers.relay.until(lambda: servers.relay.is_there(did))
    for frame in (
        {"type": "error", "detail": "\x1b[31m"},
        {"type": "news", "id": "a", "from": DID, "to": did},
        {"type": "message", "id": "b", "from": DID, "to": did},
        {"type": "knock", "id": "c", "from": DID, "to": did, "establishment": {"ik": "AA==", "ek": "AA=="}},
    ):
        servers.relay.push(did, frame)
    servers.relay.until(lambda: [frame["id"] for frame in servers.relay.of("ack")] == ["a", "b", "c"])
    assert start("initiate", "--peer-did", did).end()[:2] == (0, result(10))
    status, last, said = waiter.end()
    assert (status, last) == (0, result(10))
    assert said.isascii()
    assert "\x1b" not in said


@pytest.mark.parametrize(
    "options",
    [
        ("--peer-did", "did:mesh:nobody"),
        ("--seed", "5e"),
        ("--seed", "no hex"),
        ("--registry", "ftp://127.0.0.1/"),
        ("--relay", "127.0.0.1:8083"),
        ("--store", "missing/bob.mesh", "--key-file", "missing/key"),
    ],
)
def test_what_cannot_be_is_said_and_not_tried(start: Start, options: tuple[str, ...]) -> None:
    status, last, said = start("initiate", *options).end()
    assert (status, last) == (1, result(0, ok=False))
    assert said
    assert "Traceback" not in said


# --- what it is made of ----------------------------------------------------------------------------------------------


def test_it_needs_what_its_extra_names_and_the_library_does_not() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {requirement.partition(">=")[0] for requirement in project["optional-dependencies"]["examples"]}
    own = {path.stem for path in EXAMPLES}
    needed = set()
    for path in EXAMPLES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            needed |= {module.partition(".")[0] for module in modules}
    # What is imported, by what is installed: FastAPI's models are pydantic's.
    needed = {{"nats": "nats-py", "pydantic": "fastapi"}.get(name, name) for name in needed}
    assert needed - own - set(sys.stdlib_module_names) - {"agentmesh"} == named
    assert not named & {requirement.partition(">=")[0] for requirement in project["dependencies"]}

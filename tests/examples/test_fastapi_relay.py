"""examples/fastapi_relay.py, asked over HTTP without a network: what it lets pass, and what it writes down."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import Agent, Intent, Limits
from agentmesh.audit import AuditLog, MemorySink
from agentmesh.engine.offers import Offers
from agentmesh.engine.outbox import Outbox
from agentmesh.primitives.keys import Receipt
from agentmesh.relay import RelayLimiter
from agentmesh.store import LogFile


@pytest.fixture
def ask(brokers: ModuleType) -> Callable[..., None]:
    """Return what runs a conversation with a relay."""
    if what := brokers.Http.missing():
        pytest.skip(what)
    import httpx

    relay = brokers.example("fastapi_relay")

    def run(talk: Callable[[Any], Coroutine[Any, Any, None]], *, log: AuditLog | None = None, **limits: Any) -> None:
        made = relay.Relay(AuditLog(MemorySink()) if log is None else log, RelayLimiter(**limits))
        transport = httpx.ASGITransport(app=relay.app_of(made))

        async def main() -> None:
            async with httpx.AsyncClient(transport=transport, base_url="http://relay") as http:
                await talk(http)

        asyncio.run(main())

    return run


def knocks(number: int) -> tuple[str, list[bytes]]:
    """Return whom they are for, and so many KNOCKs."""
    bob = Agent.create("example/relay")
    shelf = bob.publish_bundles(number)
    return bob.did, [
        Agent.create("example/relay").knock(bob.did, bundle, Intent("x")).envelope for bundle in shelf.one_time
    ]


def test_what_passes_is_kept_until_it_is_acknowledged(ask: Callable[..., None]) -> None:
    did, envelopes = knocks(2)

    async def talk(http: Any) -> None:
        assert (await http.get(f"/for/{did}")).status_code == 204
        for envelope in [*envelopes, envelopes[0]]:
            assert (await http.post(f"/to/{did}", content=envelope)).status_code == 202
        first = await http.get(f"/for/{did}")
        assert first.content == envelopes[0]
        number = int(first.headers["X-Number"])
        second = await http.get(f"/for/{did}", params={"after": number})
        assert second.content == envelopes[1]
        after = {"after": int(second.headers["X-Number"])}
        assert (
            await http.get(f"/for/{did}", params=after)
        ).status_code == 204  # the third was the first, offered again
        assert (await http.delete(f"/for/{did}/{number}")).status_code == 204
        assert (await http.get(f"/for/{did}")).content == envelopes[1]

    ask(talk)


def test_a_copy_is_not_kept_beside_the_first_and_passes_once_that_is_acknowledged(ask: Callable[..., None]) -> None:
    did, [envelope] = knocks(1)
    now_ms, log = [0], AuditLog(MemorySink())

    async def talk(http: Any) -> None:
        for now_ms[0] in (0, 10_000):
            assert (await http.post(f"/to/{did}", content=envelope)).status_code == 202
        number = int((await http.get(f"/for/{did}")).headers["X-Number"])
        assert (await http.get(f"/for/{did}", params={"after": number})).status_code == 204
        assert (await http.delete(f"/for/{did}/{number}")).status_code == 204
        for now_ms[0], status in ((11_000, 204), (20_000, 200)):
            assert (await http.post(f"/to/{did}", content=envelope)).status_code == 202
            assert (await http.get(f"/for/{did}")).status_code == status

    ask(talk, log=log, replay_window_seconds=3, clock=lambda: now_ms[0])
    assert len(log) == 2  # a copy of what is kept passes nobody


@given(receipt=st.binary(min_size=32, max_size=32))
def test_what_an_agent_offers_again_comes_behind_the_window(receipt: bytes, brokers: ModuleType) -> None:
    if what := brokers.Http.missing():
        pytest.skip(what)
    window_ms = 1000 * brokers.example("fastapi_relay").REPLAY_SECONDS
    offers, outbox = Offers(Limits()), Outbox()
    offers.handed_over(Receipt(receipt), outbox, 0)
    assert offers._paused[Receipt(receipt)][1] >= 3750 > window_ms


def test_whoever_sends_too_much_is_told_to_wait_and_nothing_is_kept_or_logged(ask: Callable[..., None]) -> None:
    did, envelopes = knocks(3)
    log = AuditLog(MemorySink())

    async def talk(http: Any) -> None:
        answers = [await http.post(f"/to/{did}", content=envelope) for envelope in envelopes]
        assert [answer.status_code for answer in answers] == [202, 202, 429]
        assert answers[2].json() == {"detail": "knock.busy"}
        assert answers[2].headers["Retry-After"] == "1"
        after = {"after": 2}
        assert (await http.get(f"/for/{did}", params=after)).status_code == 204

    ask(talk, log=log, per_identity=2, clock=lambda: 0)
    assert len(log) == 2


@pytest.mark.parametrize(
    ("body_of", "status"),
    [
        (lambda envelope: b"rubbish", 400),
        (lambda envelope: envelope[:-1], 400),
        (lambda envelope: envelope + bytes(3 << 20), 413),
    ],
)
def test_what_is_no_envelope_does_not_pass(
    ask: Callable[..., None], body_of: Callable[[bytes], bytes], status: int
) -> None:
    did, [envelope] = knocks(1)
    log = AuditLog(MemorySink())

    async def talk(http: Any) -> None:
        assert (await http.post(f"/to/{did}", content=body_of(envelope))).status_code == status
        assert (await http.get(f"/for/{did}")).status_code == 204

    ask(talk, log=log)
    assert len(log) == 0


def test_an_envelope_passes_to_its_own_recipient_alone(ask: Callable[..., None]) -> None:
    did, [envelope] = knocks(1)

    async def talk(http: Any) -> None:
        assert (await http.post("/to/did:agentmesh:other", content=envelope)).status_code == 400
        assert (await http.post(f"/to/{did}", content=envelope)).status_code == 202

    ask(talk)


def test_a_bundle_is_served_once_and_the_last_resort_as_often_as_it_is_asked_for(ask: Callable[..., None]) -> None:
    async def talk(http: Any) -> None:
        async def take() -> Any:
            return (await http.post("/bundles/did/take")).json()

        assert await take() is None
        for one_time, last_resort in ((["a", "b"], "z"), (["b", "c"], None)):  # put twice, it is there once
            put = await http.put("/bundles/did", json={"one_time": one_time, "last_resort": last_resort})
            assert put.status_code == 204
        assert [await take() for _ in range(5)] == ["a", "b", "c", "z", "z"]
        for body in ({"one_time": ["x"] * 1001, "last_resort": None}, {"one_time": [], "last_resort": "x" * 9000}):
            assert (await http.put("/bundles/did", json=body)).status_code == 422

    ask(talk)


def test_the_log_needs_no_key_and_the_command_line_verifies_it(ask: Callable[..., None], tmp_path: Path) -> None:
    did, envelopes = knocks(3)

    async def talk(http: Any) -> None:
        for envelope in envelopes:
            await http.post(f"/to/{did}", content=envelope)

    with LogFile(tmp_path / "relay.log") as file:
        log = AuditLog(file)
        ask(talk, log=log)
        assert len(log) == 3
    command = [sys.executable, "-m", "agentmesh", "audit", "verify", str(tmp_path / "relay.log")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "3" in done.stdout
    damaged = bytearray((tmp_path / "relay.log").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "relay.log").write_bytes(damaged)
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode != 0


NO_BUNDLES = (
    b'{"one_time":["' + b"a" * (11 << 20) + b'"]}',
    b'{"one_time":["\\ud800"]}',
    b"[" * 10_000,
    b'{"one_time":[1]}',
    b'{"one_time":[],"last_resort":"\\u00e9"}',
)


@pytest.mark.parametrize("body", NO_BUNDLES, ids=("long", "surrogate", "deep", "number", "letter"))
def test_what_are_no_bundles_is_not_put_on_the_shelf(ask: Callable[..., None], body: bytes) -> None:
    async def talk(http: Any) -> None:
        put = await http.put("/bundles/bob", content=body, headers={"Content-Type": "application/json"})
        assert put.status_code in (413, 422)
        taken = await http.post("/bundles/bob/take")
        assert (taken.status_code, taken.json()) == (200, None)

    ask(talk)


@pytest.mark.parametrize("wait", ["nan", "inf", "-1", "1e9"])
def test_nobody_waits_for_longer_than_is_offered(ask: Callable[..., None], wait: str) -> None:
    async def talk(http: Any) -> None:
        async with asyncio.timeout(15):
            assert (await http.get(f"/for/bob?wait_seconds={wait}")).status_code == 422

    ask(talk)


def test_who_asks_for_agents_that_are_not_there_fills_nothing(brokers: ModuleType) -> None:
    if what := brokers.Http.missing():
        pytest.skip(what)
    made = brokers.example("fastapi_relay").Relay(AuditLog(MemorySink()), RelayLimiter())

    async def run() -> None:
        for number in range(20):
            assert await made.next_for(f"did:{number}", 0, 0) is None
            assert made.take(f"did:{number}") is None
            made.acknowledge(f"did:{number}", 1)

    asyncio.run(run())
    assert (len(made._queues), len(made._bundles)) == (0, 0)

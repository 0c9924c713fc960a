"""AGT's client as npm publishes it, 4.0.0: what it can do with today's servers and today's agents, and what not.

It knows no proof of possession, so the registry takes it only with a proof that the test adds, and the relay only where
its demand for proofs is off. And it derives the first key otherwise: with anybody but itself the first message fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from agentmesh.errors import LegacyPeer

Start = Callable[..., tuple[Any, str]]


class Urls(NamedTuple):
    registry: str
    relay: str


@pytest.fixture(scope="module")
def urls(agt_environment: Any, lasting: Any) -> Urls:
    """Give AGT's servers, with a relay that demands no proof of possession."""
    registry = lasting.server(agt_environment, "registry")
    return Urls(registry.url, lasting.server(agt_environment, "relay", proofs=False).url)


@pytest.fixture
def npm(urls: Urls, started: Any, npm_environment: Any) -> Start:
    def start(*, proof: bool = True) -> tuple[Any, str]:
        worker = started.worker(npm_environment, "npm_peer.cjs")
        return worker, worker.ask("start", proof=proof, **urls._asdict())["did"]

    return start


@pytest.fixture
def peer(urls: Urls, started: Any, agt_environment: Any) -> Start:
    def start(**options: Any) -> tuple[Any, str]:
        worker = started.worker(agt_environment, "agt_peer.py")
        return worker, worker.ask("start", **urls._asdict(), **options)["did"]

    return start


def kinds(worker: Any, count: int) -> list[str]:
    return [event["event"] for event in worker.ask("take", count=count)["events"]]


def test_todays_registry_refuses_it_as_published(npm: Start) -> None:
    with pytest.raises(AssertionError, match="register failed: 422"):
        npm(proof=False)


def test_two_of_them_converse_once_they_are_registered(npm: Start) -> None:
    (one, one_did), (other, other_did) = npm(), npm()
    sent = [{"number": number, "text": "\u00e9\u2603"} for number in range(100)]
    one.ask("send", to=other_did, payloads=sent)
    [knock, *messages] = other.ask("take", count=101)["events"]
    assert knock == {"event": "knock", "sender": one_did}
    assert [event["payload"] for event in messages] == sent
    other.ask("send", to=one_did, payloads=sent)
    assert [event["payload"] for event in one.ask("take", count=100)["events"]] == sent


def test_it_and_todays_agents_cannot_read_each_other(npm: Start, peer: Start) -> None:
    (one, one_did), (today, today_did) = npm(), peer()
    one.ask("send", to=today_did, payloads=["first"])
    assert kinds(today, 2) == ["knock", "undecryptable"]
    (one, one_did), (today, _) = npm(), peer()
    today.ask("send", to=one_did, payloads=["first"])
    assert kinds(one, 2) == ["knock", "session_desync"]


def test_ours_names_what_its_first_key_is(npm: Start, make_ours: Callable[..., Any], urls: Urls) -> None:
    we = make_ours(*urls)
    one, one_did = npm()
    one.ask("send", to=we.agent.did, payloads=["first", "second"])
    assert we.hear(3) == []
    assert we.refused == [LegacyPeer, LegacyPeer]
    assert we.agent.sessions(one_did) == ()
    we.knock(one_did)
    we.send(one_did, "first")
    assert kinds(one, 2) == ["knock", "session_desync"]

"""AGT's client as npm publishes it, 4.0.0: what it can do with today's servers and today's agents, and what not.

It knows no proof of possession, so the registry takes it only with a proof that the test adds, and the relay only where
its demand for proofs is off. And it derives the first key otherwise: with anybody but itself the first message fails.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from agentmesh.agt.agreement import context_of, respond
from agentmesh.agt.frames import KnockFrame, MessageFrame, connect_frame, parse_frame
from agentmesh.agt.registry import HttpRequest, OneTimePublic, registration, sign_prekey, upload
from agentmesh.agt.suite import receiving_first
from agentmesh.agt_identity import AgtIdentity
from agentmesh.errors import DecryptionFailed
from agentmesh.limits import Limits
from agentmesh.primitives import _crypto
from agentmesh.primitives.entropy import SystemEntropy
from agentmesh.primitives.keys import X25519PublicKey, X25519Secret

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


class Ours:
    """An identity of ours with prekeys on the registry, and a connection to the relay."""

    def __init__(self, wire: Any, urls: Urls) -> None:
        self.identity = AgtIdentity.generate()
        self.secrets = [X25519Secret(SystemEntropy().token(32)) for _ in range(2)]
        self.publics = [X25519PublicKey(_crypto.x25519_public(secret)) for secret in self.secrets]
        self._wire, self._urls = wire, urls
        now_ms = time.time_ns() // 1_000_000
        self._request(registration(self.identity, now_ms), 201)
        signed = sign_prekey(self.identity, 0, self.publics[0])
        self._request(upload(self.identity, now_ms, signed, [OneTimePublic(0, self.publics[1])]), 200)
        wire.ask("open", relay=urls.relay)
        wire.ask("raw", frames=[connect_frame(self.identity, now_ms).decode()])
        assert wire.ask("sync") == {"closed": None}

    def _request(self, request: HttpRequest, status: int) -> None:
        url, body = self._urls.registry + request.path, request.body.decode()
        answer = self._wire.ask("http", method=request.method, url=url, headers=request.headers, body=body)
        assert answer["status"] == status, answer

    def came(self, count: int) -> list[Any]:
        events = self._wire.ask("take", count=count)["events"]
        return [parse_frame(json.dumps(event["frame"]), 1 << 20) for event in events]


def test_its_first_key_is_recognised(npm: Start, urls: Urls, started: Any, agt_environment: Any) -> None:
    ours = Ours(started.worker(agt_environment, "agt_wire.py"), urls)
    one, one_did = npm()
    one.ask("send", to=ours.identity.did, payloads=["first"])
    knock, message = ours.came(2)
    assert isinstance(knock, KnockFrame)
    assert isinstance(message, MessageFrame)
    assert knock.sender == one_did
    assert knock.one_time_id == 0
    context = context_of(one_did, ours.identity.did, knock.dh, ours.identity.key.dh)
    signed, one_time = ours.secrets

    def opened(*, legacy: bool) -> bytes:
        root = respond(ours.identity, knock.dh, knock.ephemeral, signed, one_time, legacy=legacy)
        return receiving_first(root, signed, ours.publics[0]).open(message.message, context, 0, Limits()).plaintext

    with pytest.raises(DecryptionFailed):
        opened(legacy=False)
    assert opened(legacy=True) == b'"first"'

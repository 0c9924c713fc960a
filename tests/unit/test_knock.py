"""Intents, and the arguments of the layers below the façade: what no peer would take is refused where it is made."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.errors import ArgumentInvalid, BadPoint, RandomnessFailed
from agentmesh.handshake.agreement import initiate
from agentmesh.handshake.knock import Intent, KnockContent, decode_content, encode_content
from agentmesh.handshake.prekeys import BundleClass, issue_bundle, verify_bundle
from agentmesh.handshake.verdict import Conditions
from agentmesh.identity import Identity, IdentityKey
from agentmesh.limits import COUNTER_MAX, Limits
from agentmesh.primitives import _crypto, aead
from agentmesh.primitives._labels import INTENT
from agentmesh.primitives.entropy import CheckedEntropy
from agentmesh.session.chains import SendingChain
from agentmesh.session.established import Session
from agentmesh.testing import SeededEntropy, agent_pair, established_pair
from agentmesh.testing.strategies import intents

MESH = "example/test"
NOW_MS = 1_767_225_600_000


@given(intents(), st.none() | st.binary(max_size=200), st.booleans())
def test_a_content_comes_back_as_it_was(intent: Intent, early_payload: bytes | None, fresh: bool) -> None:
    content = KnockContent(intent=intent, early_payload=early_payload, fresh=fresh)
    assert decode_content(encode_content(content, Limits()), Limits()) == content


def test_a_description_is_the_detail_as_text() -> None:
    assert Intent("act", description="Grüße").detail == "Grüße".encode()
    assert Intent("act", detail="Grüße".encode()).description == "Grüße"
    assert Intent("act").description == ""
    assert Intent("act", detail=b"\xff").description is None


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("action", {"action": ""}),
        ("action", {"action": "x" * 129}),
        ("action", {"action": "é" * 65}),
        ("action", {"action": b"act"}),
        ("action", {"action": "\ud800"}),
        ("capabilities", {"capabilities": "one"}),
        ("capabilities", {"capabilities": 5}),
        ("capabilities", {"capabilities": ["x" * 129]}),
        ("capabilities", {"capabilities": [b"x"]}),
        ("description", {"description": b"x"}),
        ("description", {"description": "\udfff"}),
        ("detail", {"description": "x", "detail": b"x"}),
        ("detail", {"detail": "x"}),
        ("detail", {"detail": [120]}),
        ("capabilities", {"capabilities": b"one"}),
        ("capabilities", {"capabilities": repeat("endless")}),
    ],
)
def test_an_intent_that_cannot_travel_is_not_made(argument: str, given: dict[str, Any]) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        Intent(**{"action": "act", **given})
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("content", "argument"),
    [
        (KnockContent(intent=Intent("a", capabilities=["b"] * 3), early_payload=None, fresh=True), "intent"),
        (KnockContent(intent=Intent("a", detail=bytes(11)), early_payload=None, fresh=True), "intent"),
        (KnockContent(intent=Intent("a"), early_payload=bytes(21), fresh=True), "early_payload"),
    ],
)
def test_a_content_over_a_limit_is_not_sent(content: KnockContent, argument: str) -> None:
    limits = Limits(capabilities_max=2, intent_detail_max_bytes=10, plaintext_max_bytes=20)
    with pytest.raises(ArgumentInvalid) as caught:
        encode_content(content, limits)
    assert caught.value.argument == argument


def test_an_agent_does_not_knock_at_itself() -> None:
    bob = agent_pair().bob
    bundle = bob.publish_bundles(1).one_time[0]
    before = bob.export_state()
    with pytest.raises(ArgumentInvalid) as caught:
        bob.knock(bob.did, bundle, Intent("act"))
    assert (caught.value.argument, caught.value.why) == ("did", "this agent's own DID")
    assert bob.export_state() == before


# --- arguments of the layers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "nonce", "argument"), [(bytes(31), bytes(24), "key"), (bytes(32), bytes(23), "nonce")])
def test_a_box_wants_its_key_and_nonce_whole(key: bytes, nonce: bytes, argument: str) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        aead.seal(key, INTENT, b"", b"x", nonce)
    assert caught.value.argument == argument


@pytest.mark.parametrize("expires_ms", [-1, True, 1.0, None, 2**53])
def test_an_initiation_wants_a_time(expires_ms: Any) -> None:
    alice, bob = (Identity.generate(SeededEntropy(name)) for name in ("alice", "bob"))
    data, _ = issue_bundle(
        bob,
        bundle_class=BundleClass.ONE_TIME,
        mesh=MESH,
        not_before_ms=NOW_MS,
        not_after_ms=NOW_MS + 1,
        entropy=SeededEntropy(0),
    )
    bundle = verify_bundle(data, did=bob.did, mesh=MESH, now_ms=NOW_MS)
    with pytest.raises(ArgumentInvalid):
        initiate(alice, bundle, expires_ms=expires_ms, entropy=SeededEntropy(1))


@pytest.mark.parametrize("bundle_class", [1, "one-time", None])
def test_a_bundle_wants_a_class(bundle_class: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        issue_bundle(
            Identity.generate(SeededEntropy(0)),
            bundle_class=bundle_class,
            mesh=MESH,
            not_before_ms=NOW_MS,
            not_after_ms=NOW_MS + 1,
            entropy=SeededEntropy(0),
        )
    assert caught.value.argument == "bundle_class"


@pytest.mark.parametrize("raw", [None, "x" * 32, [5], 5])
def test_an_identity_key_is_made_of_bytes(raw: Any) -> None:
    with pytest.raises(ArgumentInvalid):
        IdentityKey(raw)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_secret_of_another_length_has_no_public_key(size: int) -> None:
    with pytest.raises(BadPoint):
        _crypto.x25519_public(bytes(size))


class Failing:
    """A source that raises what is not ours."""

    def token(self, size: int, /) -> bytes:
        raise OSError(size)

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        raise OSError(len(public_key))


def test_a_source_that_raises_gave_nothing() -> None:
    source = CheckedEntropy(Failing())
    for draw in (lambda: source.token(32), lambda: source.encapsulate(bytes(1184))):
        with pytest.raises(RandomnessFailed):
            draw()


# --- an answer that cannot be given ----------------------------------------------------------------------------------


def test_a_close_counts_though_the_chain_for_its_answer_is_exhausted() -> None:
    pair = established_pair()
    pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
    [held] = pair.bob._core.state.sessions.values()
    assert isinstance(held, Session)
    chain = held.ratchet.sending
    assert chain is not None
    held.ratchet.apply_sealed(SendingChain(chain.key, chain.header_key, COUNTER_MAX, 0, 0))
    events = pair.bob.receive(pair.alice.close(pair.bob.did))
    assert events[0].reply is None
    assert [type(event).__name__ for event in events] == ["PeerClosed", "SessionOver"]


def test_a_close_past_the_time_to_live_gets_no_answer() -> None:
    pair = agent_pair()
    bundle = pair.bob.publish_bundles(1).one_time[0]
    [knock] = pair.bob.receive(pair.alice.knock(pair.bob.did, bundle, Intent("act")))
    pair.alice.receive(pair.bob.accept(knock, Conditions(ttl_seconds=10)).envelope)
    close = pair.alice.close(pair.bob.did).envelope
    pair.clock.advance(seconds=11)
    events = pair.bob.receive(close)
    assert events[0].reply is None

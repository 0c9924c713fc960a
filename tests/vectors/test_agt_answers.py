"""What AGT's implementations said to each other, reproduced to the byte from their keys (vectors/agt)."""

from __future__ import annotations

import base64
import json
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.agt.agreement import context_of, initiate, respond
from agentmesh.agt.suite import AGT_SUITE, receiving_first, sending_first
from agentmesh.errors import DecryptionFailed, DuplicateMessage, RemoteError
from agentmesh.identity import Identity
from agentmesh.limits import Limits
from agentmesh.primitives import _crypto
from agentmesh.primitives.keys import RootKey, X25519PublicKey, X25519Secret
from agentmesh.session.ratchet import Ratchet
from agentmesh.session.ratchet_export import ratchet_fields, restore_ratchet

FOLDER = Path(__file__).resolve().parents[2] / "vectors" / "agt"
NAMES = ("kat-ts-to-kars", "kat-kars-to-ts", "kat-npm400-legacy-kdf")
TODAY = NAMES[:2]
MESSAGES = 18
EACH = pytest.mark.parametrize("name", NAMES)
LIMITS = Limits()
h = bytes.fromhex


class Script:
    """Randomness that is what the peer's was: every key that it drew, in its order."""

    def __init__(self, draws: list[str]) -> None:
        self.draws = deque(map(h, draws))

    def token(self, size: int, /) -> bytes:
        draw = self.draws.popleft()
        assert len(draw) == size
        return draw

    def encapsulate(self, _: bytes, /) -> tuple[bytes, bytes]:
        raise AssertionError


class Said(NamedTuple):
    """One captured message, and what was derived for it."""

    sender: str  # "initiator" or "responder"
    message: bytes  # as the suite takes it
    frame: dict[str, Any]
    derived: dict[str, Any]


class Capture:
    def __init__(self, name: str) -> None:
        whole = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
        self.is_legacy: bool = whole["legacy_kdf"]
        self.x3dh = whole["derived"]["x3dh"]
        self.sides = {role: whole[role] for role in ("initiator", "responder")}
        self.identities = {role: Identity.from_seed(h(side["ed25519_seed"])) for role, side in self.sides.items()}
        self.knock = whole["frames"]["knock"]
        assert [each["id"] for each in whole["frames"]["messages"]] == [
            each["id"] for each in whole["derived"]["messages"]
        ]
        self.said = [
            Said(self.role_of(frame["from"]), message_of(frame), frame, derived)
            for frame, derived in zip(whole["frames"]["messages"], whole["derived"]["messages"], strict=True)
        ]
        assert len(self.said) == MESSAGES
        self.context = context_of(
            self.sides["initiator"]["did"],
            self.sides["responder"]["did"],
            self.identities["initiator"].key.dh,
            self.identities["responder"].key.dh,
        )

    def role_of(self, did: str) -> str:
        return next(role for role, side in self.sides.items() if side["did"] == did)

    @property
    def signed(self) -> dict[str, Any]:
        return dict(self.sides["responder"]["signed_pre_key"])

    @property
    def one_time(self) -> dict[str, Any]:
        wanted = self.knock["establishment"]["otk"]
        assert wanted == 0 == self.x3dh["otk"]  # and 0 is one
        return next(dict(key) for key in self.sides["responder"]["one_time_pre_keys"] if key["key_id"] == wanted)

    def as_initiator(self) -> RootKey:
        return initiate(
            self.identities["initiator"],
            self.identities["responder"].key.dh,
            X25519PublicKey(h(self.signed["public"])),
            X25519PublicKey(h(self.one_time["public"])),
            X25519Secret(h(self.x3dh["ephemeral_private"])),
        )

    def as_responder(self, *, legacy: bool) -> RootKey:
        establishment = self.knock["establishment"]
        return respond(
            self.identities["responder"],
            X25519PublicKey(unbase64(establishment["ik"])),
            X25519PublicKey(unbase64(establishment["ek"])),
            X25519Secret(h(self.signed["private"])),
            X25519Secret(h(self.one_time["private"])),
            legacy=legacy,
        )

    def chains(self) -> list[list[Said]]:
        """The messages by chain, in the order of the turns: each side sealed a whole one before it took the next."""
        chains: dict[bytes, list[Said]] = {}
        for said in self.said:
            chains.setdefault(said.message[:32], []).append(said)
        return list(chains.values())

    def receiving(self, root: RootKey) -> Ratchet:
        secret, public = h(self.signed["private"]), h(self.signed["public"])
        return receiving_first(root, X25519Secret(secret), X25519PublicKey(public))


def unbase64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def message_of(frame: dict[str, Any]) -> bytes:
    header = frame["header"]
    numbers = header["pn"].to_bytes(4, "big") + header["n"].to_bytes(4, "big")
    return unbase64(header["dh"]) + numbers + unbase64(frame["ciphertext"])


class Party:
    """One side of a capture, played by our ratchet."""

    def __init__(self, capture: Capture, role: str, root: RootKey) -> None:
        self.role, self.context = role, capture.context
        self.entropy = Script(capture.sides[role]["ratchet_privates"])
        if role == "initiator":
            self.ratchet = sending_first(root, X25519PublicKey(h(capture.signed["public"])), self.entropy)
        else:
            self.ratchet = capture.receiving(root)

    def seal(self, said: Said) -> bytes:
        """Seal what this side said, and hold everything on the way against what was derived."""
        ratchet, derived = self.ratchet, said.derived
        assert ratchet.secret == h(derived["ratchet_private"])
        assert ratchet.root == h(derived["root_key_after"])
        assert ratchet.sending is not None
        if ratchet.sending.n == 0:
            assert ratchet.sending.key == h(derived["chain_key_0"])
        parts, message_key, after = ratchet.seal(derived["plaintext_utf8"].encode(), self.context, h(derived["nonce"]))
        assert message_key == h(derived["message_key"])
        assert self.context + parts[0] == h(derived["aad"])
        ratchet.apply_sealed(after)
        return b"".join(parts)

    def open(self, said: Said) -> None:
        opened = self.ratchet.open(said.message, self.context, 0, LIMITS)
        assert opened.plaintext == said.derived["plaintext_utf8"].encode()
        assert opened.message_key == h(said.derived["message_key"])
        assert opened.header[1:] == (0, said.frame["header"]["pn"], said.frame["header"]["n"])
        self.ratchet.apply(opened.delta(self.entropy))

    def restart(self) -> None:
        fields = ratchet_fields(self.ratchet)
        self.ratchet = restore_ratchet(fields, self.role == "responder", AGT_SUITE)
        assert ratchet_fields(self.ratchet) == fields


# --- the agreement ---------------------------------------------------------------------------------------------------


@EACH
def test_the_identities_are_what_their_seeds_say(name: str) -> None:
    capture = Capture(name)
    for role, side in capture.sides.items():
        key, secret = capture.identities[role].key, capture.identities[role].dh_secret
        assert key.raw == h(side["ed25519_public"])
        assert (key.dh, _crypto.x25519_public(secret)) == (h(side["x25519_public"]),) * 2
        assert secret == h(side["x25519_private"])
        assert side["did"] == "did:mesh:" + _crypto.sha256(key.raw)[:16].hex()
        # The way back from the image: one of the two that it proposes.
        assert key.raw in _crypto.ed25519_of_x25519(key.dh)
        for prekey in (side["signed_pre_key"], *side["one_time_pre_keys"]):
            assert _crypto.x25519_public(h(prekey["private"])) == h(prekey["public"])
    assert unbase64(capture.knock["establishment"]["ik"]) == capture.identities["initiator"].key.dh


@EACH
def test_each_diffie_hellman_is_ours(name: str) -> None:
    capture = Capture(name)
    ours, theirs = capture.identities["initiator"], capture.identities["responder"]
    ephemeral, signed, one_time = h(capture.x3dh["ephemeral_private"]), capture.signed, capture.one_time
    assert _crypto.x25519_public(ephemeral) == unbase64(capture.knock["establishment"]["ek"])
    assert [_crypto.x25519(secret, h(public)) for secret, public in (
        (ours.dh_secret, signed["public"]),
        (ephemeral, theirs.key.dh.hex()),
        (ephemeral, signed["public"]),
        (ephemeral, one_time["public"]),
    )] == [h(capture.x3dh[f"dh{number}"]) for number in (1, 2, 3, 4)]  # fmt: skip
    assert capture.context == h(capture.x3dh["associated_data"])


@pytest.mark.parametrize("name", TODAY)
def test_both_sides_agree_as_they_did(name: str) -> None:
    capture = Capture(name)
    assert not capture.is_legacy
    secret = h(capture.x3dh["shared_secret"])
    assert capture.as_initiator() == capture.as_responder(legacy=False) == secret
    assert capture.as_responder(legacy=True) != secret


def test_the_npm_packages_kdf_is_known_and_is_not_todays() -> None:
    capture = Capture(NAMES[2])
    assert capture.is_legacy
    secret, first = h(capture.x3dh["shared_secret"]), capture.said[0].message
    assert capture.as_responder(legacy=True) == secret
    assert capture.as_initiator() == capture.as_responder(legacy=False) != secret
    today = capture.receiving(capture.as_responder(legacy=False))
    before = ratchet_fields(today)
    with pytest.raises(DecryptionFailed):
        today.open(first, capture.context, 0, LIMITS)
    assert ratchet_fields(today) == before
    # And so it is recognised.
    capture.receiving(capture.as_responder(legacy=True)).open(first, capture.context, 0, LIMITS)


# --- the messages ----------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("role", ["initiator", "responder"])
@pytest.mark.parametrize("restarts", [False, True])
def test_each_captured_message_is_opened_and_made_again(name: str, role: str, restarts: bool) -> None:
    capture = Capture(name)
    party = Party(capture, role, RootKey(h(capture.x3dh["shared_secret"])))
    counted = {"sealed": 0, "opened": 0}
    for chain in capture.chains():
        for said in chain:
            if said.sender == role:
                assert party.seal(said) == said.message
                counted["sealed"] += 1
            else:
                party.open(said)
                counted["opened"] += 1
            if restarts:
                party.restart()
    assert counted == {"sealed": MESSAGES // 2, "opened": MESSAGES // 2}
    assert not party.entropy.draws  # every key that it drew was drawn here too, and none besides
    assert not party.ratchet.skipped


@EACH
@pytest.mark.parametrize("role", ["initiator", "responder"])
@given(data=st.data())
@settings(max_examples=max(1, settings().max_examples // 10))
def test_they_open_in_any_order_and_once(name: str, role: str, data: st.DataObject) -> None:
    capture = Capture(name)
    party = Party(capture, role, RootKey(h(capture.x3dh["shared_secret"])))
    late: list[Said] = []
    for chain in capture.chains():
        if chain[0].sender == role:
            for said in chain:
                assert party.seal(said) == said.message
            continue
        # At least one of a chain comes before this side's next; the others when they like.
        order = data.draw(st.permutations(chain))
        held = data.draw(st.integers(0, len(chain) - 1))
        late += order[len(order) - held :]
        for said in order[: len(order) - held]:
            party.open(said)
    for said in data.draw(st.permutations(late)):
        party.open(said)
    before = ratchet_fields(party.ratchet)
    for said in capture.said:
        if said.sender != role:
            with pytest.raises(DuplicateMessage):
                party.ratchet.open(said.message, party.context, 0, LIMITS)
    assert ratchet_fields(party.ratchet) == before
    assert not party.ratchet.skipped


@EACH
def test_what_is_altered_does_not_open(name: str) -> None:
    capture = Capture(name)
    party = Party(capture, "responder", RootKey(h(capture.x3dh["shared_secret"])))
    message = capture.said[0].message
    before = ratchet_fields(party.ratchet)
    spoiled = [
        (bytes((*message[:at], message[at] ^ 1, *message[at + 1 :])), capture.context) for at in range(len(message))
    ]
    spoiled += [(message[:-1], capture.context), (message + b"\x00", capture.context)]
    sides = [capture.identities[role] for role in ("responder", "initiator")]
    dids = [capture.sides[role]["did"] for role in ("responder", "initiator")]
    spoiled.append((message, context_of(*dids, sides[0].key.dh, sides[1].key.dh)))  # the sides exchanged
    for wrong, context in spoiled:
        with pytest.raises(RemoteError):
            party.ratchet.open(wrong, context, 0, LIMITS)
    assert ratchet_fields(party.ratchet) == before
    party.open(capture.said[0])

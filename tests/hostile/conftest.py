"""What the hostile tests share: envelopes and bundles with any part replaced, and what a refusal must leave alone.

The tests reach all of it through the fixture `forge`, which is this module.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import msgpack
import nacl.bindings
import pytest
from attrs import define, evolve, field, frozen

from agentmesh import Agent, Conditions, Identity, Intent, Kind, KnockReceived, Limits
from agentmesh.engine.export import export_agent
from agentmesh.envelope import Header, OuterEnvelope, receipt_of
from agentmesh.errors import AgentMeshError
from agentmesh.handshake.agreement import Initiation, initiate
from agentmesh.handshake.knock import KnockContent, encode_content
from agentmesh.handshake.prekeys import Bundle, BundleClass
from agentmesh.identity import IdentityKey, did_of, signed_part
from agentmesh.policy import ASK, ClaimedSender, Decision, KnockRequest
from agentmesh.primitives._crypto import ed25519_keypair, ed25519_sign
from agentmesh.primitives._labels import INTENT, SIGN_ACCEPT, SIGN_BUNDLE, SIGN_KNOCK, SIGN_REJECT
from agentmesh.primitives.aead import seal
from agentmesh.primitives.keys import BundleRef
from agentmesh.primitives.padding import pad
from agentmesh.session.pending import Undecided
from agentmesh.session.ratchet import Ratchet
from agentmesh.session.suite import SUITE
from agentmesh.testing import ManualClock, SeededEntropy
from agentmesh.testing.pair import MESH

ROOMY = Limits(
    knocks_per_identity=100_000, remembered_knocks_per_identity=100_000, signature_checks_per_second=1_000_000
)
"""Limits that no test of something else runs into."""

NONCE = bytes(range(24))
ACCEPT_TYPE = b"\x01"

# --- points that no honest party uses ---------------------------------------------------------------------------------

FIELD_PRIME = 2**255 - 19
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493

# Every u of small order on Curve25519 and its twist, canonical: 0, 1, the two of order 8, and -1.
_LOW_ORDER_U = (
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    FIELD_PRIME - 1,
)
LOW_ORDER_X25519 = [u.to_bytes(32, "little") for u in _LOW_ORDER_U]
# The same points by other names: with the top bit set (masked by RFC 7748), and unreduced where there is room.
LOW_ORDER_NON_CANONICAL_X25519 = [
    *((u | 1 << 255).to_bytes(32, "little") for u in _LOW_ORDER_U),
    *((u + FIELD_PRIME + top).to_bytes(32, "little") for u in (0, 1) for top in (0, 1 << 255)),
]

# Ed25519 points of order 1, 2, 4 and 8, canonical, and the non-canonical encodings that exist of them.
LOW_ORDER_ED25519 = [
    bytes.fromhex(text)
    for text in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    )
]
NON_CANONICAL_ED25519 = [
    bytes.fromhex(text)
    for text in (
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    )
]
_TORSION = LOW_ORDER_ED25519[4]  # a point of order 8
NEUTRAL = LOW_ORDER_ED25519[0]


def _scalar(number: int) -> bytes:
    return (number % GROUP_ORDER).to_bytes(32, "little")


def _secret_scalar(identity: Identity) -> int:
    digest = bytearray(hashlib.sha512(identity.seed.reveal()).digest()[:32])
    digest[0] &= 248
    digest[31] = digest[31] & 63 | 64
    return int.from_bytes(digest, "little")


def _challenge(commitment: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(commitment + key + message).digest(), "little") % GROUP_ORDER


def _times_base(number: int) -> bytes:
    point: bytes = nacl.bindings.crypto_scalarmult_ed25519_base_noclamp(_scalar(number))
    return point


def odd_signatures(identity: Identity, message: bytes) -> dict[str, bytes]:
    """Signatures by the key's own holder that some verifiers take and a strict one does not."""
    secret, key = _secret_scalar(identity), identity.key.raw
    genuine = ed25519_sign(ed25519_keypair(identity.seed.reveal())[1], message)
    commitment, s = genuine[:32], int.from_bytes(genuine[32:], "little")
    nonce = 0x1234567890ABCDEF
    torsioned = nacl.bindings.crypto_core_ed25519_add(_times_base(nonce), _TORSION)
    odd = {
        "S + L": commitment + (s + GROUP_ORDER).to_bytes(32, "little"),
        "R neutral": NEUTRAL + _scalar(_challenge(NEUTRAL, key, message) * secret),
        "R of mixed order": torsioned + _scalar(nonce + _challenge(torsioned, key, message) * secret),
        "empty": b"",
        "short": genuine[:63],
        "long": genuine + b"\x00",
        "zero": bytes(64),
    }
    for encoding in NON_CANONICAL_ED25519[2:4]:
        odd[f"R non-canonical {encoding[-1]:x}"] = encoding + _scalar(_challenge(encoding, key, message) * secret)
    return odd


def mixed_order_signer(identity: Identity) -> tuple[bytes, Callable[[bytes], bytes]]:
    """A public key outside the prime-order subgroup, and a signer whose signatures plain verification takes."""
    secret = _secret_scalar(identity)
    key: bytes = nacl.bindings.crypto_core_ed25519_add(identity.key.raw, _TORSION)

    def sign(message: bytes) -> bytes:
        nonce = 1
        while True:
            commitment = _times_base(nonce)
            challenge = _challenge(commitment, key, message)
            if challenge % 8 == 0:  # the torsion vanishes
                return commitment + _scalar(nonce + challenge * secret)
            nonce += 1

    return key, sign


def universal_signature(_message: bytes) -> bytes:
    """R neutral and S zero: valid for every message under a low-order key, where low order is not refused."""
    return NEUTRAL + bytes(32)


# --- what a refusal is ------------------------------------------------------------------------------------------------


@contextmanager
def refused(agent: Agent, error: type[AgentMeshError], **attributes: object) -> Iterator[None]:
    """Within it exactly this error is raised, and the agent's whole state is what it was, whatever its clock shows."""
    before = whole_state(agent)
    caught = None
    try:
        yield
    except AgentMeshError as raised:
        caught = raised
    assert caught is not None, "nothing was refused"
    assert type(caught) is error, repr(caught)
    assert {name: getattr(caught, name) for name in attributes} == attributes
    assert whole_state(agent) == before


def whole_state(agent: Agent) -> tuple[Any, ...]:
    """What an export says, whatever the agent's clock shows, and what is made of it anew where one is restored."""
    state = agent._core.state
    memory = {initiator: set(ths) for initiator, ths in state.knocks._of.items()}
    return export_agent(state, now_ms=0), dict(state.dids), [*state.sessions], [*state.undecided], memory


def converse(initiator: Agent, responder: Agent) -> None:
    """Whatever came before, a session can be made, and carries data both ways."""
    bundle = responder.publish_bundles(1, last_resort=False).one_time[0]
    knock = initiator.knock(responder.did, bundle, Intent("after"))
    [event] = responder.receive(knock)
    reply = responder.accept(event).envelope if isinstance(event, KnockReceived) else event.reply
    initiator.receive(reply)
    chat(initiator, responder, knock.session_id)


def chat(one: Agent, other: Agent, session_id: bytes | None = None) -> None:
    """The session that they have carries data both ways, twice."""
    for number in range(2):
        for sender, receiver in ((one, other), (other, one)):
            data = f"{sender.did} {number}".encode()
            [event] = receiver.receive(sender.send(receiver.did, data, session_id=session_id))
            assert event.plaintext == data


# --- hooks that can be told what to do --------------------------------------------------------------------------------


@define
class Rules:
    """A policy whose answers are attributes, which may be callables; it counts what it was asked."""

    admits: Any = True
    decides: Any = ASK
    allows: Any = True
    asked: list[str] = field(factory=list)
    senders: list[ClaimedSender] = field(factory=list)
    requests: list[KnockRequest] = field(factory=list)

    def may_knock(self, sender: ClaimedSender, /) -> bool:
        self.asked.append("may_knock")
        self.senders.append(sender)
        answer: bool = self.admits(sender) if callable(self.admits) else self.admits
        return answer

    def decide(self, knock: KnockRequest, /) -> Decision:
        self.asked.append("decide")
        self.requests.append(knock)
        answer: Decision = self.decides(knock) if callable(self.decides) else self.decides
        return answer

    def still_allowed(self, peer: IdentityKey, /) -> bool:
        self.asked.append("still_allowed")
        answer: bool = self.allows(peer) if callable(self.allows) else self.allows
        return answer


@define
class Rationing(Rules):
    """Rules that also say whether a bundle may serve, and are told when one did."""

    serves: Any = True
    uses: list[tuple[IdentityKey, BundleClass, int]] = field(factory=list)

    def may_use(self, peer: IdentityKey, bundle_class: BundleClass, now_ms: int, /) -> bool:
        self.asked.append("may_use")
        answer: bool = self.serves(peer) if callable(self.serves) else self.serves
        return answer

    def used(self, peer: IdentityKey, bundle_class: BundleClass, now_ms: int, /) -> None:
        self.uses.append((peer, bundle_class, now_ms))


class JournalFailed(Exception):
    """What a broken journal raises."""


@define
class Journal:
    """A journal that fails while it is told to."""

    failing: bool = False
    commits: list[tuple[Any, Any]] = field(factory=list)

    def commit(self, changes: tuple[Any, ...], records: tuple[Any, ...], /) -> None:
        if self.failing:
            raise JournalFailed
        self.commits.append((changes, records))


@define
class Scene:
    """Alice and Mallory, who knock, and Bob, whose hooks can be told what to do. One clock."""

    clock: ManualClock
    alice: Agent
    mallory: Agent
    bob: Agent
    rules: Rules
    journal: Journal

    def identity(self, agent: Agent) -> Identity:
        found: Identity = agent._core.state.identity
        return found

    def one_time(self, count: int = 1) -> list[bytes]:
        """Bundles of Bob's."""
        return list(self.bob.publish_bundles(count, last_resort=False).one_time)

    def last_resort(self) -> bytes:
        bundle = self.bob.publish_bundles(0).last_resort
        assert bundle is not None
        return bundle

    def view(self, bundle: bytes) -> Bundle:
        """A bundle's fields, unverified."""
        return bundle_view(bundle)

    def craft(self, bundle: bytes, *, sender: Agent | None = None, **changes: Any) -> Crafted:
        """A KNOCK of Alice's, or of `sender`'s, made a second ago, with these changes."""
        return craft_knock(self.identity(sender or self.alice), bundle, now_ms=self.clock.now_ms - 1000, **changes)

    def restart_bob(self) -> None:
        """Bob from what it exported, with the same hooks."""
        self.bob = Agent.restore(
            self.bob.export_state(),
            clock=self.clock,
            policy=self.rules,
            limits=self.bob._core.limits,
            journal=self.journal,
        )


def new_scene(limits: Limits = ROOMY, seed: int = 0) -> Scene:
    clock, rules, journal = ManualClock(), Rules(), Journal()
    names = ("alice", "mallory", "bob")
    alice, mallory, bob = (
        Agent.create(
            MESH,
            identity=Identity.generate(SeededEntropy(f"{seed}/{name}")),
            clock=clock,
            entropy=SeededEntropy(f"{seed}/{name}/session"),
            policy=rules if name == "bob" else None,
            journal=journal if name == "bob" else None,
            limits=limits,
        )
        for name in names
    )
    return Scene(clock, alice, mallory, bob, rules, journal)


def another_agent(scene: Scene, name: object, limits: Limits = ROOMY) -> Agent:
    """One more stranger in the scene."""
    return Agent.create(
        MESH,
        identity=Identity.generate(SeededEntropy(f"stranger/{name}")),
        clock=scene.clock,
        entropy=SeededEntropy(f"stranger/{name}/session"),
        limits=limits,
    )


# --- KNOCKs -----------------------------------------------------------------------------------------------------------


def bundle_fields(data: bytes) -> list[Any]:
    """[version, class, mesh, identity, prekey, kem_key, not_before, not_after], unverified."""
    fields: list[Any] = msgpack.unpackb(msgpack.unpackb(data)[0])
    return fields


def bundle_view(data: bytes) -> Bundle:
    """A bundle as an initiator sees it that verifies nothing."""
    body = msgpack.unpackb(data)[0]
    _, number, mesh, owner, prekey, kem_key, not_before_ms, not_after_ms = msgpack.unpackb(body)
    return Bundle(
        bundle_class=BundleClass(number),
        mesh=mesh,
        identity=IdentityKey(owner),
        prekey=prekey,
        kem_key=kem_key,
        not_before_ms=not_before_ms,
        not_after_ms=not_after_ms,
        ref=BundleRef(hashlib.sha256(body).digest()),
    )


def make_bundle(identity: Identity, sign: Callable[[bytes], bytes] | None = None, **changes: Any) -> bytes:
    """A bundle with some fields changed, signed by its owner or by `sign`, which is given label and body."""
    fields = {"version": 1, "number": 1, "mesh": MESH, "identity": identity.key.raw, **changes}
    body = msgpack.packb(list(fields.values()))
    return repack_bundle(identity, body, sign)


def repack_bundle(identity: Identity, body: bytes, sign: Callable[[bytes], bytes] | None = None) -> bytes:
    """A body as a bundle, signed again."""
    signature = identity.sign(SIGN_BUNDLE, body) if sign is None else sign(SIGN_BUNDLE + body)
    packed: bytes = msgpack.packb([body, signature])
    return packed


@frozen
class Crafted:
    """A KNOCK in its parts."""

    header: bytes
    fields: tuple[Any, ...]  # A, bundle_ref, EK, ct, expires, sealed
    signature: bytes
    initiation: Initiation | None

    @property
    def inner(self) -> bytes:
        packed: bytes = msgpack.packb(list(self.fields))
        return packed

    @property
    def envelope(self) -> bytes:
        packed: bytes = msgpack.packb([self.header, msgpack.packb([self.inner, self.signature])])
        return packed

    @property
    def receipt(self) -> bytes:
        return receipt_of(self.envelope)

    def having(self, **changes: Any) -> Crafted:
        """With other fields: claimed, ref, ephemeral, ciphertext, expires_ms, sealed; and header or signature."""
        fields = dict(zip(FIELDS, self.fields, strict=True))
        outer = {name: changes.pop(name) for name in ("header", "signature") if name in changes}
        assert set(changes) <= set(FIELDS)
        return evolve(self, fields=tuple({**fields, **changes}.values()), **outer)

    def signed_by(self, identity: Identity) -> Crafted:
        """Signed again, as it stands."""
        return evolve(self, signature=identity.sign(SIGN_KNOCK, signed_part(self.header, self.inner)))

    def signed_with(self, sign: Callable[[bytes], bytes]) -> Crafted:
        """Signed by any function of label and message."""
        return evolve(self, signature=sign(SIGN_KNOCK + signed_part(self.header, self.inner)))

    def part(self, name: str) -> Any:
        return getattr(self, name) if name in ("header", "signature") else self.fields[FIELDS.index(name)]


FIELDS = ("claimed", "ref", "ephemeral", "ciphertext", "expires_ms", "sealed")
PARTS = ("header", *FIELDS, "signature")


def header_bytes(kind: int, sender: str, recipient: str, time_ms: int, mesh: str = MESH, version: int = 1) -> bytes:
    """An outer header without any check."""
    packed: bytes = msgpack.packb([version, int(kind), mesh, sender, recipient, time_ms])
    return packed


def craft_knock(
    sender: Identity,
    bundle: bytes,
    *,
    now_ms: int,
    time_ms: int | None = None,
    lifetime_ms: int = 86_400_000,
    expires_ms: int | None = None,
    content: bytes | None = None,
    intent: Intent | None = None,
    early_payload: bytes | None = None,
    fresh: bool = True,
    kind: int = Kind.KNOCK,
    mesh: str = MESH,
    sender_did: str | None = None,
    recipient: str | None = None,
    initiation: Initiation | None = None,
) -> Crafted:
    """A KNOCK as its sender makes it, with any of its parts replaced before it is sealed and signed."""
    view = bundle_view(bundle)
    time_ms = now_ms if time_ms is None else time_ms
    expires_ms = time_ms + lifetime_ms if expires_ms is None else expires_ms
    if initiation is None:
        initiation = initiate(sender, view, expires_ms=expires_ms, entropy=SeededEntropy(f"{bundle!r} {time_ms}"))
    header = header_bytes(kind, sender_did or sender.did, recipient or view.identity.did, time_ms, mesh)
    if content is None:
        wanted = KnockContent(intent=intent or Intent("crafted"), early_payload=early_payload, fresh=fresh)
        content = encode_content(wanted, Limits())
    sealed = seal(initiation.keys.intent_key, INTENT, header, pad(content), NONCE)
    fields = (sender.key.raw, view.ref, initiation.ephemeral, initiation.kem_ciphertext, expires_ms, sealed)
    return Crafted(header, fields, b"", initiation).signed_by(sender)


def parts_of(envelope: bytes) -> Crafted:
    """A KNOCK taken apart."""
    header, body = msgpack.unpackb(bytes(envelope))
    inner, signature = msgpack.unpackb(body)
    return Crafted(header, tuple(msgpack.unpackb(inner)), signature, None)


def with_did(key: bytes) -> str:
    """The DID of any 32 bytes."""
    return did_of(key)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def undecided_of(agent: Agent, session_id: bytes) -> Undecided:
    """The responder's side of a KNOCK that waits."""
    held = agent._core.state.sessions[session_id]
    assert isinstance(held, Undecided)
    return held


def responder_ratchet(undecided: Undecided, seed: object = 0) -> Ratchet:
    """The ratchet that whoever knows the root key can begin with, under a ratchet key of its own."""
    return Ratchet.responder(
        SUITE,
        undecided.root,
        undecided.ephemeral,
        header_key_ab=undecided.header_key_ab,
        header_key_ba=undecided.header_key_ba,
        entropy=SeededEntropy(f"ratchet {seed}"),
    )


def make_accept(
    identity: Identity,
    undecided: Undecided,
    *,
    time_ms: int,
    conditions: bytes | None = None,
    content: bytes | None = None,
    plaintext: bytes | None = None,
    ratchet: Ratchet | None = None,
    signed_key: bytes | None = None,
    th: bytes | None = None,
    receipt: bytes | None = None,
    header: bytes | None = None,
    signed_header: bytes | None = None,
    sign: Callable[[bytes], bytes] | None = None,
    kind: int = Kind.ACCEPT,
    skip: int = 0,
) -> bytes:
    """An ACCEPT with any of its parts replaced before it is signed and sealed."""
    facts = undecided.facts
    ratchet = ratchet or responder_ratchet(undecided)
    header = header or header_bytes(kind, facts.own_did, facts.peer.did, time_ms, facts.mesh)
    conditions = Conditions().encode() if conditions is None else conditions
    if content is None:
        signed = signed_part(
            signed_header or header,
            (th or facts.th) + (receipt or facts.knock_receipt) + (signed_key or ratchet.public) + conditions,
        )
        signature = identity.sign(SIGN_ACCEPT, signed) if sign is None else sign(SIGN_ACCEPT + signed)
        content = msgpack.packb([conditions, signature])
    if plaintext is None:
        plaintext = ACCEPT_TYPE + content
    context = facts.context(header)
    for _ in range(skip):
        ratchet.apply_sealed(ratchet.seal(pad(b"skipped"), context, NONCE)[2])
    message, _, sending = ratchet.seal(pad(plaintext), context, NONCE)
    ratchet.apply_sealed(sending)
    packed: bytes = msgpack.packb([header, b"".join((facts.session_id, *message))])
    return packed


def make_message(undecided: Undecided, ratchet: Ratchet, data: bytes, *, time_ms: int, index: int = 1) -> bytes:
    """A data message on a ratchet of `responder_ratchet`."""
    facts = undecided.facts
    header = header_bytes(Kind.MESSAGE, facts.own_did, facts.peer.did, time_ms, facts.mesh)
    message, _, sending = ratchet.seal(pad(struct.pack(">BBIB", 0, 0, index, 0), data), facts.context(header), NONCE)
    ratchet.apply_sealed(sending)
    packed: bytes = msgpack.packb([header, b"".join((facts.session_id, *message))])
    return packed


def make_reject(
    identity: Identity,
    recipient: str,
    *,
    time_ms: int,
    receipt: bytes = bytes(32),
    reason: object = "policy",
    retry_after: object = 0,
    content: bytes | None = None,
    header: bytes | None = None,
    signed_header: bytes | None = None,
    sign: Callable[[bytes], bytes] | None = None,
) -> bytes:
    """A REJECT with any of its parts replaced before it is signed."""
    header = header or header_bytes(Kind.REJECT, identity.did, recipient, time_ms)
    content = msgpack.packb([receipt, reason, retry_after]) if content is None else content
    signed = signed_part(signed_header or header, content)
    signature = identity.sign(SIGN_REJECT, signed) if sign is None else sign(SIGN_REJECT + signed)
    packed: bytes = msgpack.packb([header, msgpack.packb([content, signature])])
    return packed


def retyped(envelope: bytes, kind: int) -> bytes:
    """The same body under another kind."""
    return with_header(envelope, kind=int(kind))


def with_header(envelope: bytes, **changes: Any) -> bytes:
    """The same body under a changed header: version, kind, mesh, sender, recipient, time_ms."""
    header, body = msgpack.unpackb(bytes(envelope))
    names = ("version", "kind", "mesh", "sender", "recipient", "time_ms")
    fields = dict(zip(names, msgpack.unpackb(header), strict=True))
    assert set(changes) <= set(names)
    packed: bytes = msgpack.packb([msgpack.packb(list({**fields, **changes}.values())), body])
    return packed


def parse(envelope: bytes) -> OuterEnvelope:
    """The outer view."""
    return OuterEnvelope.parse(envelope)


def header_of(envelope: bytes) -> Header:
    """The outer header."""
    return OuterEnvelope.parse(envelope).header


def volatile(agent: Agent) -> tuple[int, ...]:
    """How much is held for KNOCKs: those that opened, buckets of senders, those that did not, buckets of answers."""
    core = agent._core
    budgets = core.budgets
    answers = len(budgets.answers) + len(budgets.rejections)
    return (len(core.state.knocks), len(budgets.knocks), len(core.unopened), answers)


# --- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def forge() -> ModuleType:
    """This module."""
    return sys.modules[__name__]


@pytest.fixture
def scene() -> Scene:
    """Alice, Mallory and Bob, without narrow limits."""
    return new_scene()

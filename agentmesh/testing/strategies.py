"""Hypothesis strategies for the library's public values. They need the extra `testing`.

    from agentmesh.testing import strategies as am

Each strategy leans towards the edges: shortest and longest, one byte below padding's next step, text whose characters
take one to four bytes. Values that cost cryptography are made from a few seeds and kept, so that a test draws many.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from attrs import field, frozen
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from agentmesh.agent import Agent
from agentmesh.envelope import Header, Kind, OuterEnvelope
from agentmesh.events import KnockReceived, SignalDue
from agentmesh.handshake.knock import Intent
from agentmesh.handshake.prekeys import Bundle, BundleClass, PublishedBundle, issue_bundle, verify_bundle
from agentmesh.handshake.verdict import Conditions, Reason
from agentmesh.identity import DID_PREFIX, Identity, IdentityKey
from agentmesh.limits import ACTION_MAX_BYTES, MESH_MAX_BYTES, UINT_MAX, Limits
from agentmesh.outgoing import Outgoing
from agentmesh.policy import ASK, Decision, Deny, Grant
from agentmesh.primitives.base58 import base58_encode
from agentmesh.primitives.keys import Receipt, SessionId
from agentmesh.testing.clock import EPOCH_MS, ManualClock
from agentmesh.testing.entropy import SeededEntropy
from agentmesh.testing.mutation import Mutation, Tampering
from agentmesh.testing.network import Faults
from agentmesh.testing.pair import MESH, agent_pair
from agentmesh.testing.schedule import Action, Move

_SEEDS: Final = 8  # of what costs cryptography
_ONE_TO_FOUR_BYTES: Final = "a\u00e9\u20ac\U0001f511"
_PADDING_EDGES: Final = (0, 1, 60, 61, 62, 63, 64, 65, 126, 127, 128)

# --- plain values ----------------------------------------------------------------------------------------------------


def times_ms() -> SearchStrategy[int]:
    """Return times in milliseconds since the epoch: about the clock of `ManualClock`, and the edges."""
    return st.one_of(st.integers(EPOCH_MS - 10**10, EPOCH_MS + 10**10), st.sampled_from((0, UINT_MAX)))


def texts(min_bytes: int = 0, max_bytes: int = ACTION_MAX_BYTES) -> SearchStrategy[str]:
    """Return text of so many bytes of UTF-8, exactly the most included, in characters of one to four bytes."""

    def cut(text: str) -> str:
        return text.encode()[:max_bytes].decode(errors="ignore")

    longest = st.sampled_from(_ONE_TO_FOUR_BYTES).map(lambda character: cut(character * max_bytes))
    drawn = st.text(st.characters(codec="utf-8"), min_size=min(min_bytes, 1), max_size=max_bytes).map(cut)
    return st.one_of(drawn, longest).filter(lambda text: len(text.encode()) >= min_bytes)


def plaintexts(max_bytes: int = 4096) -> SearchStrategy[bytes]:
    """Return data for `Agent.send`, exactly `max_bytes` and the edges of the padding included.

    Pass `Limits().plaintext_max_bytes` for the largest that the defaults allow: a megabyte.
    """
    edges = sorted({size for size in (*_PADDING_EDGES, max_bytes - 1, max_bytes) if 0 <= size <= max_bytes})
    return st.one_of(st.binary(max_size=min(max_bytes, 256)), st.sampled_from(edges).map(bytes))


def mesh_names() -> SearchStrategy[str]:
    """Return mesh names: 1 to 64 of `a-z 0-9 . _ / -`."""
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789._/-"
    return st.one_of(
        st.text(alphabet, min_size=1, max_size=MESH_MAX_BYTES), st.sampled_from(("m", "m" * MESH_MAX_BYTES))
    )


def identities() -> SearchStrategy[Identity]:
    """Return identities, each from a seed of 32 bytes."""
    return st.binary(min_size=32, max_size=32).map(Identity.from_seed)


def identity_keys() -> SearchStrategy[IdentityKey]:
    """Return the public halves of identities."""
    return identities().map(lambda identity: identity.key)


def dids() -> SearchStrategy[str]:
    """Return DIDs in their canonical form; nobody holds the identities behind them."""
    return st.binary(min_size=20, max_size=20).map(lambda hashed: DID_PREFIX + base58_encode(hashed))


def kinds() -> SearchStrategy[Kind]:
    """Return the kinds of envelope."""
    return st.sampled_from(Kind)


def reasons() -> SearchStrategy[Reason]:
    """Return the reasons of a REJECT."""
    return st.sampled_from(Reason)


def headers(
    *, kind: SearchStrategy[Kind] | None = None, mesh: SearchStrategy[str] | None = None
) -> SearchStrategy[Header]:
    """Return outer headers."""
    return st.builds(
        Header,
        kind=kinds() if kind is None else kind,
        mesh=mesh_names() if mesh is None else mesh,
        sender=dids(),
        recipient=dids(),
        time_ms=times_ms(),
    )


def intents(limits: Limits | None = None) -> SearchStrategy[Intent]:
    """Return intents up to the limits: the defaults if `None`."""
    allowed = Limits() if limits is None else limits
    capabilities = st.one_of(
        st.lists(texts(), max_size=min(8, allowed.capabilities_max)),
        st.just(["capability"] * allowed.capabilities_max),
    )
    return st.builds(
        Intent, texts(1), capabilities=capabilities, detail=plaintexts(min(4096, allowed.intent_detail_max_bytes))
    )


def conditions() -> SearchStrategy[Conditions]:
    """Return what an acceptor may grant: unlimited, some, nothing."""
    counts = st.one_of(st.none(), st.integers(0, 10), st.sampled_from((0, 1, UINT_MAX)))
    actions = st.one_of(st.none(), st.lists(texts(1), max_size=4), st.just(["action"] * 256))
    return st.builds(Conditions, max_messages=counts, ttl_seconds=counts, allowed_actions=actions)


def limits() -> SearchStrategy[Limits]:
    """Return limits that two agents can talk under: small, usual, and one key short."""

    def build(size: int, per_step: int, more: int, lifetime_seconds: int) -> Limits:
        return Limits(
            plaintext_max_bytes=size,
            intent_detail_max_bytes=1024,
            capabilities_max=8,
            envelope_max_bytes=2 * size + 8192,
            skipped_keys_per_step=per_step,
            skipped_keys_per_session=per_step + more,
            skipped_key_lifetime_seconds=lifetime_seconds,
        )

    return st.one_of(
        st.just(Limits()),
        st.builds(
            build,
            st.one_of(st.integers(1, 4096), st.just(1 << 20)),
            st.integers(1, 20),
            st.integers(0, 20),
            st.integers(1, 30 * 86_400),
        ),
    )


def decisions() -> SearchStrategy[Decision]:
    """Return what a policy may say of a KNOCK."""
    return st.one_of(st.just(ASK), grants(), denials())


def grants() -> SearchStrategy[Grant]:
    """Return decisions to accept, under any conditions."""
    return st.builds(Grant, conditions())


def denials() -> SearchStrategy[Deny]:
    """Return decisions to reject, for any reason."""
    return st.builds(Deny, reasons(), st.integers(0, UINT_MAX))


def knocks_received() -> SearchStrategy[KnockReceived]:
    """Return what a policy or an application is asked about a KNOCK. No agent holds these sessions."""
    return st.builds(
        KnockReceived,
        peer=identity_keys(),
        session_id=st.binary(min_size=16, max_size=16).map(SessionId),
        receipt=st.binary(min_size=32, max_size=32).map(Receipt),
        intent=intents(),
        bundle_class=st.sampled_from(BundleClass),
        time_ms=times_ms(),
        expires_ms=times_ms(),
        has_early_payload=st.booleans(),
        fresh=st.booleans(),
        open_sessions=st.integers(0, 5),
    )


def faults() -> SearchStrategy[Faults]:
    """Return how often what goes wrong in a simulated mesh; no state is lost."""
    percent = st.integers(0, 40)
    return st.builds(
        Faults,
        drop_percent=percent,
        delay_percent=percent,
        reorder_percent=percent,
        duplicate_percent=percent,
        tamper_percent=percent,
        replay_percent=percent,
        crash_percent=percent,
    )


# --- altered bytes ---------------------------------------------------------------------------------------------------


def mutations() -> SearchStrategy[Mutation]:
    """Return ways to alter any bytes: a bit flipped, the end cut off, bytes appended, two bytes exchanged."""
    number = st.integers(-(2**13), 2**13)  # counted from either end
    return st.builds(Mutation, how=st.sampled_from(Tampering), at=number, amount=number)


def mutated(data: bytes) -> SearchStrategy[bytes]:
    """Return bytes that `data` became by one mutation, never `data` itself."""
    return mutations().map(lambda mutation: mutation.apply(data))


# --- bundles ---------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class IssuedBundle:
    """A bundle from both sides.

    Attributes:
        owner: Who issued it.
        data: What a registry holds.
        published: What the owner keeps, the secrets included.
        bundle: What a verifier makes of `data`.
    """

    owner: Identity
    data: bytes = field(repr=False)
    published: PublishedBundle
    bundle: Bundle


@lru_cache(maxsize=2 * _SEEDS)
def _issued(seed: int, bundle_class: BundleClass) -> IssuedBundle:
    entropy = SeededEntropy(f"bundle/{seed}/{bundle_class}")
    owner = Identity.generate(entropy)
    data, published = issue_bundle(
        owner,
        bundle_class=bundle_class,
        mesh=MESH,
        not_before_ms=EPOCH_MS,
        not_after_ms=EPOCH_MS + 21 * 86_400_000,
        entropy=entropy,
    )
    bundle = verify_bundle(data, did=owner.did, mesh=MESH, now_ms=EPOCH_MS)
    return IssuedBundle(owner=owner, data=data, published=published, bundle=bundle)


def bundles(bundle_class: BundleClass | None = None) -> SearchStrategy[IssuedBundle]:
    """Return verified bundles with their owners and secrets, of one class or of both."""
    classes = tuple(BundleClass) if bundle_class is None else (bundle_class,)
    return st.builds(_issued, st.integers(0, _SEEDS - 1), st.sampled_from(classes))


# --- envelopes -------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Delivery:
    """A genuine envelope, and the agent that is about to receive it.

    Attributes:
        kind: The envelope's kind.
        envelope: Its bytes.
        exported: The recipient's state.
        now_ms: The recipient's clock.
    """

    kind: Kind
    envelope: bytes = field(repr=False)
    exported: bytes = field(repr=False)
    now_ms: int

    def recipient(self) -> Agent:
        """Return the recipient, which takes the envelope: another object each time."""
        return Agent.restore(self.exported, clock=ManualClock(self.now_ms), entropy=SeededEntropy(self.exported))


@lru_cache(maxsize=_SEEDS)
def _conversation(seed: int) -> tuple[Delivery, ...]:
    """Return one envelope after another of a conversation; the seed decides how it goes."""
    pair = agent_pair(seed, acknowledge=seed % 4 > 1)  # so that acknowledgements and signals are among them
    alice, bob, clock = pair.alice, pair.bob, pair.clock
    seen: list[Delivery] = []

    def deliver(recipient: Agent, kind: Kind, outgoing: Outgoing) -> None:
        now_ms, exported = clock.advance(ms=7), recipient.export_state()
        seen.append(Delivery(kind=kind, envelope=outgoing.envelope, exported=exported, now_ms=now_ms))
        recipient.receive(outgoing)

    shelf = bob.publish_bundles(2)
    bundle = shelf.one_time[0] if seed % 2 or shelf.last_resort is None else shelf.last_resort
    early_payload = b"early" if seed % 4 == 1 else None
    deliver(bob, Kind.KNOCK, alice.knock(bob.did, bundle, Intent("test"), early_payload=early_payload))
    deliver(alice, Kind.ACCEPT, bob.accept(bob.pending_knocks()[0]))
    deliver(bob, Kind.KNOCK, alice.knock(bob.did, shelf.one_time[1], Intent("another")))
    deliver(alice, Kind.REJECT, bob.reject(bob.pending_knocks()[0], Reason.BUSY, retry_after_seconds=60))
    for turn in range(3):
        sender, recipient = (alice, bob) if turn % 2 else (bob, alice)
        skipped = sender.send(recipient.did, b"late")
        deliver(recipient, Kind.MESSAGE, sender.send(recipient.did, bytes(10 * turn), action="another action"))
        if turn % 2:
            deliver(recipient, Kind.MESSAGE, skipped)
    clock.advance(seconds=1)
    for event in alice.poll():
        if isinstance(event, SignalDue):
            deliver(bob, Kind.MESSAGE, event.reply)
    deliver(bob, Kind.MESSAGE, alice.close(bob.did, "done"))
    return tuple(seen)


def deliveries(kind: Kind | None = None) -> SearchStrategy[Delivery]:
    """Return genuine envelopes, each with a recipient that takes it: of one kind, or of all."""

    def of_kind(seed: int) -> SearchStrategy[Delivery]:
        return st.sampled_from([seen for seen in _conversation(seed) if kind in (None, seen.kind)])

    return st.integers(0, _SEEDS - 1).flatmap(of_kind)


def envelopes(kind: Kind | None = None) -> SearchStrategy[bytes]:
    """Return genuine envelopes of one kind, or of all."""
    return deliveries(kind).map(lambda delivery: delivery.envelope)


def outer_envelopes(kind: Kind | None = None) -> SearchStrategy[OuterEnvelope]:
    """Return genuine envelopes, parsed, of one kind, or of all."""
    return envelopes(kind).map(OuterEnvelope.parse)


# --- schedules -------------------------------------------------------------------------------------------------------

_HARMLESS: Final = tuple(move for move in Move if move not in {Move.DROP, Move.LOSE_STATE})


def schedules(moves: Sequence[Move] = _HARMLESS, *, max_size: int = 40) -> SearchStrategy[list[Action]]:
    """Return what may happen in a simulated mesh, for `schedule.perform`; by default nothing that loses a message."""
    small = st.integers(0, 7)
    return st.lists(st.builds(Action, move=st.sampled_from(moves), who=small, whom=small, at=small), max_size=max_size)


def orders(count: int, *, copies: int = 1) -> SearchStrategy[list[int]]:
    """Return the numbers below `count`, each `copies` times, in any order: the order in which envelopes arrive."""
    return st.permutations([number for number in range(count) for _ in range(copies)])

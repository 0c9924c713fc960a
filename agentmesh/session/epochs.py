"""Epochs: a secret of ML-KEM-768 that is mixed into the root key now and then (docs/protocol.md, section 6.3).

Theory of operation. X25519 alone does not heal a stolen state against an attacker who can break X25519. So the
initiator, A, and the responder, B, exchange a secret by ML-KEM, again and again:

    1. A *offers* a fresh key in the first message of a chain, and again in the next until it is answered.
    2. B *answers* with a ciphertext in the first message of its next chain, and keeps the secret.
    3. A mixes the secret into the root step of its next chain, whose headers say so: an epoch more.
    4. B, opening any message of that chain, mixes the secret that it has kept.

The side that mixes holds the answer, and the side that follows made the secret itself. What a key depends on is never
in flight, so offers and answers may be lost, late or repeated: only healing is delayed.

What a side holds of this is its *half*: `Offering` at A, `Answering` at B. What it holds never changes; it is replaced
whole. `MOVES` is the table of what leads from one standing of a half to another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from struct import Struct
from types import MappingProxyType
from typing import Final, NamedTuple, final
from weakref import ref

from agentmesh.errors import MessageRefused
from agentmesh.limits import COUNTER_MAX, Limits
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import EPOCH
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import KemCiphertext, KemPublicKey, Redacted

_U32: Final = Struct(">I")
_HALVES: Final = Struct("32s32s")
_OFFER: Final = Struct(f">I{_crypto.KEM_PUBLIC_BYTES}s")
_ANSWER: Final = Struct(f">I{_crypto.KEM_CIPHERTEXT_BYTES}s32s")
OFFER_BYTES: Final = _OFFER.size
ANSWER_BYTES: Final = _ANSWER.size


# --- the table -------------------------------------------------------------------------------------------------------


class Standing(StrEnum):
    """Where a half stands: the first three are A's, the others B's."""

    NOTHING_OUT = "nothing out"
    OFFERED = "offered"
    READY = "ready"
    NOTHING_KEPT = "nothing kept"
    ANSWERED = "answered"


class Move(StrEnum):
    """What moves a half."""

    OFFERS = "A seals the first message of a chain, and an offer is due"
    IS_ANSWERED = "A takes the answer to its offer"
    MIXES = "A begins its next chain, which mixes the secret"
    ANSWERS = "B takes an offer of the next epoch with a key that it has not answered"
    FOLLOWS = "B takes the first message that it opens of the chain that mixes"


# From (standing, move) to standing. What is not here does not happen: the item is left aside, the message counts.
MOVES: Final[Mapping[tuple[Standing, Move], Standing]] = MappingProxyType(
    {
        (Standing.NOTHING_OUT, Move.OFFERS): Standing.OFFERED,
        (Standing.OFFERED, Move.IS_ANSWERED): Standing.READY,
        (Standing.READY, Move.MIXES): Standing.NOTHING_OUT,
        (Standing.NOTHING_KEPT, Move.ANSWERS): Standing.ANSWERED,
        (Standing.ANSWERED, Move.ANSWERS): Standing.ANSWERED,  # an A that was restored offers another key
        (Standing.ANSWERED, Move.FOLLOWS): Standing.NOTHING_KEPT,
    }
)


# --- items -----------------------------------------------------------------------------------------------------------


class Offer(NamedTuple):
    """What A offers: the epoch that its secret will begin, and a key of ML-KEM-768. Public."""

    epoch: int
    key: KemPublicKey


class Answer(NamedTuple):
    """What B answers: the same epoch, the ciphertext, and the tag that shows what it must decapsulate to. Public."""

    epoch: int
    ciphertext: KemCiphertext
    tag: bytes


Item = Offer | Answer


def item_bytes(from_initiator: bool) -> int:
    """Return the length of an item in this direction: only A offers, and only B answers."""
    return OFFER_BYTES if from_initiator else ANSWER_BYTES


def parse_item(item: bytes, from_initiator: bool) -> Item:
    """Return the offer or the answer of an authentic message, its key checked. Section 6.3.

    Args:
        item: As many bytes as `item_bytes` says.
        from_initiator: The sender is A.

    Raises:
        MessageRefused: another length.
        BadPoint: the key of an offer fails FIPS 203's modulus check, whatever its epoch.
    """
    if len(item) != item_bytes(from_initiator):
        raise MessageRefused
    if not from_initiator:
        return Answer(*_ANSWER.unpack(item))
    offer = Offer(*_OFFER.unpack(item))
    _crypto.kem_check(offer.key)
    return offer


def _secret_and_tag(shared: bytes, epoch: int, key: bytes, ciphertext: bytes) -> tuple[bytes, bytes]:
    # Key and ciphertext stand under the secret, so that it belongs to one offer and one answer whatever the KEM binds.
    return _HALVES.unpack(_crypto.kdf(shared, EPOCH, _U32.pack(epoch) + key + ciphertext, 64))


# --- the halves ------------------------------------------------------------------------------------------------------


@final
class Offering(Redacted):
    """A's half.

    Attributes:
        epoch: How many secrets are in the root key.
        standing: Nothing out, offered or ready.
        turns: Own chains begun since the one that mixed last; that one is 0, and so is the first of all.
        since_ms: When that chain began.
        secret: While offered the seed of the key, 64 bytes; while ready the secret to be mixed, 32; otherwise none.
    """

    __slots__ = ("__weakref__", "_live", "epoch", "secret", "since_ms", "standing", "turns")

    def __init__(
        self,
        epoch: int = 0,
        standing: Standing = Standing.NOTHING_OUT,
        turns: int = 0,
        since_ms: int = 0,
        secret: bytes = b"",
    ) -> None:
        self.epoch: int = epoch
        self.standing: Standing = standing
        self.turns: int = turns
        self.since_ms: int = since_ms
        self.secret: bytes = secret
        self._live: tuple[_crypto.KemKey, bytes] | None = None

    def item_out(self, now_ms: int, entropy: Entropy, limits: Limits) -> tuple[bytes, Offering]:
        """Return (what the first message of a chain carries, if anything; the half once that message is sealed)."""
        half = self
        if (self.standing, Move.OFFERS) in MOVES and self._is_due(now_ms, limits):
            half = self._moved(Move.OFFERS, entropy.token(_crypto.KEM_SEED_BYTES))
        if half.standing is not Standing.OFFERED:
            return b"", half
        _, key = half._offered()
        return _OFFER.pack(self.epoch + 1, key), half

    def _offered(self) -> tuple[_crypto.KemKey, bytes]:
        """Return what is offered, the live key and its public one, made from the seed or kept since it was."""
        kept = self._live
        if kept is None:
            live = _crypto.kem_key(self.secret)
            kept = self._live = (live, _crypto.kem_public(live))
            _LIVE.append(ref(self))
            if len(_LIVE) > _LIVE_MAX:
                oldest = _LIVE.popleft()()
                if oldest is not None:
                    oldest._live = None
        return kept

    def _is_due(self, now_ms: int, limits: Limits) -> bool:
        # Not in the first chain: before the peer has answered anything, there may be nobody to answer.
        return (
            self.epoch < COUNTER_MAX
            and self.turns >= 1
            and (self.turns >= limits.epoch_turns or now_ms - self.since_ms >= limits.epoch_seconds * 1000)
        )

    def take(self, item: Item, _entropy: Entropy) -> Offering:
        """Return the half once a message with this item is accepted: the same, unless it answers what is offered."""
        if type(item) is not Answer or item.epoch != self.epoch + 1 or (self.standing, Move.IS_ANSWERED) not in MOVES:
            return self
        live, key = self._offered()
        shared = _crypto.kem_decapsulate(live, item.ciphertext)
        secret, tag = _secret_and_tag(shared, item.epoch, key, item.ciphertext)
        # ML-KEM makes some secret of every ciphertext. A wrong one, mixed, would end the direction for good.
        if not _crypto.constant_time_equal(tag, item.tag):
            return self
        return self._moved(Move.IS_ANSWERED, secret)

    def followed(self, epoch: int) -> tuple[Offering, bytes] | None:
        """Return (the half, what is mixed) behind a new chain of B in this epoch; `None` if that cannot be."""
        return (self, b"") if epoch == self.epoch else None  # B begins no chain before it has A's latest

    def begun(self, now_ms: int, is_first: bool) -> tuple[Offering, bytes]:
        """Return (the half once A has begun a chain, what that chain mixes)."""
        if (self.standing, Move.MIXES) in MOVES:
            return Offering(self.epoch + 1, MOVES[self.standing, Move.MIXES], 0, now_ms), self.secret
        turns, since_ms = (0, now_ms) if is_first else (min(self.turns + 1, COUNTER_MAX), self.since_ms)
        return Offering(self.epoch, self.standing, turns, since_ms, self.secret), b""

    def _moved(self, move: Move, secret: bytes) -> Offering:
        return Offering(self.epoch, MOVES[self.standing, move], self.turns, self.since_ms, secret)


# Making a key from its seed is the dearest part of an exchange, and an answer mostly comes soon. So the keys that were
# offered last stay live: some 10 MB at most, while their halves last.
_LIVE_MAX: Final = 1024
_LIVE: Final[deque[ref[Offering]]] = deque()


@final
class Answering(Redacted):
    """B's half.

    Attributes:
        epoch: How many secrets are in the root key.
        standing: Nothing kept, or answered.
        ref: The SHA-256 of the key that was answered.
        answer: The item that goes with each first message of a chain, until A has mixed.
        secret: What A will mix, 32 bytes.
    """

    __slots__ = ("answer", "epoch", "ref", "secret", "standing")

    def __init__(
        self,
        epoch: int = 0,
        standing: Standing = Standing.NOTHING_KEPT,
        ref: bytes = b"",
        answer: bytes = b"",
        secret: bytes = b"",
    ) -> None:
        self.epoch: int = epoch
        self.standing: Standing = standing
        self.ref: bytes = ref
        self.answer: bytes = answer
        self.secret: bytes = secret

    def item_out(self, _now_ms: int, _entropy: Entropy, _limits: Limits) -> tuple[bytes, Answering]:
        """Return (what the first message of a chain carries, if anything; the half, which stays as it is)."""
        return self.answer, self

    def take(self, item: Item, entropy: Entropy) -> Answering:
        """Return the half once a message with this item is accepted: the same, unless it offers something new."""
        if type(item) is not Offer or item.epoch != self.epoch + 1 or (self.standing, Move.ANSWERS) not in MOVES:
            return self
        ref = _crypto.sha256(item.key)
        if ref == self.ref:
            return self
        ciphertext, shared = entropy.encapsulate(item.key)
        secret, tag = _secret_and_tag(shared, item.epoch, item.key, ciphertext)
        answer = _ANSWER.pack(item.epoch, ciphertext, tag)
        return Answering(self.epoch, MOVES[self.standing, Move.ANSWERS], ref, answer, secret)

    def followed(self, epoch: int) -> tuple[Answering, bytes] | None:
        """Return (the half, what is mixed) behind a new chain of A in this epoch; `None` if that cannot be."""
        if epoch == self.epoch:
            return self, b""
        if epoch == self.epoch + 1 and (self.standing, Move.FOLLOWS) in MOVES:
            return Answering(epoch, MOVES[self.standing, Move.FOLLOWS]), self.secret
        return None

    def begun(self, _now_ms: int, _is_first: bool) -> tuple[Answering, bytes]:
        """Return (the half once B has begun a chain, what that chain mixes): only A's chains mix."""
        return self, b""


Half = Offering | Answering

"""The exchange of secrets by ML-KEM beside a ratchet: section 6.3."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace

from verifier.common import COUNTER_MAX, Json, Unusable, unhex
from verifier.encoding import u32
from verifier.primitives import decapsulate, kdf, kem_public

OFFER_BYTES = 4 + 1184
TAG_AT = 4 + 1088
ANSWER_BYTES = TAG_AT + 32

Encapsulated = tuple[bytes, bytes]  # a ciphertext and its shared secret


def encapsulated_of(step: Json) -> Encapsulated | None:
    """What a step draws where it answers an offer."""
    if "kem_ciphertext" not in step:
        return None
    return unhex(step["kem_ciphertext"]), unhex(step["kem_shared_secret"])


def secret_and_tag(ss: bytes, epoch: int, ek: bytes, ct: bytes) -> tuple[bytes, bytes]:
    """The secret pq of an epoch, and its tag."""
    both = kdf(ss, "am1-epoch", u32(epoch) + ek + ct, 64)
    return both[:32], both[32:]


@dataclass(frozen=True)
class Offering:
    """A's half. With a seed a key is offered; with a secret that is ready its next chain mixes."""

    turns: int = 0
    since: int = 0
    seed: bytes | None = None
    ready: bytes | None = None

    def is_due(self, epoch: int, now: int, limits: dict[str, int]) -> bool:
        """Whether the first message of a chain begins an offer."""
        out = self.seed is not None or self.ready is not None
        if out or epoch >= COUNTER_MAX or self.turns < 1:
            return False
        return self.turns >= limits["epoch_turns"] or now - self.since >= limits["epoch_seconds"] * 1000

    def item(self, epoch: int) -> bytes:
        """The offer, while one is out."""
        return b"" if self.seed is None else u32(epoch + 1) + kem_public(self.seed)

    def take(self, item: bytes, epoch: int) -> Offering:
        """An answer: it is for this offer, or it is left aside."""
        number, ct, tag = int.from_bytes(item[:4], "big"), item[4:TAG_AT], item[TAG_AT:]
        if self.seed is None or number != epoch + 1:
            return self
        pq, wanted = secret_and_tag(decapsulate(self.seed, ct), number, kem_public(self.seed), ct)
        return replace(self, seed=None, ready=pq) if hmac.compare_digest(tag, wanted) else self

    def next_chain(self, first: bool, now: int) -> Offering:
        """A begins a chain."""
        if self.ready is not None:
            return Offering(since=now)
        if first:
            return replace(self, turns=0, since=now)
        return replace(self, turns=min(self.turns + 1, COUNTER_MAX))


@dataclass(frozen=True)
class Answering:
    """B's half, while it keeps an answer."""

    ref: bytes
    answer: bytes
    pq: bytes


def take_offer(kept: Answering | None, item: bytes, epoch: int, encapsulated: Encapsulated | None) -> Answering | None:
    """What B keeps after an offer: the answer to it, unless it is late or repeated."""
    number, ek = int.from_bytes(item[:4], "big"), item[4:]
    ref = hashlib.sha256(ek).digest()
    if number != epoch + 1 or (kept is not None and kept.ref == ref):
        return kept
    if encapsulated is None:
        raise Unusable("the step answers an offer, and has no kem_ciphertext")
    ct, ss = encapsulated
    pq, tag = secret_and_tag(ss, number, ek, ct)
    return Answering(ref, u32(number) + ct + tag, pq)


def offering_out(half: Offering | None) -> Json | None:
    """A's half as README.md shows it."""
    if half is None:
        return None
    return {"turns": half.turns, "since_ms": half.since, "kem_seed": half.seed, "ready": half.ready}


def answering_out(half: Answering | None) -> Json | None:
    """B's half as README.md shows it."""
    return half and {"ref": half.ref, "answer": half.answer, "pq": half.pq}


def offering_in(given: Json | None) -> Offering | None:
    """A's half of an input."""
    if given is None:
        return None
    seed, ready = (None if given[name] is None else unhex(given[name]) for name in ("kem_seed", "ready"))
    return Offering(given["turns"], given["since_ms"], seed, ready)


def answering_in(given: Json | None) -> Answering | None:
    """B's half of an input."""
    return given and Answering(*(unhex(given[name]) for name in ("ref", "answer", "pq")))

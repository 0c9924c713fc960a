"""The Double Ratchet, sections 6 and 6.3."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, replace

from verifier.common import COUNTER_MAX, KEPT_CHAINS, LATE_CHAINS, Json, Trace, Unusable, refuse, unhex
from verifier.encoding import u32
from verifier.epochs import (
    Answering,
    Encapsulated,
    Offering,
    answering_in,
    answering_out,
    offering_in,
    offering_out,
    take_offer,
)
from verifier.primitives import agree, box_keys, kdf_chain, kdf_root, secretbox, secretbox_open, x25519_public

HEADER_BYTES = 44
SEALED_END = 24 + 16 + HEADER_BYTES  # nonce and sealed header
BOX_AT = SEALED_END + 32


@dataclass(frozen=True)
class Sending:
    """A sending chain; n is the number of its next message."""

    ck: bytes
    hk: bytes
    pn: int
    n: int


@dataclass(frozen=True)
class Receiving:
    """A receiving chain; n is expected next, `before` counts the messages of all earlier chains of the direction."""

    ck: bytes
    hk: bytes
    peer: bytes
    epoch: int
    pn: int
    n: int
    before: int

    @property
    def header_start(self) -> bytes:
        """What all ratchet headers of the chain have before n."""
        return self.peer + u32(self.epoch) + u32(self.pn)


@dataclass(frozen=True)
class Past:
    """A receiving chain that ended."""

    hk: bytes
    length: int
    before: int


@dataclass(frozen=True)
class Kept:
    """A skipped message key."""

    hk: bytes
    n: int
    mk: bytes
    at: int


@dataclass(frozen=True)
class Opened:
    """What opening a message gives. Its `finish` gives the state that follows, once all other checks have passed.

    It takes the message's item, empty for none, and what the step draws to answer it.
    """

    finish: Callable[[bytes, Encapsulated | None], Ratchet]
    content: bytes
    peer: bytes
    n: int
    position: int


@dataclass(frozen=True)
class Ratchet:
    """One side's state. Every step gives a new one."""

    rk: bytes
    secret: bytes
    public: bytes
    sending: Sending | None
    receiving: Receiving | None
    nhks: bytes
    nhkr: bytes
    past: tuple[Past, ...] = ()
    kept: tuple[Kept, ...] = ()
    epoch: int = 0
    offering: Offering | None = None
    answering: Answering | None = None

    @classmethod
    def start_initiator(cls, root: bytes, hk_ab: bytes, hk_ba: bytes, secret: bytes) -> Ratchet:
        """A, knocking."""
        return cls(root, secret, x25519_public(secret), None, None, hk_ab, hk_ba, offering=Offering())

    @classmethod
    def start_responder(
        cls, root: bytes, hk_ab: bytes, hk_ba: bytes, secret: bytes, ek: bytes, trace: Trace
    ) -> Ratchet:
        """B, accepting."""
        public, dh = x25519_public(secret), agree(secret, ek)
        rk, cks, nhks = kdf_root(root, dh, b"")
        trace |= {"ratchet_public": public, "dh_sending": dh, "rk": rk, "cks": cks, "nhks": nhks}
        return cls(rk, secret, public, Sending(cks, hk_ba, 0, 0), None, nhks, hk_ab)

    @property
    def is_exhausted(self) -> bool:
        """Whether there is no number for another message."""
        return self.sending is None or self.sending.n >= COUNTER_MAX

    def with_item(self, now: int, seed: bytes | None, limits: dict[str, int]) -> tuple[Ratchet, bytes]:
        """Before data or a signal is sealed: the item that it carries, empty for none, and the state that keeps it."""
        if self.sending is None or self.sending.n > 0:
            return self, b""
        if self.offering is None:
            return self, self.answering.answer if self.answering else b""
        offering = self.offering
        if offering.is_due(self.epoch, now, limits):
            if seed is None:
                raise Unusable("the step offers a key, and has no kem_seed")
            offering = replace(offering, seed=seed)
        return replace(self, offering=offering), offering.item(self.epoch)

    def seal(self, plaintext: bytes, nonce: bytes, tail: bytes, trace: Trace) -> tuple[Ratchet, bytes]:
        """A message without its session id."""
        chain = self.sending
        if chain is None or self.is_exhausted:
            refuse("ratchet.exhausted")
        header = self.public + u32(self.epoch) + u32(chain.pn) + u32(chain.n)
        sealed_header = secretbox(header, nonce, chain.hk)
        ck_next, mk = kdf_chain(chain.ck)
        trace |= {"hk": chain.hk, "ratchet_header": header, "ck": chain.ck, "ck_next": ck_next, "mk": mk}
        bk, kc = box_keys(mk, "am1-message", nonce + sealed_header + tail, trace)
        trace["box_content"] = plaintext
        after = replace(self, sending=replace(chain, ck=ck_next, n=chain.n + 1))
        return after, nonce + sealed_header + kc + secretbox(plaintext, nonce, bk)

    def open_header(self, nonce: bytes, sealed: bytes, trace: Trace) -> tuple[Receiving | Past | None, bytes]:
        """The chain whose header key opens the sealed header, None for the next one, and the header."""
        current = [(self.receiving, self.receiving.hk)] if self.receiving else []
        past = [(chain, chain.hk) for chain in reversed(self.past)]
        for chain, hk in [*current, (None, self.nhkr), *past]:
            header = secretbox_open(sealed, nonce, hk)
            if header is not None:
                trace |= {"hk": hk, "ratchet_header": header}
                return chain, header
        return refuse("message.unopened")

    def open(
        self, message: bytes, tail: bytes, now: int, secret: bytes | None, limits: dict[str, int], trace: Trace
    ) -> Opened:
        """Open a message without its session id: the table of section 6, then kc, then the box."""
        nonce, sealed_header = message[:24], message[24:SEALED_END]
        commitment, box = message[SEALED_END:BOX_AT], message[BOX_AT:]
        chain, header = self.open_header(nonce, sealed_header, trace)
        peer, (epoch, pn, n) = header[:32], (int.from_bytes(header[at : at + 4], "big") for at in (32, 36, 40))
        turn = None
        if isinstance(chain, Receiving) and (header[:40] != chain.header_start or n == COUNTER_MAX):
            refuse("message.contradiction")
        if isinstance(chain, Past) and n >= chain.length:
            refuse("message.contradiction")
        if chain is None:
            turn, rest = self._begin_turn(peer, epoch, pn, n, now, limits, trace)
            after, mk = turn._advance(turn.receiving, n, now, trace)
            after = replace(after, kept=self.kept + rest + after.kept)
            before = turn.receiving.before if turn.receiving else 0
        elif isinstance(chain, Receiving) and n >= chain.n:
            if n - chain.n > limits["skipped_keys_per_step"]:
                refuse("message.gap")
            advanced, mk = self._advance(chain, n, now, trace)
            after, before = replace(advanced, kept=self.kept + advanced.kept), chain.before
        else:
            mk = self._kept_key(chain.hk, n, now, limits)
            trace["mk"] = mk
            served = tuple(k for k in self.kept if (k.hk, k.n) != (chain.hk, n))
            after, before = replace(self, kept=served), chain.before
        bk, kc = box_keys(mk, "am1-message", nonce + sealed_header + tail, trace)
        if not hmac.compare_digest(kc, commitment):
            refuse("message.unopened")
        content = secretbox_open(box, nonce, bk)
        if content is None:
            refuse("message.unopened")
        trace["box_content"] = content

        def finish(item: bytes, encapsulated: Encapsulated | None) -> Ratchet:
            taken = after._take_item(item, encapsulated) if item else after
            if turn is None:
                return taken.without_old_keys(now, limits)
            return taken._finish_turn(secret, now, trace).without_old_keys(now, limits)._without_old_chains()

        return Opened(finish, content, peer, n, before + n)

    def _begin_turn(
        self, peer: bytes, epoch: int, pn: int, n: int, now: int, limits: dict[str, int], trace: Trace
    ) -> tuple[Ratchet, tuple[Kept, ...]]:
        """Steps 1 and 2 of a turn, and the skipped keys of the old chain."""
        old = self.receiving
        expected = old.n if old else 0
        mixes = self.answering is not None and epoch == self.epoch + 1
        if pn < expected or (old is None and pn > 0) or n == COUNTER_MAX or not (mixes or epoch == self.epoch):
            refuse("message.contradiction")
        if pn - expected + n > limits["skipped_keys_per_step"]:
            refuse("message.gap")
        dh = agree(self.secret, peer)
        rest: list[Kept] = []
        past, before = self.past, 0
        if old is not None:
            ck = old.ck
            for number in range(expected, pn):
                ck, mk = kdf_chain(ck)
                rest.append(Kept(old.hk, number, mk, now))
            past, before = (*past, Past(old.hk, pn, old.before)), old.before + pn
        mixed = self.answering.pq if self.answering and mixes else b""
        rk, ckr, nhkr = kdf_root(self.rk, dh, mixed)
        trace |= {"dh_receiving": dh, "rk_between": rk, "ckr": ckr, "nhkr": nhkr}
        trace |= {"mixed_receiving": mixed} if mixed else {}
        chain = Receiving(ckr, self.nhkr, peer, epoch, pn, 0, before)
        after = replace(self, rk=rk, receiving=chain, nhkr=nhkr, past=past, epoch=epoch)
        return replace(after, answering=None if mixes else self.answering), tuple(rest)

    def _take_item(self, item: bytes, encapsulated: Encapsulated | None) -> Ratchet:
        """The item of a message that was accepted."""
        if self.offering is not None:
            return replace(self, offering=self.offering.take(item, self.epoch))
        return replace(self, answering=take_offer(self.answering, item, self.epoch, encapsulated))

    def _finish_turn(self, secret: bytes | None, now: int, trace: Trace) -> Ratchet:
        """Steps 3 and 4 of a turn."""
        if secret is None or self.receiving is None:
            raise Unusable("the step takes a turn, and has no ratchet_secret")
        sent = self.sending.n if self.sending else 0
        public, dh = x25519_public(secret), agree(secret, self.receiving.peer)
        mixed = (self.offering and self.offering.ready) or b""
        rk, cks, nhks = kdf_root(self.rk, dh, mixed)
        trace |= {"ratchet_public": public, "dh_sending": dh, "rk": rk, "cks": cks, "nhks": nhks}
        trace |= {"mixed_sending": mixed} if mixed else {}
        sending = Sending(cks, self.nhks, sent, 0)
        after = replace(self, rk=rk, secret=secret, public=public, sending=sending, nhks=nhks)
        offering = self.offering and self.offering.next_chain(self.sending is None, now)
        return replace(after, epoch=self.epoch + bool(mixed), offering=offering)

    def _advance(self, chain: Receiving | None, n: int, now: int, trace: Trace) -> tuple[Ratchet, bytes]:
        """Step a chain up to n; the state's kept keys are then those that were skipped on the way."""
        assert chain is not None
        ck, skipped = chain.ck, []
        for number in range(chain.n, n):
            ck, mk = kdf_chain(ck)
            skipped.append(Kept(chain.hk, number, mk, now))
        ck_next, mk = kdf_chain(ck)
        trace |= {"ck": ck, "ck_next": ck_next, "mk": mk}
        return replace(self, receiving=replace(chain, ck=ck_next, n=n + 1), kept=tuple(skipped)), mk

    def _kept_key(self, hk: bytes, n: int, now: int, limits: dict[str, int]) -> bytes:
        lifetime = limits["skipped_key_lifetime_seconds"] * 1000
        for key in self.kept:
            if (key.hk, key.n) == (hk, n) and now - key.at <= lifetime:
                return key.mk
        return refuse("message.duplicate")

    def without_old_keys(self, now: int, limits: dict[str, int]) -> Ratchet:
        """Without the keys whose time is over, and without the oldest where there are too many."""
        lifetime = limits["skipped_key_lifetime_seconds"] * 1000
        kept = self.kept[-limits["skipped_keys_per_session"] :]
        stays = next((at for at, key in enumerate(kept) if now - key.at <= lifetime), len(kept))
        return replace(self, kept=kept[stays:])

    def _without_old_chains(self) -> Ratchet:
        """Behind a turn: the last past chains stay, and the newest of those before them of which a key is kept."""
        late, last = self.past[:-KEPT_CHAINS], self.past[-KEPT_CHAINS:]
        awaited = {key.hk for key in self.kept}
        past = tuple(chain for chain in late if chain.hk in awaited)[-LATE_CHAINS:] + last
        chains = {chain.hk for chain in past} | ({self.receiving.hk} if self.receiving else set())
        return replace(self, past=past, kept=tuple(key for key in self.kept if key.hk in chains))


def ratchet_out(state: Ratchet) -> Json:
    """A state as README.md shows it."""
    sending, receiving = state.sending, state.receiving
    return {
        "rk": state.rk,
        "ratchet_secret": state.secret,
        "ratchet_public": state.public,
        "sending": sending and {"ck": sending.ck, "hk": sending.hk, "pn": sending.pn, "n": sending.n},
        "receiving": receiving
        and {
            "ck": receiving.ck,
            "hk": receiving.hk,
            "ratchet_public": receiving.peer,
            "epoch": receiving.epoch,
            "pn": receiving.pn,
            "n": receiving.n,
        },
        "nhks": state.nhks,
        "nhkr": state.nhkr,
        "past": [{"hk": chain.hk, "length": chain.length} for chain in state.past],
        "skipped": [{"hk": key.hk, "n": key.n, "mk": key.mk, "kept_at_ms": key.at} for key in state.kept],
        "epoch": state.epoch,
        "offering": offering_out(state.offering),
        "answering": answering_out(state.answering),
    }


def ratchet_in(given: Json) -> Ratchet:
    """The state of an input. It does not say what was before its chains; nothing in ratchet.run asks."""
    sending, receiving = given["sending"], given["receiving"]
    return Ratchet(
        rk=unhex(given["rk"]),
        secret=unhex(given["ratchet_secret"]),
        public=unhex(given["ratchet_public"]),
        sending=sending and Sending(unhex(sending["ck"]), unhex(sending["hk"]), sending["pn"], sending["n"]),
        receiving=receiving
        and Receiving(
            unhex(receiving["ck"]),
            unhex(receiving["hk"]),
            unhex(receiving["ratchet_public"]),
            receiving["epoch"],
            receiving["pn"],
            receiving["n"],
            0,
        ),
        nhks=unhex(given["nhks"]),
        nhkr=unhex(given["nhkr"]),
        past=tuple(Past(unhex(chain["hk"]), chain["length"], 0) for chain in given["past"]),
        kept=tuple(Kept(unhex(key["hk"]), key["n"], unhex(key["mk"]), key["kept_at_ms"]) for key in given["skipped"]),
        epoch=given["epoch"],
        offering=offering_in(given["offering"]),
        answering=answering_in(given["answering"]),
    )

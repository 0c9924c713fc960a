"""The Double Ratchet, section 6."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, replace

from verifier.common import COUNTER_MAX, KEPT_CHAINS, Json, Trace, Unusable, refuse, unhex
from verifier.encoding import u32
from verifier.primitives import agree, box_keys, kdf_chain, kdf_root, secretbox, secretbox_open, x25519_public


@dataclass(frozen=True)
class Sending:
    """A sending chain; `before` counts the messages of all earlier chains of the direction."""

    ck: bytes
    hk: bytes
    pn: int
    n: int
    before: int


@dataclass(frozen=True)
class Receiving:
    """A receiving chain; n is the number that is expected next."""

    ck: bytes
    hk: bytes
    peer: bytes
    pn: int
    n: int
    before: int


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
    """What opening a message gives. Its `finish` gives the state that follows, once all other checks have passed."""

    finish: Callable[[], Ratchet]
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

    @classmethod
    def start_initiator(cls, root: bytes, hk_ab: bytes, hk_ba: bytes, secret: bytes) -> Ratchet:
        """A, knocking."""
        return cls(root, secret, x25519_public(secret), None, None, hk_ab, hk_ba)

    @classmethod
    def start_responder(
        cls, root: bytes, hk_ab: bytes, hk_ba: bytes, secret: bytes, ek: bytes, trace: Trace
    ) -> Ratchet:
        """B, accepting."""
        public, dh = x25519_public(secret), agree(secret, ek)
        rk, cks, nhks = kdf_root(root, dh)
        trace |= {"ratchet_public": public, "dh_sending": dh, "rk": rk, "cks": cks, "nhks": nhks}
        return cls(rk, secret, public, Sending(cks, hk_ba, 0, 0, 0), None, nhks, hk_ab)

    @property
    def next_position(self) -> int:
        """The number of messages of the direction before the next one to send."""
        if self.sending is None or self.sending.n >= COUNTER_MAX:
            refuse("ratchet.exhausted")
        return self.sending.before + self.sending.n

    def seal(self, plaintext: bytes, nonce: bytes, tail: bytes, trace: Trace) -> tuple[Ratchet, bytes, int]:
        """A message without its session id, and its position among those of the ratchet."""
        position, chain = self.next_position, self.sending
        assert chain is not None
        header = self.public + u32(chain.pn) + u32(chain.n)
        sealed_header = secretbox(header, nonce, chain.hk)
        ck_next, mk = kdf_chain(chain.ck)
        trace |= {"hk": chain.hk, "ratchet_header": header, "ck": chain.ck, "ck_next": ck_next, "mk": mk}
        bk, kc = box_keys(mk, "am1-message", nonce + sealed_header + tail, trace)
        trace["box_content"] = plaintext
        after = replace(self, sending=replace(chain, ck=ck_next, n=chain.n + 1))
        return after, nonce + sealed_header + kc + secretbox(plaintext, nonce, bk), position

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
        nonce, sealed_header, commitment, box = message[:24], message[24:80], message[80:112], message[112:]
        chain, header = self.open_header(nonce, sealed_header, trace)
        peer, pn, n = header[:32], int.from_bytes(header[32:36], "big"), int.from_bytes(header[36:], "big")
        turn = None
        if isinstance(chain, Receiving) and (peer != chain.peer or pn != chain.pn or n == COUNTER_MAX):
            refuse("message.contradiction")
        if isinstance(chain, Past) and n >= chain.length:
            refuse("message.contradiction")
        if chain is None:
            turn, rest = self._begin_turn(peer, pn, n, now, limits, trace)
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

        def finish() -> Ratchet:
            return (after if turn is None else after._finish_turn(secret, trace))._tidied(now, limits)

        return Opened(finish, content, peer, n, before + n)

    def _begin_turn(
        self, peer: bytes, pn: int, n: int, now: int, limits: dict[str, int], trace: Trace
    ) -> tuple[Ratchet, tuple[Kept, ...]]:
        """Steps 1 and 2 of a turn, and the skipped keys of the old chain."""
        old = self.receiving
        expected = old.n if old else 0
        if pn < expected or (old is None and pn > 0) or n == COUNTER_MAX:
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
        rk, ckr, nhkr = kdf_root(self.rk, dh)
        trace |= {"dh_receiving": dh, "rk_between": rk, "ckr": ckr, "nhkr": nhkr}
        chain = Receiving(ckr, self.nhkr, peer, pn, 0, before)
        return replace(self, rk=rk, receiving=chain, nhkr=nhkr, past=past), tuple(rest)

    def _finish_turn(self, secret: bytes | None, trace: Trace) -> Ratchet:
        """Steps 3 and 4 of a turn."""
        if secret is None or self.receiving is None:
            raise Unusable("the step takes a turn, and has no ratchet_secret")
        sent, before = (self.sending.n, self.sending.before) if self.sending else (0, 0)
        public, dh = x25519_public(secret), agree(secret, self.receiving.peer)
        rk, cks, nhks = kdf_root(self.rk, dh)
        trace |= {"ratchet_public": public, "dh_sending": dh, "rk": rk, "cks": cks, "nhks": nhks}
        sending = Sending(cks, self.nhks, sent, 0, before + sent)
        return replace(self, rk=rk, secret=secret, public=public, sending=sending, nhks=nhks)

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

    def _tidied(self, now: int, limits: dict[str, int]) -> Ratchet:
        """Without the chains and the keys that are no longer kept."""
        past = self.past[-KEPT_CHAINS:]
        chains = {chain.hk for chain in past} | ({self.receiving.hk} if self.receiving else set())
        lifetime = limits["skipped_key_lifetime_seconds"] * 1000
        kept = tuple(key for key in self.kept if key.hk in chains and now - key.at <= lifetime)
        return replace(self, past=past, kept=kept[-limits["skipped_keys_per_session"] :])


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
            "pn": receiving.pn,
            "n": receiving.n,
        },
        "nhks": state.nhks,
        "nhkr": state.nhkr,
        "past": [{"hk": chain.hk, "length": chain.length} for chain in state.past],
        "skipped": [{"hk": key.hk, "n": key.n, "mk": key.mk, "kept_at_ms": key.at} for key in state.kept],
    }


def ratchet_in(given: Json) -> Ratchet:
    """The state of an input. It does not say what was before its chains; nothing in ratchet.run asks."""
    sending, receiving = given["sending"], given["receiving"]
    return Ratchet(
        rk=unhex(given["rk"]),
        secret=unhex(given["ratchet_secret"]),
        public=unhex(given["ratchet_public"]),
        sending=sending and Sending(unhex(sending["ck"]), unhex(sending["hk"]), sending["pn"], sending["n"], 0),
        receiving=receiving
        and Receiving(
            unhex(receiving["ck"]),
            unhex(receiving["hk"]),
            unhex(receiving["ratchet_public"]),
            receiving["pn"],
            receiving["n"],
            0,
        ),
        nhks=unhex(given["nhks"]),
        nhkr=unhex(given["nhkr"]),
        past=tuple(Past(unhex(chain["hk"]), chain["length"], 0) for chain in given["past"]),
        kept=tuple(Kept(unhex(key["hk"]), key["n"], unhex(key["mk"]), key["kept_at_ms"]) for key in given["skipped"]),
    )

"""The ratchet alone, without sessions and envelopes."""

from __future__ import annotations

from agentmesh.primitives import _crypto
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import ChainKey, HeaderKey, MessageKey, RootKey, X25519PublicKey, X25519Secret
from agentmesh.session.chains import PastChain, ReceivingChain, SendingChain, SkippedAt
from agentmesh.session.epochs import Answering, Half, Offering, Standing, parse_item
from agentmesh.session.needs import Suite
from agentmesh.session.ratchet import Ratchet
from agentmesh.session.suite import SUITE
from runner.values import Draws, Json, Script, limits_of, unhex

_SKIPPED_LISTED_MAX = 16  # a state with more kept keys is given by their number alone, because nobody reads a thousand
_ALL = 1 << 32


def initial_ratchet(start: Json, suite: Suite = SUITE, entropy: Entropy | None = None) -> Ratchet:
    """Return the ratchet of a role as section 6 starts it."""
    root = RootKey(unhex(start["root"]))
    header_key_ab, header_key_ba = HeaderKey(unhex(start["hk_ab"])), HeaderKey(unhex(start["hk_ba"]))
    if start["role"] == "initiator":
        secret = X25519Secret(unhex(start["ephemeral_secret"]))
        public = X25519PublicKey(_crypto.x25519_public(secret))
        return Ratchet.initiator(suite, root, secret, public, header_key_ab=header_key_ab, header_key_ba=header_key_ba)
    return Ratchet.responder(
        suite,
        root,
        X25519PublicKey(unhex(start["ephemeral"])),
        header_key_ab=header_key_ab,
        header_key_ba=header_key_ba,
        entropy=entropy or Script(start, "ratchet_secret"),
    )


def ratchet_json(ratchet: Ratchet, listed_max: int = _SKIPPED_LISTED_MAX) -> Json:
    """Return a ratchet's state in the protocol's own terms, or only the number of kept keys where there are many."""
    if len(ratchet.skipped) > listed_max:
        return {"skipped_count": len(ratchet.skipped)}
    sending, receiving = ratchet.sending, ratchet.receiving
    names = {past.serial: past.header_key for past in ratchet.past}
    if receiving is not None:
        names[receiving.serial] = receiving.header_key
    return {
        "state": {
            "rk": ratchet.root.hex(),
            "ratchet_secret": ratchet.secret.hex(),
            "ratchet_public": ratchet.public.hex(),
            "sending": None
            if sending is None
            else {
                "ck": sending.key.hex(),
                "hk": sending.header_key.hex(),
                "pn": sending.previous_length,
                "n": sending.n,
            },
            "receiving": None
            if receiving is None
            else {
                "ck": receiving.key.hex(),
                "hk": receiving.header_key.hex(),
                "ratchet_public": receiving.peer_key.hex(),
                "epoch": receiving.epoch,
                "pn": receiving.previous_length,
                "n": receiving.n,
            },
            "nhks": ratchet.next_sending.hex(),
            "nhkr": ratchet.next_receiving.hex(),
            "past": [{"hk": past.header_key.hex(), "length": past.length} for past in ratchet.past],
            "skipped": [
                {"hk": names[serial].hex(), "n": n, "mk": key.hex(), "kept_at_ms": kept_at_ms}
                for (serial, n), (key, kept_at_ms) in ratchet.skipped.items()
            ],
            **_half_json(ratchet.epochs),
        }
    }


def _half_json(half: Half) -> Json:
    if isinstance(half, Answering):
        is_kept = half.standing is Standing.ANSWERED
        kept = {"ref": half.ref.hex(), "answer": half.answer.hex(), "pq": half.secret.hex()} if is_kept else None
        return {"epoch": half.epoch, "offering": None, "answering": kept}
    secret = half.secret.hex()
    offering = {
        "turns": half.turns,
        "since_ms": half.since_ms,
        "kem_seed": secret if half.standing is Standing.OFFERED else None,
        "ready": secret if half.standing is Standing.READY else None,
    }
    return {"epoch": half.epoch, "offering": offering, "answering": None}


def _half_from(state: Json) -> Half:
    offering, answering = state["offering"], state["answering"]
    if offering is None:
        if answering is None:
            return Answering(state["epoch"])
        kept = (unhex(answering[name]) for name in ("ref", "answer", "pq"))
        return Answering(state["epoch"], Standing.ANSWERED, *kept)
    standing, secret = Standing.NOTHING_OUT, ""
    if offering["kem_seed"] is not None:
        standing, secret = Standing.OFFERED, offering["kem_seed"]
    elif offering["ready"] is not None:
        standing, secret = Standing.READY, offering["ready"]
    return Offering(state["epoch"], standing, offering["turns"], offering["since_ms"], unhex(secret))


def ratchet_from(state: Json, suite: Suite = SUITE) -> Ratchet:
    """Return the ratchet in this state. Serial numbers are ours: they count from the oldest kept chain."""
    past = tuple(
        PastChain(HeaderKey(unhex(chain["hk"])), chain["length"], 0, serial)
        for serial, chain in enumerate(state["past"])
    )
    sent, received = state["sending"], state["receiving"]
    serials = {past_chain.header_key: past_chain.serial for past_chain in past}
    receiving = None
    if received is not None:
        receiving = ReceivingChain(
            ChainKey(unhex(received["ck"])),
            HeaderKey(unhex(received["hk"])),
            X25519PublicKey(unhex(received["ratchet_public"])),
            received["epoch"],
            received["n"],
            received["pn"],
            0,
            len(past),
        )
        serials[receiving.header_key] = receiving.serial
    skipped: dict[SkippedAt, tuple[MessageKey, int]] = {
        (serials[HeaderKey(unhex(kept["hk"]))], kept["n"]): (
            MessageKey(unhex(kept["mk"])),
            kept["kept_at_ms"],
        )
        for kept in state["skipped"]
    }
    return Ratchet(
        suite,
        RootKey(unhex(state["rk"])),
        X25519Secret(unhex(state["ratchet_secret"])),
        X25519PublicKey(unhex(state["ratchet_public"])),
        None
        if sent is None
        else SendingChain(ChainKey(unhex(sent["ck"])), HeaderKey(unhex(sent["hk"])), sent["n"], sent["pn"], 0),
        receiving,
        HeaderKey(unhex(state["nhks"])),
        HeaderKey(unhex(state["nhkr"])),
        _half_from(state),
        past,
        skipped,
    )


class RatchetRunner:
    """One side of a ratchet, without sessions and envelopes: `ratchet.run`."""

    def __init__(self, given: Json, draws: Draws | None = None, suite: Suite = SUITE) -> None:
        self._draws = draws or Draws()
        self._limits = limits_of(given)
        self._context = unhex(given["context"])
        if "state" in given:
            self.ratchet = ratchet_from(given["state"], suite)
        else:
            self._draws.begin(given["start"])
            self.ratchet = initial_ratchet(given["start"], suite, self._draws)

    def step(self, step: Json, /) -> Json:
        """Seal or open one message. Its item, if it has one, stands beside its plaintext."""
        self._draws.begin(step)
        if step["do"] == "seal":
            item, half = b"", None
            if "now_ms" in step:
                item, half = self.ratchet.item_out(step["now_ms"], self._draws, self._limits)
            nonce = self._draws.token(_crypto.NONCE_BYTES)
            parts, _, chain = self.ratchet.seal(unhex(step["plaintext"]), self._context, nonce)
            self.ratchet.apply_sealed(chain, half)
            return {"message": b"".join(parts).hex(), **({"item": item.hex()} if item else {})}
        opened = self.ratchet.open(unhex(step["message"]), self._context, now_ms=step["now_ms"], limits=self._limits)
        item_in = None
        if "item" in step:
            item_in = parse_item(unhex(step["item"]), isinstance(self.ratchet.epochs, Answering))
        self.ratchet.apply(opened.delta(self._draws, item_in))
        return {"plaintext": opened.plaintext.hex()}

    def state(self) -> Json:
        """Return the state."""
        return ratchet_json(self.ratchet)

    def export(self) -> Json:
        """Return the state."""
        return ratchet_json(self.ratchet, _ALL)

"""Of the family ratchet: what is offered, answered and mixed (section 6.3), with items beside their plaintexts."""

from __future__ import annotations

from typing import Any, Final

from agentmesh.limits import Limits
from agentmesh.primitives import _crypto
from agentmesh.session.epochs import ANSWER_BYTES, Answering, parse_item
from generator import ratchets
from generator.codes import CONTRADICTION
from generator.ratchets import CONTEXT, Side
from generator.world import NOW_MS, Files, token

Json = dict[str, Any]

_EPOCHS: Final = {"epoch_turns": 1}


class Talk(Side):
    """One side, as a file has it, and the other; both say what is due."""

    def __init__(self, files: Files, name: str, comment: str, role: str = "initiator", **limits: int) -> None:
        super().__init__(files, name, comment, role, **(limits or _EPOCHS))
        self._limits = Limits(**(limits or _EPOCHS))
        self.now_ms = NOW_MS
        self._drawn = 0
        self.offered: dict[bytes, bytes] = {}  # seeds of this scenario's keys, by the key

    # --- this side ---------------------------------------------------------------------------------------------------

    def say_due(self, plaintext: bytes = b"from this side", *, heard: bool = True) -> tuple[bytes, bytes]:
        """Seal with what is due; the other side opens it, unless it is lost. Return (message, item)."""
        output = self.scenario.step("seal", plaintext=plaintext, now_ms=self.now_ms)
        message, item = (bytes.fromhex(output.get(name, "")) for name in ("message", "item"))
        seed = self.scenario.given["steps"][-1].get("kem_seed")
        if seed is not None:
            self.offered[item[4:]] = bytes.fromhex(seed)
        if heard:
            self.other_opens(message, item)
        return message, item

    def opens_due(self, heard: tuple[bytes, bytes], expect: str = "ok") -> None:
        """Open a message with its item."""
        message, item = heard
        fields: Json = {"item": item} if item else {}
        half = self.scenario.runner.ratchet.epochs
        if isinstance(half, Answering) and item and _crypto.sha256(item[4:]) != half.ref:
            fields |= dict(zip(("kem_ciphertext", "kem_shared_secret"), self._encapsulated(item[4:]), strict=True))
        self.scenario.step("open", expect, now_ms=self.now_ms, message=message, **fields)

    # --- the other ---------------------------------------------------------------------------------------------------

    def hear_due(self, plaintext: bytes = b"from the other side") -> tuple[bytes, bytes]:
        """Return the other side's next message and its item."""
        item, half = self.peer.item_out(self.now_ms, self, self._limits)
        parts, _, chain = self.peer.seal(plaintext, CONTEXT, self.nonce())
        self.peer.apply_sealed(chain, half)
        return b"".join(parts), item

    def other_opens(self, message: bytes, item: bytes = b"") -> None:
        """Have the other side open a message with its item."""
        self.draws.begin({})
        opened = self.peer.open(message, CONTEXT, now_ms=self.now_ms, limits=Limits())
        taken = parse_item(item, isinstance(self.peer.epochs, Answering)) if item else None
        self.peer.apply(opened.delta(self, taken))

    # The other side's randomness.

    def token(self, size: int, /) -> bytes:
        """Return a draw of the other side's; a seed is remembered by its key."""
        self._drawn += 1
        drawn = token(f"{self.name}/other/{self._drawn}", size)
        if size == _crypto.KEM_SEED_BYTES:
            self.offered[_crypto.kem_public(_crypto.kem_key(drawn))] = drawn
        return drawn

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        """Return an encapsulation of the other side's."""
        return self._encapsulated(public_key)

    def _encapsulated(self, public_key: bytes) -> tuple[bytes, bytes]:
        # A ciphertext of nobody, and what the key's owner makes of it all the same (FIPS 203, implicit rejection).
        self._drawn += 1
        ciphertext = token(f"{self.name}/ciphertext/{self._drawn}", _crypto.KEM_CIPHERTEXT_BYTES)
        return ciphertext, _crypto.kem_decapsulate(_crypto.kem_key(self.offered[public_key]), ciphertext)

    # --- both --------------------------------------------------------------------------------------------------------

    def begins(self) -> None:
        """Have a chain of each side behind both, so that an offer can be due."""
        if self.role == "initiator":
            self.opens_due(self.hear_due())
            self.say_due()
            self.opens_due(self.hear_due())
        else:
            self.opens_due(self.hear_due())
            self.say_due()


def ratchet() -> Files:
    """Return the family ratchet, with the files of section 6.3."""
    files = ratchets.ratchet()
    _initiator(files)
    _responder(files)
    _refused(files)
    return files


def _initiator(files: Files) -> None:
    talk = Talk(files, "epoch-initiator", "A offers, takes the answer with a turn, and mixes in that turn; and again")
    talk.begins()
    for _ in range(4):
        talk.say_due()
        talk.opens_due(talk.hear_due())
    talk.finish()

    talk = Talk(files, "epoch-time-mixed", "what mixes begins the time anew: 600 s later an offer is due, not before",
                epoch_turns=1000)  # fmt: skip
    talk.begins()
    talk.now_ms += 600_000
    talk.say_due()
    for ms in (1000, 599_999):
        answer = talk.hear_due()
        talk.now_ms += ms
        talk.opens_due(answer)
        talk.say_due()
    talk.opens_due(talk.hear_due())
    talk.now_ms += 1
    talk.say_due()
    talk.finish()

    talk = Talk(files, "epoch-offer-repeated", "an offer that is lost goes with the next chain, the same key")
    talk.begins()
    talk.say_due(heard=False)
    talk.say_due()
    talk.opens_due(talk.hear_due())
    talk.say_due()
    talk.opens_due(talk.hear_due())
    talk.finish()

    talk = Talk(files, "epoch-answer-late", "the answer comes behind a skipped key: it is ready, and mixed at the turn")
    talk.begins()
    talk.say_due()
    answer, overtakes = talk.hear_due(), talk.hear_due()
    talk.opens_due(overtakes)
    talk.opens_due(answer)
    talk.say_due()
    talk.opens_due(talk.hear_due())
    talk.say_due()
    talk.finish()

    talk = Talk(files, "epoch-answer-ready", "the answer has come, and the next chain has not begun")
    talk.begins()
    talk.say_due()
    answer, overtakes = talk.hear_due(), talk.hear_due()
    talk.opens_due(overtakes)
    talk.opens_due(answer)
    talk.finish()

    for name, comment, at in (
        ("number", "an answer of another epoch", 3),
        ("ciphertext", "an answer with a bit of its ciphertext flipped", 4),
        ("tag", "an answer with a bit of its tag flipped", ANSWER_BYTES - 1),
    ):
        talk = Talk(files, f"epoch-answer-other-{name}", f"{comment}: left aside, and the true one serves")
        talk.begins()
        talk.say_due()
        message, item = talk.hear_due()
        talk.opens_due((message, item[:at] + bytes([item[at] ^ 1]) + item[at + 1 :]))
        talk.say_due()
        talk.opens_due(talk.hear_due())
        talk.finish()

    talk = Talk(files, "epoch-answer-unasked", "an answer where nothing is offered: left aside", epoch_turns=1000)
    talk.begins()
    message, _ = talk.hear_due()
    talk.opens_due((message, (1).to_bytes(4, "big") + token("unasked", ANSWER_BYTES - 4)))
    talk.finish()

    for name, comment, ms in (
        ("due", "600 s after A's first chain began an offer is due", 600_000),
        ("early", "a millisecond before it is not", 599_999),
        ("back", "nor where the clock was set back", -600_000),
    ):
        talk = Talk(files, f"epoch-time-{name}", comment, epoch_turns=1000)
        talk.begins()
        talk.now_ms += ms
        talk.say_due()
        talk.finish()


def _responder(files: Files) -> None:
    talk = Talk(files, "epoch-responder", "B takes offers, answers them, and follows when A mixes", "responder")
    talk.begins()
    for _ in range(4):
        talk.opens_due(talk.hear_due())
        talk.say_due()
    talk.finish()

    talk = Talk(files, "epoch-offer-twice", "the same offer in two chains is answered once", "responder")
    talk.begins()
    talk.opens_due(talk.hear_due())
    talk.say_due(heard=False)
    message, _ = talk.say_due(heard=False)
    talk.other_opens(message)
    talk.opens_due(talk.hear_due())
    talk.say_due()
    talk.opens_due(talk.hear_due())
    talk.finish()

    talk = Talk(files, "epoch-offer-late", "an offer that comes when its epoch is mixed is left aside", "responder")
    talk.begins()
    late, overtakes = talk.hear_due(), talk.hear_due()
    talk.opens_due(overtakes)
    for _ in range(3):
        talk.say_due()
        talk.opens_due(talk.hear_due())
    message, item = late
    talk.scenario.step("open", now_ms=talk.now_ms, message=message, item=item)
    talk.finish()

    talk = Talk(files, "epoch-offer-of-a-late-chain", "an offer behind a kept key of a chain before the last five",
                "responder")  # fmt: skip
    talk.begins()
    late, overtakes = talk.hear_due(), talk.hear_due()
    talk.opens_due(overtakes)
    for _ in range(7):
        message, _ = talk.say_due(heard=False)
        talk.other_opens(message)
        message, _ = talk.hear_due()
        talk.opens_due((message, b""))
    talk.opens_due(late)
    talk.say_due()
    talk.opens_due(talk.hear_due())
    talk.finish()

    talk = Talk(files, "epoch-offer-superseded", "another key for the same epoch: the latest is answered", "responder")
    talk.begins()
    snapshot = talk.peer.copy()
    talk.opens_due(talk.hear_due())
    message, _ = talk.say_due(heard=False)
    talk.peer = snapshot  # A is restored from before it drew
    talk.hear_due()
    talk.other_opens(message)
    talk.opens_due(talk.hear_due())
    talk.say_due()
    talk.opens_due(talk.hear_due())
    talk.finish()


def _refused(files: Files) -> None:
    talk = Talk(files, "refuse-epoch-while-answered", "two epochs ahead while an answer is kept", "responder")
    talk.begins()
    talk.opens_due(talk.hear_due())
    talk.say_due()
    talk.opens_due((talk.forged(epoch=2), b""), CONTRADICTION)
    talk.opens_due(talk.hear_due())
    talk.finish()

    talk = Talk(files, "refuse-epoch-below", "a turn of an epoch that is over", "responder")
    talk.begins()
    for _ in range(3):
        talk.opens_due(talk.hear_due())
        talk.say_due()
    talk.opens_due((talk.forged(epoch=0), b""), CONTRADICTION)
    talk.opens_due(talk.hear_due())
    talk.finish()

    talk = Talk(files, "refuse-epoch-within-a-chain", "the chain that mixed goes on as if it had not", "responder")
    talk.begins()
    for _ in range(2):
        talk.opens_due(talk.hear_due())
        talk.say_due()
    talk.opens_due(talk.hear_due())
    talk.opens_due((talk.forged(epoch=0), b""), CONTRADICTION)
    talk.opens_due(talk.hear_due())
    talk.finish()

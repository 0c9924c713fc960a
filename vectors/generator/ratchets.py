"""The family ratchet: the Double Ratchet without sessions and envelopes, its limits, and what contradicts it."""

from __future__ import annotations

from typing import Any, Final

from runner.ratchets import initial_ratchet

from agentmesh.limits import Limits
from agentmesh.primitives import _crypto
from agentmesh.primitives.keys import X25519PublicKey
from agentmesh.session.chains import SendingChain
from agentmesh.session.ratchet import Ratchet
from agentmesh.session.suite import SUITE
from generator import curve, trace, wire
from generator.codes import CONTRADICTION, DUPLICATE, MALFORMED, POINT, UNOPENED
from generator.scenario import Scenario
from generator.tables import cut, flipped, joined, keep, kept, play, row, step
from generator.world import DAY_MS, NOW_MS, Files, token

Json = dict[str, Any]

SPEC: Final = "6"
CONTEXT: Final = b"session id, th and envelope header of this message"
COMMON: Final = {name: token(f"ratchet/{name}").hex() for name in ("root", "hk_ab", "hk_ba")}
EPHEMERAL: Final = token("ratchet/ephemeral")

GAP: Final = "message.gap"


def _start(role: str) -> Json:
    if role == "initiator":
        return {"role": role, **COMMON, "ephemeral_secret": EPHEMERAL.hex()}
    return {"role": role, **COMMON, "ephemeral": _crypto.x25519_public(EPHEMERAL).hex()}


class Side:
    """A scenario of `ratchet.run`, and the other side."""

    def __init__(
        self,
        files: Files,
        name: str,
        comment: str,
        role: str = "initiator",
        *,
        state: Json | None = None,
        **limits: int,
    ) -> None:
        given: Json = {"context": CONTEXT.hex()}
        if limits:
            given["limits"] = limits
        given |= {"start": _start(role)} if state is None else {"state": state}
        self.name, self.role = name, role
        self.scenario = Scenario(files, name, "ratchet.run", comment, spec=SPEC, given=given)
        self.draws = trace.Recorder(f"ratchet/{name}/peer")
        self.draws.begin({})
        self.peer = initial_ratchet(_start("responder" if role == "initiator" else "initiator"), SUITE, self.draws)
        if role == "responder":
            self.hear_from(bytes.fromhex(self.scenario.step("seal", plaintext=b"the first")["message"]))

    # --- steps -------------------------------------------------------------------------------------------------------

    def open(self, message: bytes, expect: str = "ok", *, now_ms: int = NOW_MS) -> Json:
        """Open a message."""
        return self.scenario.step("open", expect, now_ms=now_ms, message=message)

    def seal(self, plaintext: bytes, expect: str = "ok") -> bytes:
        """Seal a message, which nobody has received yet."""
        return bytes.fromhex(self.scenario.step("seal", expect, plaintext=plaintext).get("message", ""))

    def say(self, plaintext: bytes = b"from this side") -> None:
        """Seal a message that the other side opens: its next message begins a chain."""
        self.hear_from(self.seal(plaintext))

    def finish(self) -> Json:
        """Write the file."""
        return self.scenario.finish()

    # --- the other side ----------------------------------------------------------------------------------------------

    def hear_from(self, message: bytes) -> None:
        """Have the other side open a message."""
        self.draws.begin({})
        opened = self.peer.open(message, CONTEXT, now_ms=NOW_MS, limits=Limits())
        self.peer.apply(opened.delta(self.draws))

    def hear(self, plaintext: bytes = b"from the other side") -> bytes:
        """Return the other side's next message."""
        parts, _, chain = self.peer.seal(plaintext, CONTEXT, self.nonce())
        self.peer.apply_sealed(chain)
        return b"".join(parts)

    def lose(self, count: int) -> None:
        """Have the other side seal messages that never arrive."""
        chain = self._chain()
        key = chain.key
        for _ in range(count):
            key, _ = SUITE.kdf_chain(key)
        self.peer.apply_sealed(SendingChain(key, chain.header_key, chain.n + count, chain.previous_length, chain.start))

    def forged(
        self,
        *,
        key: bytes | None = None,
        epoch: int | None = None,
        pn: int | None = None,
        n: int | None = None,
        context: bytes = CONTEXT,
    ) -> bytes:
        """Return the other side's next message with another header, without the other side going on."""
        chain = self._chain()
        _, message_key = SUITE.kdf_chain(chain.key)
        header = (
            X25519PublicKey(self.peer.public if key is None else key),
            self.peer.epochs.epoch if epoch is None else epoch,
            chain.previous_length if pn is None else pn,
            chain.n if n is None else n,
        )
        return b"".join(SUITE.seal(chain.header_key, message_key, header, context, b"forged", self.nonce()))

    def nonce(self) -> bytes:
        """Return a nonce of the other side's."""
        return self.draws.draw({}, "nonce", 24)

    def _chain(self) -> SendingChain:
        if self.peer.sending is None:
            raise TypeError("the other side has no sending chain")
        return self.peer.sending


opens, seal, say = step(Side.open), step(Side.seal), step(Side.say)
hear, hear_from, lose, forged = step(Side.hear), step(Side.hear_from), step(Side.lose), step(Side.forged)


# --- the tables -------------------------------------------------------------------------------------------------------

PASSING: Final = (
    row("in-order-initiator", "A opens B's first chain in order; the first opening is her two ratchet steps",
        [opens(hear(b"message %d" % number)) for number in range(3)]),
    row("in-order-responder", "B seals first, then opens A's first chain",
        [seal(b"the second"), [opens(hear(b"message %d" % number)) for number in range(3)]], role="responder"),
    *(row(f"ping-pong-{role}", "five turns: a Diffie-Hellman step with each",
          [[opens(hear(b"in %d" % turn)), say(b"out %d" % turn)] for turn in range(5)], role=role)
      for role in ("initiator", "responder")),
    row("uneven-turns", "several messages in each chain: pn says how many there were",
        [[[opens(hear(b"in %d.%d" % (turn, number))) for number in range(turn + 1)],
          [say(b"out %d.%d" % (turn, number)) for number in range(3 - turn)]]
         for turn in range(3)]),
    row("out-of-order", "0, 3, 1, 2 of one chain",
        [[keep(number, hear(b"message %d" % number)) for number in range(4)],
         [opens(kept(number)) for number in (0, 3, 1, 2)]]),
    row("first-message-skipped", "the first that arrives is number 2 of B's first chain",
        [[keep(number, hear(b"message %d" % number)) for number in range(3)],
         [opens(kept(number)) for number in (2, 0, 1)]]),
    row("skipped-across-a-turn", "late messages of a chain that has been left, and of the new one",
        [opens(hear(b"0.0")), keep(1, hear(b"0.1")), keep(2, hear(b"0.2")), say(), keep(3, hear(b"1.0")),
         opens(hear(b"1.1")), [opens(kept(number)) for number in (3, 2, 1)]]),
    row("skipped-across-three-turns", "one late message in each of three past chains",
        [[[keep(turn, hear(b"late %d" % turn)), opens(hear(b"on time %d" % turn)), say()] for turn in range(4)],
         [opens(kept(turn)) for turn in (1, 3, 0, 2)]]),
    row("rest-of-chain-lost", "the end of a chain never arrives: its keys are kept, and the talk goes on",
        [opens(hear(b"0.0")), lose(3), say(), opens(hear(b"1.0")), say(), opens(hear(b"2.0"))]),
    row("nothing-lost-in-a-turn", "a turn while the own messages of the old chain are not yet opened",
        [opens(hear()), seal(b"on its way"), seal(b"on its way too"), opens(hear())], role="responder"),
)  # fmt: skip


LIMITS: Final = (
    row("step-limit-default", "1,000 keys skipped in a step: the default limit", [lose(1000), opens(hear())]),
    row("refuse-step-limit-default", "1,001 missing: that direction is lost, unless the missing arrive",
        [keep("first", hear(b"0")), lose(1001), opens(hear(), GAP), opens(kept("first"))]),
    row("step-limit-both-chains", "the rest of the old chain and the new one's together: 3 and 2 of 5",
        [opens(hear()), lose(3), say(), lose(2), opens(hear())], skipped_keys_per_step=5),
    row("refuse-step-limit-both-chains", "3 and 3 where 5 is the limit",
        [opens(hear()), keep("late", hear(b"late")), lose(2), say(), lose(3), opens(hear(), GAP), opens(kept("late"))],
        skipped_keys_per_step=5),
    row("refuse-pn-over-limit", "a turn whose pn alone is over the limit",
        [opens(hear()), say(), hear_from(seal(b"again")), opens(forged(pn=7), GAP), opens(hear())],
        skipped_keys_per_step=5),
    *(row(name, comment,
          [[keep(number, hear(b"late %d" % number)) for number in range(3)], opens(hear()),
           [keep(number, hear(b"late %d" % number)) for number in (3, 4)], opens(hear()), opens(kept(first)),
           opens(kept(second), expect)], skipped_keys_per_step=4, skipped_keys_per_session=4)
      for name, comment, first, second, expect in (
          ("total-limit", "four keys are kept at most", 2, 3, "ok"),
          ("refuse-evicted", "four keys are kept at most: the oldest went when the fifth came", 2, 0, DUPLICATE),
      )),
    *(row(name, comment,
          [keep("late", hear(b"late")), opens(hear()), opens(kept("late"), expect, now_ms=NOW_MS + 30 * DAY_MS + more)])
      for name, comment, more, expect in (
          ("key-lifetime", "a skipped key opens for 30 days to the millisecond", 0, "ok"),
          ("refuse-key-lifetime", "a millisecond later it does not", 1, DUPLICATE),
      )),
    *(row(name, comment,
          [keep("late", hear(b"late")), opens(hear()), [[say(), opens(hear())] for _ in range(turns)],
           opens(kept("late"), expect)])
      for name, comment, turns, expect in (
          ("five-chains-back", "the fifth past chain is kept", 5, "ok"),
          ("late-chain", "a chain before them is kept while a late message is awaited of it", 12, "ok"),
      )),
    row("refuse-late-chain-duplicate", "a chain before the last five stays until the next turn: a duplicate is known",
        [keep("late", hear(b"late")), opens(hear()), [[say(), opens(hear())] for _ in range(7)], opens(kept("late")),
         opens(kept("late"), DUPLICATE)]),
    row("refuse-late-chain-gone", "at the next turn it goes, because nothing of it is awaited any more",
        [keep("late", hear(b"late")), opens(hear()), [[say(), opens(hear())] for _ in range(7)], opens(kept("late")),
         say(), opens(hear()), opens(kept("late"), UNOPENED)]),
    row("refuse-late-chain-expired", "at a turn a key that is too old goes first, and then its chain, of which "
        "nothing is awaited any more",
        [keep("late", hear(b"late")), opens(hear()), [[say(), opens(hear())] for _ in range(7)],
         opens(kept("late"), DUPLICATE, now_ms=NOW_MS + 30 * DAY_MS + 1), say(),
         opens(hear(), now_ms=NOW_MS + 30 * DAY_MS + 1), opens(kept("late"), UNOPENED)]),
    row("key-lifetime-late", "a key that is too old goes also where a kept key opens a message",
        [hear(b"lost"), opens(hear()), keep("late", hear(b"late")), opens(hear(), now_ms=NOW_MS + 1),
         opens(kept("late"), now_ms=NOW_MS + 30 * DAY_MS + 1)]),
    row("key-lifetime-clock-back", "a key that is too old stays behind one that is not, where the clock was set back",
        [hear(b"lost"), opens(hear(), now_ms=NOW_MS + DAY_MS), hear(b"lost"), opens(hear()),
         opens(hear(), now_ms=NOW_MS + 30 * DAY_MS + 1)]),
    row("refuse-six-chains-back", "a chain of which nothing is missing goes when it is the sixth",
        [keep("first", hear()), opens(kept("first")), [[say(), opens(hear())] for _ in range(6)],
         opens(kept("first"), UNOPENED)]),
    *(row(name, comment,
          [[[keep(turn, hear(b"late %d" % turn)), opens(hear()), say()] for turn in range(69 + more)], opens(hear()),
           opens(kept(1)), opens(kept(0), expect)])
      for name, comment, more, expect in (
          ("late-chains-64", "late messages are awaited of 64 chains before the last five", 0, "ok"),
          ("refuse-late-chains-65", "the oldest of 65 goes, with its keys", 1, UNOPENED),
      )),
    row("refuse-duplicate-five-chains-back",
        "a past chain is kept though it has no keys outstanding: a duplicate is known as one",
        [keep("first", hear()), opens(kept("first")), [[say(), opens(hear())] for _ in range(5)],
         opens(kept("first"), DUPLICATE)]),
)  # fmt: skip


FORGED: Final = (
    *(each
      for name, comment, at in (
          ("nonce", "a bit of the nonce flipped", 0),
          ("header-tag", "a bit of the sealed header's tag flipped", 24),
          ("header", "a bit of the sealed header flipped", 83),
          ("commitment", "a bit of kc flipped", 84),
          ("tag", "a bit of the body's tag flipped", 116),
          ("box", "the last bit flipped", -1),
      )
      for each in (
          row(f"refuse-flipped-{name}", f"{comment}, in the middle of a chain; the genuine message still opens",
              [opens(hear()), keep("genuine", hear()), opens(flipped(kept("genuine"), at), UNOPENED),
               opens(kept("genuine"))]),
          row(f"refuse-turn-flipped-{name}", f"{comment}, in a message that takes a turn: no step is taken",
              [opens(hear()), say(), keep("genuine", hear()), opens(flipped(kept("genuine"), at), UNOPENED),
               opens(kept("genuine"))]),
      )),
    *(row(f"refuse-truncated-{size}", f"cut after {size} bytes: 132 is the shortest message",
          [keep("genuine", hear()), opens(cut(kept("genuine"), size), expect), opens(kept("genuine"))])
      for size, expect in ((0, MALFORMED), (131, MALFORMED), (132, UNOPENED))),
    row("refuse-appended", "a byte behind the message",
        [keep("genuine", hear()), opens(joined(kept("genuine"), b"\x00"), UNOPENED), opens(kept("genuine"))]),
    row("refuse-other-context", "sealed for another context",
        [opens(forged(context=CONTEXT + b"."), UNOPENED), opens(hear())]),
    row("refuse-random", "random bytes: no header key opens them, nothing is derived",
        [opens(token("ratchet/random", 192), UNOPENED), opens(hear())]),
    row("refuse-reflected", "this side's own message",
        [opens(seal(b"mine"), UNOPENED), opens(hear())], role="responder"),
    row("refuse-copied-header", "the header of a message far ahead before another body: no key is kept for it",
        [opens(hear()), lose(5), keep("ahead", hear()),
         opens(joined(cut(kept("ahead"), 116), token("ratchet/copied", 80)), UNOPENED), opens(kept("ahead"))],
        skipped_keys_per_step=5),
    row("refuse-late-forged", "a forged copy of a late message does not eat its kept key",
        [keep("late", hear(b"late")), opens(hear()), opens(flipped(kept("late"), -1), UNOPENED), opens(kept("late"))]),
    *(row(f"refuse-duplicate-{name}", comment,
          [keep("message", hear()), opens(kept("message")), opens(again, DUPLICATE), opens(hear())])
      for name, comment, again in (
          ("current", "the same message again", kept("message")),
          ("altered", "the same header before another body: the body is not looked at", flipped(kept("message"), -1)),
      )),
    row("refuse-duplicate-late", "a late message again, after its kept key has served",
        [keep("late", hear(b"late")), opens(hear()), say(), opens(hear()), opens(kept("late")),
         opens(kept("late"), DUPLICATE)]),
)  # fmt: skip


CONTRADICTIONS: Final = (
    row("refuse-first-pn", "pn 1 before the first chain", [opens(forged(pn=1), CONTRADICTION), opens(hear())]),
    row("refuse-pn-below-received", "a turn says that the old chain had fewer messages than were received",
        [[opens(hear()) for _ in range(3)], say(), opens(forged(pn=2), CONTRADICTION), opens(hear())]),
    *(row(f"refuse-{name}", comment, [opens(hear()), opens(forged(**change), CONTRADICTION), opens(hear())])
      for name, comment, change in (
          ("other-key", "another ratchet key under the current header key",
           {"key": _crypto.x25519_public(token("ratchet/other"))}),
          ("other-pn", "another pn under the current header key", {"pn": 4}),
          ("other-epoch", "another epoch under the current header key", {"epoch": 1}),
          ("number-at-the-end", "number 2^32 - 1: a chain ends before", {"n": 2**32 - 1}),
      )),
    *(row(f"refuse-turn-{name}", comment,
          [opens(hear()), say(), opens(forged(epoch=epoch), CONTRADICTION), opens(hear())], role=role)
      for name, comment, epoch, role in (
          ("epoch-of-b", "a chain of B never begins an epoch", 1, "initiator"),
          ("epoch-without-an-answer", "the next epoch where no answer is kept", 1, "responder"),
          ("epoch-two-ahead", "an epoch but one", 2, "responder"),
      )),
    row("refuse-turn-number-at-the-end", "the same in a message that takes a turn",
        [opens(hear()), say(), opens(forged(n=2**32 - 1), CONTRADICTION), opens(hear())]),
    row("refuse-past-chain-number", "a number of a past chain beyond the length that pn gave it",
        [opens(hear()), keep("beyond", forged()), say(), opens(hear()), opens(kept("beyond"), CONTRADICTION),
         opens(hear())]),
)  # fmt: skip


_TOP_BIT: Final = wire.flipped(_crypto.x25519_public(token("ratchet/point")), 31, 0x80)
POINTS: Final = (
    *(row(f"refuse-key-{name}", f"a turn to {comment}",
          [opens(hear()), say(), opens(forged(key=point), POINT), opens(hear())])
      for name, comment, point in (
          *((f"small-order-{index}", comment, point)
            for index, (comment, point) in enumerate(curve.X25519_SMALL_ORDER)),
          ("top-bit", "a genuine key with its top bit set", _TOP_BIT),
      )),
)  # fmt: skip


EXHAUSTED: Final = "ratchet.exhausted"


def _resumed(files: Files) -> None:
    """Add ratchets that are taken up from a state, each that of a file before it."""
    side = Side(files, "resumed", "from a state in the middle of a talk: a late message, and a turn")
    late = side.hear(b"late")
    side.open(side.hear())
    side.say()
    state = side.finish()["output"]["state"]
    again = Side(files, "resumed-from-state", "the state that `resumed` ends with, taken up again", state=state)
    again.peer = side.peer
    again.open(late)
    again.open(again.hear())
    again.say()
    again.finish()
    side = Side(files, "resumed-at-the-start", "a talk of one message, whose state the next file starts from")
    side.open(side.hear())
    state = side.finish()["output"]["state"]
    _at_the_ceilings(files, state, side.peer)
    last = {**state, "sending": {**state["sending"], "n": 2**32 - 2}}
    rows = (
        row("refuse-exhausted", "number 2^32 - 2 is the last of a chain, which the next may not wrap",
            [seal(b"the last"), seal(b"one too many", EXHAUSTED)], state=last),
        row("refuse-seal-first", "A has no sending chain before B's first message",
            [seal(b"too early", EXHAUSTED), opens(hear())]),
    )  # fmt: skip
    play(Side, files, rows)


def _at_the_ceilings(files: Files, state: Json, peer: Ratchet) -> None:
    """Add the ends of what section 6.3 counts, from a state of A that is about to begin its second chain."""
    most, offering = 2**32 - 1, state["offering"]
    side = Side(files, "epoch-ceiling", "the last epoch: nothing is offered, however many turns there were",
                state={**state, "epoch": most, "offering": {**offering, "turns": most}})  # fmt: skip
    side.scenario.step("seal", plaintext=b"no item", now_ms=NOW_MS)
    side.finish()
    side = Side(files, "epoch-turns-ceiling", "turns stays at 2^32 - 1",
                state={**state, "offering": {**offering, "turns": most}})  # fmt: skip
    side.peer = peer
    side.say()
    side.open(side.hear())
    side.finish()


def ratchet() -> Files:
    """Return the family ratchet."""
    files = Files("ratchet")
    for rows in (PASSING, LIMITS, FORGED, CONTRADICTIONS, POINTS):
        play(Side, files, rows)
    _resumed(files)
    return files

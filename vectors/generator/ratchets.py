"""The family ratchet: the Double Ratchet without sessions and envelopes, its limits, and what contradicts it."""

from __future__ import annotations

from typing import Any, Final

from runner.ratchets import initial_ratchet

from agentmesh.limits import Limits
from agentmesh.primitives import _crypto
from agentmesh.primitives.keys import X25519PublicKey
from agentmesh.session.ratchet import RatchetHeader
from agentmesh.session.chains import SendingChain
from agentmesh.session.suite import SUITE
from generator import curve, trace, wire
from generator.scenario import Scenario
from generator.world import DAY_MS, NOW_MS, Files, token

Json = dict[str, Any]

SPEC: Final = "6"
CONTEXT: Final = b"session id, th and envelope header of this message"
COMMON: Final = {name: token(f"ratchet/{name}").hex() for name in ("root", "hk_ab", "hk_ba")}
EPHEMERAL: Final = token("ratchet/ephemeral")

UNOPENED: Final = "message.unopened"
DUPLICATE: Final = "message.duplicate"
GAP: Final = "message.gap"
CONTRADICTION: Final = "message.contradiction"
POINT: Final = "crypto.point"


def _start(role: str) -> Json:
    if role == "initiator":
        return {"role": role, **COMMON, "ephemeral_secret": EPHEMERAL.hex()}
    return {"role": role, **COMMON, "ephemeral": _crypto.x25519_public(EPHEMERAL).hex()}


class _Side:
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
        self._scenario = Scenario(files, name, "ratchet.run", comment, spec=SPEC, given=given)
        self._draws = trace.Recorder(f"ratchet/{name}/peer")
        self._draws.begin({})
        self.peer = initial_ratchet(_start("responder" if role == "initiator" else "initiator"), SUITE, self._draws)
        if role == "responder":
            self.hear_from(bytes.fromhex(self._scenario.step("seal", plaintext=b"the first")["message"]))

    # --- steps -------------------------------------------------------------------------------------------------------

    def open(self, message: bytes, expect: str = "ok", *, now_ms: int = NOW_MS) -> Json:
        """Open a message."""
        return self._scenario.step("open", expect, now_ms=now_ms, message=message)

    def seal(self, plaintext: bytes, expect: str = "ok") -> bytes:
        """Seal a message, which nobody has received yet."""
        return bytes.fromhex(self._scenario.step("seal", expect, plaintext=plaintext).get("message", ""))

    def say(self, plaintext: bytes = b"from this side") -> None:
        """Seal a message that the other side opens: its next message begins a chain."""
        self.hear_from(self.seal(plaintext))

    def finish(self, expect: str = "ok") -> Json:
        """Write the file."""
        return self._scenario.finish(expect)

    # --- the other side ----------------------------------------------------------------------------------------------

    def hear_from(self, message: bytes) -> None:
        """Have the other side open a message."""
        self._draws.begin({})
        opened = self.peer.open(message, CONTEXT, now_ms=NOW_MS, limits=Limits())
        self.peer.apply(opened.delta(self._draws))

    def hear(self, plaintext: bytes = b"from the other side") -> bytes:
        """Return the other side's next message."""
        parts, _, chain = self.peer.seal(plaintext, CONTEXT, self._nonce())
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
        self, *, key: bytes | None = None, pn: int | None = None, n: int | None = None, context: bytes = CONTEXT
    ) -> bytes:
        """Return the other side's next message with another header, without the other side going on."""
        chain = self._chain()
        _, message_key = SUITE.kdf_chain(chain.key)
        header = RatchetHeader(
            X25519PublicKey(self.peer.public if key is None else key),
            chain.previous_length if pn is None else pn,
            chain.n if n is None else n,
        )
        return b"".join(SUITE.seal(chain.header_key, message_key, header, context, b"forged", self._nonce()))

    def _nonce(self) -> bytes:
        return self._draws.draw({}, "nonce", 24)

    def _chain(self) -> SendingChain:
        if self.peer.sending is None:
            raise TypeError("the other side has no sending chain")
        return self.peer.sending


def ratchet() -> Files:
    """Return the family ratchet."""
    files = Files("ratchet")
    _passing(files)
    _limits(files)
    _forged(files)
    _contradictions(files)
    _points(files)
    _ends(files)
    return files


def _passing(files: Files) -> None:
    side = _Side(
        files, "in-order-initiator", "A opens B's first chain in order; the first opening is her two ratchet steps"
    )
    for number in range(3):
        side.open(side.hear(b"message %d" % number))
    side.finish()
    side = _Side(files, "in-order-responder", "B seals first, then opens A's first chain", "responder")
    side.seal(b"the second")
    for number in range(3):
        side.open(side.hear(b"message %d" % number))
    side.finish()
    for role in ("initiator", "responder"):
        side = _Side(files, f"ping-pong-{role}", "five turns: a Diffie-Hellman step with each", role)
        for turn in range(5):
            side.open(side.hear(b"in %d" % turn))
            side.say(b"out %d" % turn)
        side.finish()
    side = _Side(files, "uneven-turns", "several messages in each chain: pn says how many there were")
    for turn in range(3):
        for number in range(turn + 1):
            side.open(side.hear(b"in %d.%d" % (turn, number)))
        for number in range(3 - turn):
            side.say(b"out %d.%d" % (turn, number))
    side.finish()
    side = _Side(files, "out-of-order", "0, 3, 1, 2 of one chain")
    messages = [side.hear(b"message %d" % number) for number in range(4)]
    for number in (0, 3, 1, 2):
        side.open(messages[number])
    side.finish()
    side = _Side(files, "first-message-skipped", "the first that arrives is number 2 of B's first chain")
    messages = [side.hear(b"message %d" % number) for number in range(3)]
    for number in (2, 0, 1):
        side.open(messages[number])
    side.finish()
    side = _Side(files, "skipped-across-a-turn", "late messages of a chain that has been left, and of the new one")
    side.open(side.hear(b"0.0"))
    late = [side.hear(b"0.1"), side.hear(b"0.2")]
    side.say()
    late.append(side.hear(b"1.0"))
    side.open(side.hear(b"1.1"))
    for message in reversed(late):
        side.open(message)
    side.finish()
    side = _Side(files, "skipped-across-three-turns", "one late message in each of three past chains")
    late = []
    for turn in range(4):
        late.append(side.hear(b"late %d" % turn))
        side.open(side.hear(b"on time %d" % turn))
        side.say()
    for message in (late[1], late[3], late[0], late[2]):
        side.open(message)
    side.finish()
    side = _Side(
        files, "rest-of-chain-lost", "the end of a chain never arrives: its keys are kept, and the talk goes on"
    )
    side.open(side.hear(b"0.0"))
    side.lose(3)
    side.say()
    side.open(side.hear(b"1.0"))
    side.say()
    side.open(side.hear(b"2.0"))
    side.finish()
    side = _Side(
        files,
        "nothing-lost-in-a-turn",
        "a turn while the own messages of the old chain are not yet opened",
        "responder",
    )
    side.open(side.hear())
    side.seal(b"on its way")
    side.seal(b"on its way too")
    side.open(side.hear())
    side.finish()


def _limits(files: Files) -> None:
    side = _Side(files, "step-limit-default", "1,000 keys skipped in a step: the default limit")
    side.lose(1000)
    side.open(side.hear())
    side.finish()
    side = _Side(files, "refuse-step-limit-default", "1,001 missing: that direction is lost, unless the missing arrive")
    first = side.hear(b"0")
    side.lose(1001)
    side.open(side.hear(), GAP)
    side.open(first)
    side.finish(GAP)
    side = _Side(
        files,
        "step-limit-both-chains",
        "the rest of the old chain and the new one's together: 3 and 2 of 5",
        skipped_keys_per_step=5,
    )
    side.open(side.hear())
    side.lose(3)
    side.say()
    side.lose(2)
    side.open(side.hear())
    side.finish()
    side = _Side(files, "refuse-step-limit-both-chains", "3 and 3 where 5 is the limit", skipped_keys_per_step=5)
    side.open(side.hear())
    late = side.hear(b"late")
    side.lose(2)
    side.say()
    side.lose(3)
    side.open(side.hear(), GAP)
    side.open(late)
    side.finish(GAP)
    side = _Side(files, "refuse-pn-over-limit", "a turn whose pn alone is over the limit", skipped_keys_per_step=5)
    side.open(side.hear())
    side.say()
    side.hear_from(side.seal(b"again"))
    side.open(side.forged(pn=7), GAP)
    side.open(side.hear())
    side.finish(GAP)
    for name, expect, taken in (("total-limit", "ok", (2, 3)), ("refuse-evicted", DUPLICATE, (2, 0))):
        comment = (
            "four keys are kept at most: the oldest went when the fifth came"
            if expect != "ok"
            else "four keys are kept at most"
        )
        side = _Side(files, name, comment, skipped_keys_per_step=4, skipped_keys_per_session=4)
        late = [side.hear(b"late %d" % number) for number in range(3)]
        side.open(side.hear())
        late += [side.hear(b"late %d" % number) for number in (3, 4)]
        side.open(side.hear())
        side.open(late[taken[0]])
        side.open(late[taken[1]], expect)
        side.finish(expect)
    for name, comment, more, expect in (
        ("key-lifetime", "a skipped key opens for 30 days to the millisecond", 0, "ok"),
        ("refuse-key-lifetime", "a millisecond later it does not", 1, DUPLICATE),
    ):
        side = _Side(files, name, comment)
        late = side.hear(b"late")
        side.open(side.hear())
        side.open(late, expect, now_ms=NOW_MS + 30 * DAY_MS + more)
        side.finish(expect)
    for name, comment, turns, expect in (
        ("five-chains-back", "the fifth past chain is kept", 5, "ok"),
        (
            "refuse-six-chains-back",
            "the sixth is not: its header opens under no key, and its kept key is gone",
            6,
            UNOPENED,
        ),
    ):
        side = _Side(files, name, comment)
        late = side.hear(b"late")
        side.open(side.hear())
        for _ in range(turns):
            side.say()
            side.open(side.hear())
        side.open(late, expect)
        side.finish(expect)
    side = _Side(
        files,
        "refuse-duplicate-five-chains-back",
        "a past chain is kept though it has no keys outstanding: a duplicate is known as one",
    )
    first = side.hear()
    side.open(first)
    for _ in range(5):
        side.say()
        side.open(side.hear())
    side.open(first, DUPLICATE)
    side.finish(DUPLICATE)


def _forged(files: Files) -> None:
    for name, comment, at in (
        ("nonce", "a bit of the nonce flipped", 0),
        ("header-tag", "a bit of the sealed header's tag flipped", 24),
        ("header", "a bit of the sealed header flipped", 79),
        ("commitment", "a bit of kc flipped", 80),
        ("tag", "a bit of the body's tag flipped", 112),
        ("box", "the last bit flipped", -1),
    ):
        side = _Side(
            files, f"refuse-flipped-{name}", f"{comment}, in the middle of a chain; the genuine message still opens"
        )
        side.open(side.hear())
        genuine = side.hear()
        side.open(wire.flipped(genuine, at), UNOPENED)
        side.open(genuine)
        side.finish(UNOPENED)
        side = _Side(
            files, f"refuse-turn-flipped-{name}", f"{comment}, in a message that takes a turn: no step is taken"
        )
        side.open(side.hear())
        side.say()
        genuine = side.hear()
        side.open(wire.flipped(genuine, at), UNOPENED)
        side.open(genuine)
        side.finish(UNOPENED)
    for size, expect in ((0, "wire.malformed"), (127, "wire.malformed"), (128, UNOPENED)):
        side = _Side(files, f"refuse-truncated-{size}", f"cut after {size} bytes: 128 is the shortest message")
        genuine = side.hear()
        side.open(genuine[:size], expect)
        side.open(genuine)
        side.finish(expect)
    side = _Side(files, "refuse-appended", "a byte behind the message")
    genuine = side.hear()
    side.open(genuine + b"\x00", UNOPENED)
    side.open(genuine)
    side.finish(UNOPENED)
    side = _Side(files, "refuse-other-context", "sealed for another context")
    side.open(side.forged(context=CONTEXT + b"."), UNOPENED)
    side.open(side.hear())
    side.finish(UNOPENED)
    side = _Side(files, "refuse-random", "random bytes: no header key opens them, nothing is derived")
    side.open(token("ratchet/random", 192), UNOPENED)
    side.open(side.hear())
    side.finish(UNOPENED)
    side = _Side(files, "refuse-reflected", "this side's own message", "responder")
    side.open(side.seal(b"mine"), UNOPENED)
    side.open(side.hear())
    side.finish(UNOPENED)
    side = _Side(
        files,
        "refuse-copied-header",
        "the header of a message far ahead before another body: no key is kept for it",
        skipped_keys_per_step=5,
    )
    side.open(side.hear())
    side.lose(5)
    ahead = side.hear()
    side.open(ahead[:112] + token("ratchet/copied", 80), UNOPENED)
    side.open(ahead)
    side.finish(UNOPENED)
    side = _Side(files, "refuse-late-forged", "a forged copy of a late message does not eat its kept key")
    late = side.hear(b"late")
    side.open(side.hear())
    side.open(wire.flipped(late, -1), UNOPENED)
    side.open(late)
    side.finish(UNOPENED)
    for name, comment, change in (
        ("current", "the same message again", 0),
        ("altered", "the same header before another body: the body is not looked at", 1),
    ):
        side = _Side(files, f"refuse-duplicate-{name}", comment)
        message = side.hear()
        side.open(message)
        side.open(wire.flipped(message, -1) if change else message, DUPLICATE)
        side.open(side.hear())
        side.finish(DUPLICATE)
    side = _Side(files, "refuse-duplicate-late", "a late message again, after its kept key has served")
    late = side.hear(b"late")
    side.open(side.hear())
    side.say()
    side.open(side.hear())
    side.open(late)
    side.open(late, DUPLICATE)
    side.finish(DUPLICATE)


def _contradictions(files: Files) -> None:
    side = _Side(files, "refuse-first-pn", "pn 1 before the first chain")
    side.open(side.forged(pn=1), CONTRADICTION)
    side.open(side.hear())
    side.finish(CONTRADICTION)
    side = _Side(
        files, "refuse-pn-below-received", "a turn says that the old chain had fewer messages than were received"
    )
    for _ in range(3):
        side.open(side.hear())
    side.say()
    side.open(side.forged(pn=2), CONTRADICTION)
    side.open(side.hear())
    side.finish(CONTRADICTION)
    for name, comment, change in (
        (
            "other-key",
            "another ratchet key under the current header key",
            {"key": _crypto.x25519_public(token("ratchet/other"))},
        ),
        ("other-pn", "another pn under the current header key", {"pn": 4}),
        ("number-at-the-end", "number 2^32 - 1: a chain ends before", {"n": 2**32 - 1}),
    ):
        side = _Side(files, f"refuse-{name}", comment)
        side.open(side.hear())
        side.open(side.forged(**change), CONTRADICTION)
        side.open(side.hear())
        side.finish(CONTRADICTION)
    side = _Side(files, "refuse-turn-number-at-the-end", "the same in a message that takes a turn")
    side.open(side.hear())
    side.say()
    side.open(side.forged(n=2**32 - 1), CONTRADICTION)
    side.open(side.hear())
    side.finish(CONTRADICTION)
    side = _Side(files, "refuse-past-chain-number", "a number of a past chain beyond the length that pn gave it")
    side.open(side.hear())
    beyond = side.forged()
    side.say()
    side.open(side.hear())
    side.open(beyond, CONTRADICTION)
    side.open(side.hear())
    side.finish(CONTRADICTION)


def _points(files: Files) -> None:
    points = [
        (f"small-order-{index}", comment, point) for index, (comment, point) in enumerate(curve.X25519_SMALL_ORDER)
    ]
    genuine = _crypto.x25519_public(token("ratchet/point"))
    points.append(("top-bit", "a genuine key with its top bit set", wire.flipped(genuine, 31, 0x80)))
    for name, comment, point in points:
        side = _Side(files, f"refuse-key-{name}", f"a turn to {comment}")
        side.open(side.hear())
        side.say()
        side.open(side.forged(key=point), POINT)
        side.open(side.hear())
        side.finish(POINT)


def _ends(files: Files) -> None:
    side = _Side(files, "resumed", "from a state in the middle of a talk: a late message, and a turn")
    late = side.hear(b"late")
    side.open(side.hear())
    side.say()
    _resumed(files, "resumed-from-state", "the state that `resumed` ends with, taken up again", side, late)
    exhausted = "ratchet.exhausted"
    role = _Side(files, "resumed-at-the-start", "a talk of one message, whose state the next file starts from")
    role.open(role.hear())
    state = role.finish()["output"]["state"]
    state = {**state, "sending": {**state["sending"], "n": 2**32 - 2}}
    near = _Side(
        files, "refuse-exhausted", "number 2^32 - 2 is the last of a chain, which the next may not wrap", state=state
    )
    near.seal(b"the last")
    near.seal(b"one too many", exhausted)
    near.finish(exhausted)
    state = {**state, "sending": None, "receiving": None}
    bare = _Side(
        files,
        "refuse-seal-first",
        "A has no sending chain before B's first message",
    )
    bare.seal(b"too early", exhausted)
    bare.open(bare.hear())
    bare.finish(exhausted)


def _resumed(files: Files, name: str, comment: str, side: _Side, late: bytes) -> None:
    state = side.finish()["output"]["state"]
    again = _Side(files, name, comment, state=state)
    again.peer = side.peer
    again.open(late)
    again.open(again.hear())
    again.say()
    again.finish()

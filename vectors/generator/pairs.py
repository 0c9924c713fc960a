"""The family pair: several sessions of two agents; which of them sends, and what a KNOCK ends."""

from __future__ import annotations

from typing import Any, Final

from runner.agents import PairRunner

from agentmesh.identity import Identity
from generator import trace
from generator.codes import CLOSED
from generator.scenario import Scenario
from generator.tables import Row, keep, kept, play, row, step
from generator.world import (
    ALICE,
    ALICES,
    BOB,
    DAY_MS,
    LAST_RESORT,
    MESH,
    NOW_MS,
    TOLERANCE_MS,
    UNLIMITED,
    Files,
    Stock,
    encapsulation,
)

Json = dict[str, Any]

ACCEPTING: Final = {"decision": "accept", "conditions": UNLIMITED}
FOR_A_MINUTE: Final = {"decision": "accept", "conditions": {**UNLIMITED, "ttl_seconds": 60}}
FOR_AN_HOUR: Final = {"decision": "accept", "conditions": {**UNLIMITED, "ttl_seconds": 3600}}
LATE_MS: Final = 600_000
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
NOT_OPEN: Final = "session.not_open"
NONE: Final = "session.none"
TOO_MANY: Final = "session.too_many"
REPLAYED: Final = "knock.replayed"


class _Side:
    """Who one of the two is: its input, and how it knocks at the other."""

    def __init__(self, who: Identity, other: Identity, own: Stock, others: Stock) -> None:
        self._who, self._other, self._own, self._others = who, other, own, others

    def given(self, **more: Any) -> Json:
        return {
            "identity_seed": self._who.seed.reveal().hex(),
            "mesh": MESH,
            "peer": self._other.key.raw.hex(),
            "bundles": [self._own.secrets()],
            **more,
        }

    def knock(self, expires_in_seconds: int) -> Json:
        ciphertext, shared = encapsulation(self._others)
        return {
            "bundle": self._others.data.hex(),
            "action": "summarise",
            "expires_in_seconds": expires_in_seconds,
            "kem_ciphertext": ciphertext.hex(),
            "kem_shared_secret": shared.hex(),
        }


_SIDES: Final = {"bob": _Side(BOB, ALICE, LAST_RESORT, ALICES), "alice": _Side(ALICE, BOB, ALICES, LAST_RESORT)}


class _Pair:
    """A scenario of `agent.run`: one side, and its peer beside it. Sessions have names; times count from NOW_MS."""

    def __init__(
        self,
        files: Files,
        name: str,
        comment: str,
        *,
        side: str = "bob",
        spec: str = "7",
        policy: Json | None = ACCEPTING,
        peer_policy: Json = ACCEPTING,
        **more: Any,
    ) -> None:
        self._side, self._peer_side = _SIDES[side], _SIDES["alice" if side == "bob" else "bob"]
        asked = {} if policy is None else {"policy": policy}
        given = self._side.given(**asked, **more)
        self._scenario = Scenario(files, name, "agent.run", comment, spec=spec, given=given)
        self._peer_name, self._lives = f"{files.family}/{name}/peer", 0
        self._peer_given = self._peer_side.given(policy=peer_policy)
        self.knocks: dict[str, bytes] = {}
        self.accepts: dict[str, bytes] = {}
        self.ids: dict[str, str] = {}
        self.lose_peer()

    def lose_peer(self) -> None:
        """Have the peer begin anew: its state is lost."""
        self._lives += 1
        self.peer = PairRunner(self._peer_given, trace.Recorder(f"{self._peer_name}/{self._lives}"))

    def _own_step(self, do: str, expect: str, at: int, **fields: Any) -> Json:
        return self._scenario.step(do, expect, now_ms=NOW_MS + at, **fields)

    def _peer_step(self, do: str, at: int, **fields: Any) -> Json:
        return self.peer.step({"do": do, "now_ms": NOW_MS + at, **fields})

    # --- KNOCK and ACCEPT --------------------------------------------------------------------------------------------

    def peer_knock(self, name: str, at: int, lifetime: int = DAY_MS // 1000) -> None:
        """The peer makes a KNOCK, which stays where it is."""
        made = self._peer_step("knock", at, **self._peer_side.knock(lifetime))
        self.knocks[name], self.ids[name] = bytes.fromhex(made["envelope"]), made["session_id"]

    def take(self, name: str, at: int, event: str = "accepted", expect: str = "ok") -> None:
        """Receive the peer's KNOCK."""
        given = self._own_step("receive", expect, at, envelope=self.knocks[name])
        _hold(name, given.get("event", event), event)
        if event == "accepted" and expect == "ok":
            self.accepts[name] = bytes.fromhex(given["envelope"])

    def accept(self, name: str, at: int) -> None:
        """The application accepts the peer's KNOCK, which waits."""
        given = self._own_step("accept", "ok", at, session_id=self.ids[name], conditions=UNLIMITED)
        self.accepts[name] = bytes.fromhex(given["envelope"])

    def deliver(self, name: str, at: int) -> None:
        """The ACCEPT of the peer's KNOCK reaches it."""
        self._peer_step("receive", at, envelope=self.accepts[name].hex())

    def hear(self, name: str, at: int, expect: str = "ok", text: bytes = b"hello") -> None:
        """The peer's data in a session comes at once."""
        self._own_step("receive", expect, at, envelope=self.peer_data(name, at, text))

    def begun(self, name: str, at: int, lifetime: int = DAY_MS // 1000) -> None:
        """A session that the peer began, and in which it was heard."""
        self.unheard(name, at, lifetime)
        self.hear(name, at)

    def unheard(self, name: str, at: int, lifetime: int = DAY_MS // 1000) -> None:
        """A session that the peer began, and has said nothing in."""
        self.peer_knock(name, at, lifetime)
        self.take(name, at)
        self.deliver(name, at)

    def knock(self, name: str, at: int, expect: str = "ok", lifetime: int = DAY_MS // 1000) -> None:
        """This side makes a KNOCK."""
        made = self._own_step("knock", expect, at, **self._side.knock(lifetime))
        if expect == "ok":
            self.knocks[name], self.ids[name] = bytes.fromhex(made["envelope"]), made["session_id"]

    def peer_take(self, name: str, at: int) -> None:
        """The peer accepts this side's KNOCK; the ACCEPT stays where it is."""
        given = self._peer_step("receive", at, envelope=self.knocks[name].hex())
        _hold(name, given["event"], "accepted")
        self.accepts[name] = bytes.fromhex(given["envelope"])

    def answered(self, name: str, at: int) -> None:
        """The ACCEPT of this side's KNOCK comes."""
        self._own_step("receive", "ok", at, envelope=self.accepts[name])

    def own(self, name: str, at: int) -> None:
        """A session that this side began, and whose ACCEPT has come."""
        self.knock(name, at)
        self.peer_take(name, at)
        self.answered(name, at)

    # --- in sessions -------------------------------------------------------------------------------------------------

    def peer_data(self, name: str, at: int, text: bytes = b"hello") -> bytes:
        """Return data that the peer sends in a session."""
        made = self._peer_step("send", at, plaintext=text.hex(), action=None, session_id=self.ids[name])
        return bytes.fromhex(made["envelope"])

    def receive(self, data: bytes, at: int, expect: str = "ok") -> None:
        """Receive an envelope that was kept."""
        self._own_step("receive", expect, at, envelope=data)

    def peer_close(self, name: str, at: int) -> bytes:
        """Return the peer's close of a session."""
        made = self._peer_step("close", at, session_id=self.ids[name], reason="done")
        return bytes.fromhex(made["envelope"])

    def send(self, at: int, by: str | None, expect: str = "ok", *, named: str | None = None) -> bytes:
        """Send data, which must go by this session; `named` is one that the caller names."""
        session_id = None if named is None else self.ids[named]
        given = self._own_step("send", expect, at, plaintext=b"x", action=None, session_id=session_id)
        if by is not None and given["session_id"] != self.ids[by]:
            raise ValueError(f"it is not {by} that sends")
        return bytes.fromhex(given.get("envelope", ""))

    def close(self, name: str, at: int, expect: str = "ok") -> None:
        """Close a session."""
        self._own_step("close", expect, at, session_id=self.ids[name], reason="done")

    def drop(self, name: str, at: int) -> None:
        """End a session without a word."""
        self._own_step("drop", "ok", at, session_id=self.ids[name])

    def peer_drop(self, name: str, at: int) -> None:
        """The peer ends a session without a word."""
        self._peer_step("drop", at, session_id=self.ids[name])

    def poll(self, at: int) -> None:
        """Look at what time brought."""
        self._own_step("poll", "ok", at)

    def finish(self) -> None:
        """Write the file."""
        self._scenario.finish()


def _hold(name: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise ValueError(f"{name}: {found} and not {wanted}")


lose_peer, peer_knock, take = map(step, (_Pair.lose_peer, _Pair.peer_knock, _Pair.take))
accept, deliver = map(step, (_Pair.accept, _Pair.deliver))
hear, begun, unheard, knock, own = map(step, (_Pair.hear, _Pair.begun, _Pair.unheard, _Pair.knock, _Pair.own))
peer_take, answered, peer_data, receive = map(step, (_Pair.peer_take, _Pair.answered, _Pair.peer_data, _Pair.receive))
peer_close, send, close, drop = map(step, (_Pair.peer_close, _Pair.send, _Pair.close, _Pair.drop))
peer_drop, poll = map(step, (_Pair.peer_drop, _Pair.poll))


# --- which one sends -------------------------------------------------------------------------------------------------

WHICH_SENDS: Final[tuple[Row, ...]] = (
    row("send-latest", "of two that work the one whose KNOCK is later; the other receives, and sends where it is named",
        [begun("one", 0), begun("two", 1000), send(2000, "two"), hear("one", 2000), send(2000, "one", named="one")]),
    row("send-confirmed-first", "a session in which A was heard before a later one in which it was not",
        [begun("one", 0), unheard("two", 1000), send(2000, "one"), hear("two", 3000), send(3000, "two")]),
    row("send-accept-lost", "the ACCEPT of a later KNOCK was lost, and its sender dropped it: the first goes on",
        [begun("one", 0), peer_knock("two", 1000), take("two", 1000), peer_drop("two", 2000), send(3000, "one"),
         hear("one", 3000)]),
    row("send-of-unheard-the-latest", "in neither A was heard: the later one",
        [unheard("one", 0), unheard("two", 1000), send(2000, "two")]),
    row("send-initiator", "to A a session is confirmed from the ACCEPT on",
        [own("one", 0), knock("two", 1000), send(1000, "one"), peer_take("two", 2000), send(2000, "one"),
         answered("two", 3000), send(3000, "two")], side="alice"),
    *(row(f"send-crossing-{side}", "both knock in one millisecond: each sends in its own, and once both were heard, "
          "both in that with the smaller th",
          [knock("mine", 0), peer_knock("theirs", 0), take("theirs", 1000), peer_take("mine", 1000),
           answered("mine", 2000), deliver("theirs", 2000), send(2000, "mine"), hear("theirs", 3000),
           send(3000, None)], side=side)
      for side in ("bob", "alice")),
    row("send-crossing-later", "both knock, the peer later: its KNOCK decides once it was heard",
        [knock("mine", 0), peer_knock("theirs", 1), take("theirs", 1000), peer_take("mine", 1000),
         answered("mine", 2000), deliver("theirs", 2000), send(2000, "mine"), hear("theirs", 3000),
         send(3000, "theirs")]),
    row("refuse-send-not-closing", "one that this side has closed, or the peer, sends no more",
        [begun("one", 0), begun("two", 1000), begun("three", 2000), close("three", 3000), send(3000, "two"),
         peer_data("two", 3000), receive(peer_close("two", 3000), 3000), send(4000, "one"),
         send(4000, None, NOT_OPEN, named="three")]),
    row("send-not-past-ttl", "past its time to live by this side's clock another sends, though it may receive still",
        [own("mine", 0), begun("theirs", 1000), send(1000 + MINUTE_MS, "theirs"), send(1001 + MINUTE_MS, "mine"),
         keep("late", peer_data("theirs", 1000 + MINUTE_MS)), receive(kept("late"), 1000 + MINUTE_MS + TOLERANCE_MS)],
        policy=FOR_A_MINUTE),
    row("refuse-send-not-unheard-for-a-day", "nothing of A for a day behind the KNOCK's expiry: another sends",
        [unheard("one", 0), unheard("two", 1000, 60), send(1000 + MINUTE_MS + DAY_MS, "two"),
         send(1001 + MINUTE_MS + DAY_MS, "one"), send(1001 + MINUTE_MS + DAY_MS, None, NOT_OPEN, named="two")]),
    row("refuse-send-none", "no session that could send: none has been accepted yet, or it is over",
        [knock("one", 0), send(0, None, NONE), send(0, None, NONE, named="one"), peer_take("one", 1000),
         answered("one", 1000), send(1000, "one"), drop("one", 2000), send(2000, None, NONE)], side="alice"),
    row("refuse-send-over", "one that is named and over is not open, whether or not time was looked at",
        [begun("one", 0), begun("two", 1000),
         send(2000 + MINUTE_MS + TOLERANCE_MS, None, NOT_OPEN, named="one"), poll(2000 + MINUTE_MS + TOLERANCE_MS),
         send(2000 + MINUTE_MS + TOLERANCE_MS, None, NOT_OPEN, named="one"),
         send(2000 + MINUTE_MS + TOLERANCE_MS, None, NONE)], policy=FOR_A_MINUTE, peer_policy=FOR_A_MINUTE),
)  # fmt: skip


# --- superseded ------------------------------------------------------------------------------------------------------

SUPERSEDED: Final[tuple[Row, ...]] = (
    row("refuse-superseded", "a peer that lost its state knocks: what it held before sends no more, and opens late "
        "data for 600 s",
        [begun("one", 0), keep("late", peer_data("one", 0)), keep("later", peer_data("one", 0)), lose_peer(),
         unheard("two", 1000), send(1000, "two"), send(1000, None, NOT_OPEN, named="one"),
         receive(kept("late"), 1000 + LATE_MS), receive(kept("later"), 1001 + LATE_MS, CLOSED)]),
    row("refuse-superseded-at-the-verdict", "a fresh KNOCK that waits ends nothing; when it is accepted, it does",
        [peer_knock("one", 0), take("one", 0, "knock"), accept("one", 1000), deliver("one", 1000), hear("one", 1000),
         lose_peer(), peer_knock("two", 2000), take("two", 2000, "knock"), send(2000, "one"), accept("two", 3000),
         send(3000, "two"), send(3000, None, NOT_OPEN, named="one")], policy=None),
    row("superseded-close-not-answered", "the peer's close in a superseded session gets no answer by itself",
        [begun("one", 0), peer_data("one", 0), keep("closed", peer_close("one", 0)), lose_peer(), unheard("two", 1000),
         receive(kept("closed"), 2000), close("one", 3000), send(3000, "two")]),
    row("superseded-close", "the application closes a superseded session; it ends 600 s after it was superseded",
        [begun("one", 0), lose_peer(), unheard("two", 1000), close("one", 2000), poll(1000 + LATE_MS),
         poll(1001 + LATE_MS)]),
    row("superseded-closed", "the last data that the peer announced comes: closed",
        [begun("one", 0), keep("late", peer_data("one", 0)), keep("closed", peer_close("one", 0)), lose_peer(),
         unheard("two", 1000), receive(kept("closed"), 2000), receive(kept("late"), 2000)]),
    row("superseded-ttl", "superseded when its time to live ends: truncated 300 s later, and not expired",
        [begun("one", 0), lose_peer(), unheard("two", HOUR_MS - 1000), poll(HOUR_MS + TOLERANCE_MS),
         poll(HOUR_MS + TOLERANCE_MS + 1)], policy=FOR_AN_HOUR),
    row("refuse-superseded-own", "a fresh KNOCK ends also what this side began, if its ACCEPT is earlier",
        [own("mine", 0), lose_peer(), unheard("theirs", 1), send(1000, "theirs"),
         send(1000, None, NOT_OPEN, named="mine")]),
    row("fresh-at-the-same-time", "an ACCEPT of the KNOCK's own millisecond is not earlier: it stays",
        [knock("mine", 0), peer_knock("theirs", 1000), peer_take("mine", 1000), answered("mine", 1000),
         take("theirs", 2000), send(2000, "mine")]),
    row("fresh-late", "a fresh KNOCK that comes late ends nothing that its maker entered since",
        [knock("mine", 0), peer_knock("theirs", 1000), peer_take("mine", 2000), answered("mine", 2000),
         take("theirs", 3000), send(3000, "mine")]),
    row("fresh-spares-pending", "what is not accepted yet is no session that its maker could have lost",
        [knock("mine", 0), lose_peer(), unheard("theirs", 1000), send(1000, "theirs"), peer_take("mine", 2000),
         answered("mine", 2000), send(2000, "mine")]),
    row("fresh-held-back", "a fresh KNOCK that was held back behind a later one: REJECT stale, and nothing ends",
        [peer_knock("old", 0), lose_peer(), begun("new", 1000), take("old", 2000, "rejected"), send(2000, "new")]),
    row("fresh-takes-all-five", "five sessions that work, and a fresh KNOCK: it has room, and takes the place of all",
        [*(begun(f"{number}", number) for number in range(5)), lose_peer(), unheard("fresh", 1000),
         send(1000, "fresh")]),
    row("fresh-not-beside-own-pending", "five KNOCKs of this side wait: a fresh one of the peer has no room",
        [*(knock(f"{number}", number) for number in range(5)), peer_knock("fresh", 1000),
         take("fresh", 1000, "rejected")]),
    row("not-fresh-supersedes-nothing", "another KNOCK of a peer that holds its state",
        [begun("one", 0), unheard("two", 1000), send(1000, "one"), hear("one", 1000)]),
    row("sixth-of-five-heard", "A was heard in all five, and has dropped one itself: REJECT busy",
        [*(begun(f"{number}", number) for number in range(5)), peer_drop("2", 1000), peer_knock("sixth", 1000),
         take("sixth", 1000, "rejected"), send(1000, "4")]),
    row("sixth-gives-way", "of five the oldest in which A was not heard gives way, however old one that works is",
        [begun("0", 0), unheard("1", 1), unheard("2", 2), begun("3", 3), unheard("4", 4), peer_drop("2", 1000),
         unheard("sixth", 1000), send(1000, "3"), hear("sixth", 1000), send(1000, "sixth")]),
    row("sixth-beside-own", "sessions that this side began count among the five, and do not give way",
        [own("mine", 0), *(unheard(f"{number}", number) for number in range(1, 5)), peer_drop("3", 1000),
         unheard("sixth", 1000), send(1000, "mine")]),
)  # fmt: skip


# --- knocking, and answers -------------------------------------------------------------------------------------------

KNOCKING: Final[tuple[Row, ...]] = (
    row("refuse-knock-sixth", "the initiator makes no sixth, those that wait included; one that is dropped makes room",
        [*(knock(f"{number}", number) for number in range(5)), knock("sixth", 1000, TOO_MANY), drop("0", 1000),
         knock("sixth", 1000)], side="alice"),
    row("knock-fresh", "fresh = 1 where no session is held and the time is the clock's own; in the millisecond of the "
        "last KNOCK it is not",
        [knock("one", 0), knock("two", 0), drop("one", 0), drop("two", 0), knock("three", 0), drop("three", 0),
         knock("four", 1000)], side="alice"),
    row("knock-clock-back", "the clock goes back: 1 ms later than the last, which was at most 300 s ahead",
        [knock("one", TOLERANCE_MS), drop("one", TOLERANCE_MS), knock("two", 0)], side="alice"),
    row("knock-clock-far-back", "a KNOCK that was made more than 300 s ahead is no measure",
        [knock("one", TOLERANCE_MS + 1), drop("one", TOLERANCE_MS + 1), knock("two", 0)], side="alice"),
    row("refuse-no-room-in-all", "an ended session that is remembered takes room: no KNOCK is made, none is taken",
        [begun("one", 0), drop("one", 1000), knock("mine", 1000, TOO_MANY), peer_knock("two", 2000),
         take("two", 2000, "rejected")], limits={"sessions_max": 1}, spec="5.1"),
    row("refuse-answer-heard", "an ACCEPT is repeated until A's first message has opened",
        [peer_knock("one", 0), take("one", 0), take("one", 1000, "answered"), deliver("one", 1000),
         hear("one", 2000), take("one", 3000, expect=REPLAYED)], spec="5.1"),
    row("refuse-answer-truncated", "an ACCEPT is not repeated once its session was closed, and 600 s are over",
        [peer_knock("one", 0), take("one", 0), close("one", 1000), take("one", 1000 + LATE_MS, "answered"),
         take("one", 1001 + LATE_MS, expect=REPLAYED)], spec="5.1"),
)  # fmt: skip


def pair() -> Files:
    """Return the family pair."""
    files = Files("pair")
    for rows in (WHICH_SENDS, SUPERSEDED, KNOCKING):
        play(_Pair, files, rows)
    return files

"""Two agents in processes that are killed, a relay that loses, doubles and reorders, and all that must hold of them.

The test's own process is what a real application has outside its agents: the relay, the clock, and a database that
remembers what each process has told, up to its last word. Processes do one command at a time, so a run depends on its
seed alone, but for what random kills from outside hit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from random import Random
from typing import Any

from agentmesh.audit import Finding, compare, verified_records

WORKER = Path(__file__).with_name("worker.py")
PAUSE_MS = 10  # between two commands
DIED = object()
FAILED = object()

Place = tuple[str, str]
Identity = tuple[Any, ...]


class Broken(AssertionError):
    """A rule was broken."""


class Nursery:
    """The process that workers are forked from, because it has everything imported."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="agentmesh-crash-")  # short, because a socket's path must be
        address = str(Path(self._folder.name) / "pipe")
        self._listener = Listener(address, "AF_UNIX", backlog=4)
        self._process = subprocess.Popen([sys.executable, str(WORKER), address])
        self._control = self._listener.accept()

    def start(self, place: Place, name: str, fault: str | None) -> tuple[int, Connection]:
        self._control.send(("start", place, name, fault))
        child: int = self._control.recv()
        return child, self._listener.accept()

    def reap(self, child: int) -> int:
        self._control.send(("reap", child))
        code: int = self._control.recv()
        return code

    def close(self) -> None:
        self._control.close()
        self._process.wait(30)
        self._listener.close()
        self._folder.cleanup()


class Seen:
    """What the relay has seen: no key and no position may ever seal two different envelopes that left."""

    def __init__(self) -> None:
        self._sealings: dict[bytes, tuple[bytes, bytes]] = {}
        self._left: dict[Any, bytes] = {}
        self.envelopes: set[bytes] = set()

    def sealed(self, key: bytes, nonce: bytes, tail: bytes) -> None:
        self._sealings[tail] = key, nonce

    def left(self, sender: str, purpose: str, session_id: bytes, number: int, envelope: bytes) -> None:
        self.envelopes.add(envelope)
        names: list[Any] = []
        if purpose in ("DATA", "CLOSE", "SIGNAL", "EARLY"):
            names += self._sealings[envelope[-16:]]
        if purpose == "DATA":
            names.append((sender, session_id, number))
        for name in names:
            if self._left.setdefault(name, envelope) != envelope:
                raise Broken("re-keyed: one key, nonce or number has sealed two envelopes")


class Counts:
    """What a run did."""

    def __init__(self) -> None:
        self.kills: Counter[str] = Counter()
        self.messages = self.envelopes = self.restarts = self.failures = 0

    def __str__(self) -> str:
        kinds = ", ".join(f"{name}: {count}" for name, count in sorted(self.kills.items()))
        return (
            f"{self.kills.total()} kills ({kinds}); {self.restarts} restarts, {self.failures} writes that failed, "
            f"{self.messages} messages, {self.envelopes} envelopes; lost, doubled, re-keyed: 0"
        )


class Node:
    """One agent, whatever process it is in, and what its application knows.

    Attributes:
        sent: Payloads that were sent for good, with the DATA envelopes' numbers where these are known.
        unsent: Payloads of which it is known that they were not sent.
    """

    def __init__(self, name: str, place: Place, matrix: Matrix) -> None:
        self.name = name
        self.place = place
        self.did = ""
        self.sent: dict[bytes, None] = {}
        self.unsent: list[bytes] = []
        self.handed: dict[bytes, Identity] = {}  # by payload
        self.told: dict[bytes, str] = {}  # by payload: what became of it, and was done with
        self.events: dict[Identity, str] = {}
        self._matrix = matrix
        self._trying: list[bytes] = []
        self._together = False
        self._pipe: Connection | None = None
        self._child = 0

    # --- the process -------------------------------------------------------------------------------------------------

    def start(self, kill: int | None = None, only: str | None = None) -> bool:
        """Open the store in a new process. Return whether it came so far."""
        matrix = self._matrix
        if self._pipe is not None:
            self.stop()
        self._child, self._pipe = matrix.nursery.start(self.place, self.name, matrix.fault)
        matrix.counts.restarts += 1
        self._pipe.send((matrix.now(), matrix.peer(self).did, kill, only))
        return self._listen("opened") is not DIED

    def stop(self) -> None:
        self.do("stop")
        assert self._pipe is not None
        self._reap()

    def end(self) -> None:
        if self._pipe is not None:
            os.kill(self._child, signal.SIGKILL)
            self._reap()

    def kill(self) -> None:
        """Kill it where it waits."""
        self.do("open_sessions", after=0)

    def do(
        self, command: str, *arguments: Any, kill: int | None = None, only: str | None = None, after: int | None = None
    ) -> Any:
        """Do a command; die at a point of it, or be killed after so many of its words. Return what it returned."""
        assert self._pipe is not None
        if command in ("send", "batch"):
            self._trying = list(arguments[0] if command == "batch" else arguments)
            self._together = command == "batch"
        self._pipe.send((command, self._matrix.now(), self._matrix.peer(self).did, kill, only, *arguments))
        result = self._listen("ready", after)
        if (
            result is not DIED and result is not FAILED and command not in ("fail", "mend")
        ):  # which ask nothing of the agent
            self.sent |= dict.fromkeys(self._trying)
            self._trying = []
        return result

    def _listen(self, last: str, after: int | None = None) -> Any:
        heard = 0
        killed = False
        while True:
            if after is not None and heard >= after and not killed:
                os.kill(self._child, signal.SIGKILL)
                self._matrix.counts.kills["SIGKILL from outside"] += 1
                killed = True
            assert self._pipe is not None
            try:
                what, *details = self._pipe.recv()
            except (EOFError, ConnectionResetError):
                if self._reap() != -signal.SIGKILL:
                    raise Broken(f"{self.name} ended by itself") from None
                return DIED
            heard += 1
            if what == "failed":
                return self._failed(*details)
            getattr(self, f"_on_{what}")(*details)
            if what == last and not killed:
                if after is None:
                    return details[0] if last == "ready" else None
                after = heard  # it was faster: it is killed where it waits

    def _reap(self) -> int:
        assert self._pipe is not None
        code = self._matrix.nursery.reap(self._child)
        self._pipe.close()
        self._pipe = None
        return code

    # --- what it says ------------------------------------------------------------------------------------------------

    def _on_broken(self, trace: str) -> None:
        raise Broken(f"{self.name} raised an error that it should not:\n{trace}")

    def _on_dying(self, point: str) -> None:
        self._matrix.counts.kills[point] += 1

    def _on_ready(self, _result: Any, passed: list[str]) -> None:
        self.passed = passed

    def _failed(self, code: str) -> Any:
        self._matrix.counts.failures += 1
        if code not in ("store.failed", "store.commit"):
            raise Broken(f"{self.name} refused: {code}")
        if not self._together:  # a batch is written by whoever comes next; of a call alone nothing has happened
            self.unsent = [payload for payload in self._trying if payload not in self.sent] + self.unsent
            self._trying = []
        return FAILED

    def _on_sealing(self, key: bytes, nonce: bytes, tail: bytes) -> None:
        self._matrix.seen.sealed(key, nonce, tail)

    def _on_sent(self, payload: bytes, _receipt: bytes) -> None:
        self.sent[payload] = None
        self._matrix.counts.messages += 1

    def _on_left(
        self, purpose: str, session_id: bytes, number: int, _label: bytes, _receipt: bytes, envelope: bytes
    ) -> None:
        matrix = self._matrix
        matrix.seen.left(self.name, purpose, session_id, number, envelope)
        matrix.relay[matrix.peer(self).name].append(envelope)
        matrix.counts.envelopes += 1

    def _on_event(self, event: Identity) -> None:
        if self.events.get(event) == "done":
            raise Broken(f"doubled: {event[0]} was handed up again after it was done")
        self.events[event] = "handed up"
        kind = event[0]
        if kind == "MessageReceived":
            payload = event[3]
            if self.handed.setdefault(payload, event) != event:
                raise Broken("doubled: a payload came in two messages")

    def _on_doing(self, event: Identity) -> None:
        self.events[event] = "doing"

    def _on_done(self, event: Identity) -> None:
        self.events[event] = "done"
        if event[0] in ("Delivered", "Undelivered"):
            self._note_told(event)

    def _note_told(self, event: Identity) -> None:
        kind, session_id, _numbers, *labels = event
        for label in labels:
            if self.told.setdefault(label, f"{kind} {session_id.hex()}") != f"{kind} {session_id.hex()}":
                raise Broken("doubled: what became of a message was told twice")

    def _on_opened(self, did: str, waiting: list[Any], inbox: list[Identity]) -> None:
        """Hold what is in the store against all that was known before."""
        self.did = did
        labels = Counter(label for purpose, _, _, label, _ in waiting if purpose == "DATA")
        if labels and max(labels.values()) > 1:
            raise Broken("doubled: a payload waits twice")
        arrived = [payload for payload in self._trying if payload in labels]
        if self._together and self._trying and len(arrived) not in (0, len(self._trying)):
            raise Broken("a batch is there in part")
        self.sent |= dict.fromkeys(arrived)
        self.unsent += [payload for payload in self._trying if payload not in self.sent]
        self._trying = []
        for event, state in list(self.events.items()):
            is_there = event in inbox
            if state == "doing":  # whether that was written is seen now
                self.events[event] = "handed up" if is_there else "done"
                if not is_there and event[0] in ("Delivered", "Undelivered"):
                    self._note_told(event)
            elif state == "done" and is_there:
                raise Broken(f"doubled: {event[0]} is in the inbox after it was done")
            elif state == "handed up" and not is_there and event[0] != "KnockReceived":
                raise Broken(f"lost: {event[0]} was handed up, is not done, and is not in the inbox")
        told = set(self.told) | {
            label for event in inbox if event[0] in ("Delivered", "Undelivered") for label in event[3:]
        }
        for payload in self.sent:
            if (payload in labels) + (payload in told) != 1:
                raise Broken("lost: a payload is neither in the outbox nor told of, or both")
        if labels.keys() - self.sent.keys():
            raise Broken("doubled: a payload waits that was not sent")


class Matrix:
    """Two nodes, their relay and their clock."""

    def __init__(
        self, nursery: Nursery, folder: Path, seed: int, *, place: Place | None = None, fault: str | None = None
    ) -> None:
        """Make them; `place` is a database for both, where each has not a file of its own in the folder.

        Of these the agents of each other seed hand up in order, and have a counter beside the store.
        """
        self.died, self.failed = DIED, FAILED
        self.random = Random(seed)
        self.fault = fault
        self.counts = Counts()
        self.seen = Seen()
        self.relay: dict[str, list[bytes]] = {"alice": [], "bob": []}
        self._now_ms = 1_800_000_000_000
        self._serial = 0
        self.nursery = nursery
        kind = "ordered" if seed % 2 else "sqlite"
        self.alice, self.bob = (
            Node(name, (kind, str(folder / f"{name}.mesh")) if place is None else place, self)
            for name in ("alice", "bob")
        )
        self.nodes = (self.alice, self.bob)

    def peer(self, node: Node) -> Node:
        return self.bob if node is self.alice else self.alice

    def now(self) -> int:
        self._now_ms += PAUSE_MS
        return self._now_ms

    def wait(self, ms: int) -> None:
        self._now_ms += ms

    def payload(self) -> bytes:
        self._serial += 1
        return b"%d" % self._serial

    def end(self) -> None:
        """Kill what is still alive, where a test has failed."""
        for node in self.nodes:
            node.end()

    # --- the relay ---------------------------------------------------------------------------------------------------

    def take(self, node: Node, *, honest: bool = False) -> list[bytes]:
        """Return what the relay brings to a node now: what it was handed, or whatever it makes of that."""
        queue = self.relay[node.name]
        if honest:
            self.relay[node.name] = []
            return queue
        self.random.shuffle(queue)
        brought: list[bytes] = []
        kept: list[bytes] = []
        for envelope in queue:
            fate = self.random.randrange(10)
            if fate < 8:
                brought.append(envelope)
            if fate in (0, 8):  # doubled, or late
                kept.append(envelope)
        self.relay[node.name] = kept
        return brought

    def pump(self, *, honest: bool = False) -> None:
        """Let both hand over and receive once."""
        for node in self.nodes:
            node.do("drain")
        for node in self.nodes:
            node.do("receive", self.take(node, honest=honest))

    # --- what is done without kills ----------------------------------------------------------------------------------

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        self.meet(self.alice)

    def meet(self, node: Node) -> None:
        """See to a session that the node can send on."""
        while not node.do("open_sessions")[1]:
            self.part()
            bundle = self.peer(node).do("publish")[0]
            self.wait(1000)
            node.do("knock", bundle)
            for _ in range(4):
                self.pump(honest=True)

    def part(self) -> None:
        """See to it that there is room for another session."""
        for node in self.nodes:
            while True:
                count, sends = node.do("open_sessions")
                if count < 3:
                    break
                if sends:
                    node.do("close")
                self.wait(3000)
                self.pump(honest=True)

    def something(self, node: Node) -> tuple[Node, str, list[Any]]:
        """Choose what a node does next."""
        chance = self.random.randrange(20)
        if chance < 6:
            self.meet(node)
            return node, "send", [self.payload() for _ in range(self.random.randint(1, 3))]
        if chance < 9:
            return node, "drain", []
        if chance < 13:
            return node, "receive", [self.take(node), self.random.random() < 0.8]
        if chance < 16:
            self.meet(node)
            return node, "batch", [[self.payload() for _ in range(self.random.randint(1, 4))], self.take(node)]
        if chance == 16:
            return node, "publish", []
        if chance == 17:
            self.part()
            return node, "knock", [self.peer(node).do("publish")[0]]
        if chance == 18 and node.do("open_sessions")[1]:
            return node, "close", []
        self.wait(self.random.randrange(10_000))
        return node, "poll", []

    def send_again(self) -> None:
        """Send what is known not to have been sent: the application would."""
        for node in self.nodes:
            while node.unsent:
                self.meet(node)
                node.do("send", node.unsent.pop(0))

    def catch_up(self) -> None:
        """Let what is under way arrive, and be acknowledged."""
        self.wait(60_000)  # whatever waits is due
        self.pump(honest=True)
        self.wait(1000)
        for node in self.nodes:
            node.do("poll")
        self.pump(honest=True)

    def settle(self) -> None:
        """Restart both, and be honest until nothing is left to do."""
        for node in self.nodes:
            node.start()
        self.send_again()
        for _ in range(400):
            for node in self.nodes:
                node.do("poll")
            self.pump(honest=True)
            if not any(self.relay.values()) and not any(any(node.do("left_over")) for node in self.nodes):
                return
            self.wait(3000)
        raise Broken(f"lost: something waits for ever: {[node.do('left_over') for node in self.nodes]}")

    def verify(self) -> dict[str, list[bytes]]:
        """Check all that must hold at the end. Return the entries of both audit logs."""
        self.settle()
        for node in self.nodes:
            node.start()  # what is opened once more must agree, and be empty
            if any(node.do("left_over")):
                raise Broken("something is left in a box")
        for node in self.nodes:
            peer = self.peer(node)
            for payload in node.sent:
                told = node.told.get(payload, "")
                if payload not in peer.handed and not told.startswith("Undelivered"):
                    raise Broken("lost: a payload was not handed up, and nobody was told")
                if not told:
                    raise Broken("lost: nobody was told what became of a payload")
            if peer.handed.keys() - node.sent.keys():
                raise Broken("doubled: a payload was handed up that was not sent")
            numbers: dict[bytes, set[int]] = {}
            for _, session_id, number, _ in peer.handed.values():
                numbers.setdefault(session_id, set()).add(number)
            for event in node.events:
                if event[0] == "Undelivered":
                    numbers.setdefault(event[1], set()).update(event[2])
            for of_session in numbers.values():
                if of_session != set(range(1, len(of_session) + 1)):
                    raise Broken("lost: a number is missing in a session")
        entries = {node.name: node.do("entries") for node in self.nodes}
        for node in self.nodes:
            node.stop()
        return entries

    def reconcile(self) -> None:
        """Check what must hold at the end: of the nodes, and of their audit logs, held against one another."""
        entries = self.verify()
        records = {name: list(verified_records(found)) for name, found in entries.items()}
        for node in self.nodes:
            peer = self.peer(node)
            compared = compare(node.did, records[node.name], peer.did, records[peer.name])
            undelivered = [one for one in compared.found if one.finding is Finding.SENT_NOT_OPENED]
            if len(undelivered) != len(compared.found):
                raise Broken(f"the logs do not agree: {compared.found}")
            if compared.crashes:  # each step is one transaction
                raise Broken("there is a record without its effect")
            if len(undelivered) > sum(what.startswith("Undelivered") for what in node.told.values()):
                raise Broken("lost: the logs know of messages that nobody was told of")

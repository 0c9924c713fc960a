"""One agent in a process of its own, to be killed: it does what it is told over a pipe, and tells all that it does.

Run as a script this is a nursery: it has everything imported, and forks a worker for each that it is asked for, before
any agent or store is made. What a worker has told, the other end of the pipe has, however the worker dies: it stands
for the application's own database.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from hashlib import sha256
from multiprocessing.connection import Client, Connection
from typing import Any

import faults
from points import Points, trace_statements, watch_files

from agentmesh import Intent, Phase, errors
from agentmesh.audit import AuditLog
from agentmesh.engine.outbox import Purpose, Waiting
from agentmesh.engine.seam import Seam
from agentmesh.errors import AgentMeshError, LocalError, StoreError
from agentmesh.events import Delivered, Event, KnockReceived, MessageReceived, Undelivered
from agentmesh.session.suite import SUITE
from agentmesh.store.counter import FileCounter
from agentmesh.store.keeping import Keeping
from agentmesh.store.sqlite import SQLiteBackend
from agentmesh.store.store import Store
from agentmesh.testing.faulty_backend import FaultyBackend, Moment

MESH = "example/crash"
KEY = bytes(range(32))
_OPEN = {Phase.PENDING, Phase.UNDECIDED, Phase.ESTABLISHED}
TAIL = 16  # bytes at the end of an envelope that tell which sealing it came of


def backend_of(place: tuple[str, str]) -> Any:
    kind, where = place
    if kind in ("sqlite", "ordered"):
        return SQLiteBackend(where)
    from agentmesh.store.postgres import PostgresBackend

    return PostgresBackend(where)


class Worker:
    """Opens the store, and serves one command after another until it is told to stop."""

    def __init__(self, pipe: Connection, place: tuple[str, str], name: str, fault: str | None) -> None:
        self.pipe = pipe
        self.now_ms = 0
        self.peer = ""
        self.points = Points(lambda name: pipe.send(("dying", name)))
        self._place = place
        self._name = name
        self._fault = fault

    def run(self) -> None:
        self.now_ms, self.peer, number, only = self.pipe.recv()
        self._watch()
        self.points.arm(number, only)
        self.backend = FaultyBackend(backend_of(self._place), self._moment)
        with Store(self.backend, KEY) as store:
            kind, where = self._place
            ordered: dict[str, Any] = (
                {"in_order": True, "counter": FileCounter(f"{where}.counter")} if kind == "ordered" else {}
            )
            self.agent = store.open_agent(MESH, name=self._name, clock=lambda: self.now_ms, keep_log=True, **ordered)
            self.log: AuditLog = store.log(self._name)
            self.points("open >")
            waiting = [_told(one) for one in self.agent.outbox()]
            self.tell("opened", self.agent.did, waiting, [identity_of(one) for one in self.agent.inbox()])
            while True:
                command, self.now_ms, self.peer, number, only, *arguments = self.pipe.recv()
                self.points.arm(number, only)
                try:
                    result = getattr(self, command)(*arguments)
                except (LocalError, StoreError) as error:
                    self.points.arm(None)
                    self.tell("failed", error.code)
                    continue
                passed = self.points.passed
                self.points.arm(None)
                self.tell("ready", result, passed)
                if command == "stop":
                    return

    def tell(self, *message: Any) -> None:
        self.pipe.send(message)

    def tell_event(self, event: Event) -> None:
        self.tell("event", identity_of(event))

    # --- what is watched ---------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        trace_statements(self.points)
        watch_files(self.points)
        _between(Keeping, "commit", self.points)
        _between(Seam, "_apply", self.points)
        _between(Seam, "_tell", self.points)
        seal = SUITE.seal

        def sealed(header_key: bytes, message_key: bytes, *more: Any) -> tuple[bytes, ...]:
            parts = seal(header_key, message_key, *more)
            self.tell("sealing", sha256(message_key).digest(), parts[0], parts[-1][-TAIL:])
            return parts

        object.__setattr__(SUITE, "seal", sealed)
        if self._fault is not None:
            faults.plant(self._fault, self)

    def _moment(self, moment: Moment) -> None:
        if moment is Moment.WRITE or moment is Moment.WRITTEN:
            self.points(f"rows {moment}")

    # --- commands ----------------------------------------------------------------------------------------------------

    def send(self, *payloads: bytes) -> None:
        for payload in payloads:
            sealed = self.agent.send(self.peer, payload, label=payload)
            self.tell("sent", payload, sealed.receipt)

    def drain(self) -> None:
        """Hand what waits to the relay."""
        for waiting in self.agent.outbox():
            self.points("hand-over <")
            self.tell("left", *_told(waiting), waiting.envelope)
            self.points("hand-over >")
            self.agent.sent(waiting.receipt)
            self.points("sent >")

    def receive(self, envelopes: list[bytes], finish: bool = True) -> list[tuple[int, str]]:
        """Take what the relay brings, and do what it asks for. Return what was refused, and how."""
        refused: list[tuple[int, str]] = []
        for number, envelope in enumerate(envelopes):
            try:
                self.agent.receive(envelope)
            except AgentMeshError as error:
                if isinstance(error, LocalError | StoreError):
                    raise
                refused.append((number, error.code))
            self.points("received >")
            if finish:
                self.finish()
        return refused

    def finish(self) -> None:
        """Do what is to be done with every event of the inbox."""
        for event in self.agent.inbox():
            self._handle(event)

    def _handle(self, event: Event) -> None:
        name = identity_of(event)
        self.points("hand-up <")
        self.tell_event(event)
        self.points("hand-up >")
        self.tell("doing", name)
        self.points("done <")
        if isinstance(event, KnockReceived):
            try:
                self.agent.accept(event)
            except LocalError:
                self.agent.done(event)  # it has expired, or was superseded
        else:
            self.agent.done(event)
        self.points("done >")
        self.tell("done", name)

    def batch(self, payloads: list[bytes], envelopes: list[bytes]) -> None:
        """Send and receive in one commit."""
        with self.agent.batch():
            sealed = [(payload, self.agent.send(self.peer, payload, label=payload)) for payload in payloads]
            self.points("batch")
            for envelope in envelopes:
                try:
                    self.agent.receive(envelope)
                except AgentMeshError as error:
                    if isinstance(error, LocalError | StoreError):
                        raise
            self.points("batch")
        for payload, made in sealed:
            self.tell("sent", payload, made.receipt)
        self.finish()

    def poll(self) -> int | None:
        self.agent.poll()
        self.finish()
        return self.agent.next_deadline_ms

    def publish(self) -> tuple[bytes, ...]:
        return self.agent.publish_bundles(one_time=2, last_resort=False).one_time

    def knock(self, bundle: bytes) -> None:
        self.agent.knock(self.peer, bundle, Intent("talk"))

    def close(self) -> None:
        self.agent.close(self.peer)

    def open_sessions(self) -> tuple[int, bool]:
        """Return how many sessions are open, and whether one of them sends."""
        views = [view.status for view in self.agent.sessions(self.peer)]
        return sum(view.phase in _OPEN for view in views), any(view.sends for view in views)

    def left_over(self) -> tuple[int, int]:
        """Return how much is in the outbox, due or not, and in the inbox."""
        return len(self.agent._core.state.outbox), len(self.agent._core.state.inbox)

    def fail(self, moment: str, error: str) -> None:
        """Let the store fail at the next such moment."""
        self.backend.fail(Moment(moment), getattr(errors, error)())

    def mend(self) -> int:
        return self.backend.mend()

    def entries(self) -> list[bytes]:
        self.log.verify()
        return list(self.log.entries())

    def stop(self) -> None:
        """Close the store, and end."""


def _told(waiting: Waiting) -> tuple[str, bytes, int, bytes, bytes]:
    return Purpose(waiting.purpose).name, waiting.session_id, waiting.number, waiting.label, waiting.receipt


def identity_of(event: Any) -> tuple[Any, ...]:
    """Return what tells an event from all others, over restarts too."""
    kind = type(event).__name__
    if isinstance(event, MessageReceived):
        return kind, event.session_id, event.number, event.plaintext
    if isinstance(event, Delivered | Undelivered):
        return (
            kind,
            event.session_id,
            tuple(one.number for one in event.messages),
            *(one.label for one in event.messages),
        )
    return kind, event.session_id


def _between(owner: type, name: str, points: Points) -> None:
    method = getattr(owner, name)

    def watched(*args: Any) -> Any:
        points(f"{name} <")
        result = method(*args)
        points(f"{name} >")
        return result

    setattr(owner, name, watched)


# --- the nursery -----------------------------------------------------------------------------------------------------


def nursery(address: str) -> None:
    """Fork a worker for each that is asked for; say how it ended when that is asked."""
    with Client(address, "AF_UNIX") as control:
        gc.collect()
        gc.freeze()
        while True:
            try:
                asked, *arguments = control.recv()
            except EOFError:
                return
            if asked == "reap":
                _, status = os.waitpid(arguments[0], 0)
                control.send(os.waitstatus_to_exitcode(status))
                continue
            child = os.fork()
            if child == 0:
                control.close()
                _serve(address, *arguments)
            control.send(child)


def _serve(address: str, place: tuple[str, str], name: str, fault: str | None) -> None:
    code = 1
    try:
        with Client(address, "AF_UNIX") as pipe:
            try:
                Worker(pipe, place, name, fault).run()
                code = 0
            except EOFError:
                code = 0  # the test has ended
            except BaseException as error:
                pipe.send(("broken", "".join(traceback.format_exception(error))))
    finally:
        os._exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    nursery(sys.argv[1])

"""What runs one agent of a fleet: its calls, its crashes, its audit log, its bundles, its clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final, TypeVar

import nacl.secret

from agentmesh import Agent, Event, Limits, Policy, RotationDue, StockLow
from agentmesh.audit import Checkpoint
from agentmesh.testing.host import Host
from benchmarks.fleet.settings import MESH, SECOND_MS
from benchmarks.fleet.world import World

_R = TypeVar("_R")
_POLL_MAX_MS: Final = 12 * 3600 * SECOND_MS
_POLL_MIN_MS: Final = 600 * SECOND_MS
_DOWN_MS: Final = (SECOND_MS, 30 * SECOND_MS)


class Restart(Enum):
    """Where a restart falls."""

    IDLE = "between two calls"
    BEFORE_WRITE = "after a call, before its state was written"
    AFTER_WRITE = "after the state was written, before anything was handed on"


class Crashed(Exception):
    """The agent went down before the state of this call was written: the call has not happened."""


class FleetHost(Host):
    """One agent, and what the operator of an agent does for it.

    What is written at a restart is the state after the last call (or before it, where the crash came before the write),
    which is what a host has that writes after every call. Everything the application remembers is written with it.

    Attributes:
        index: Its number in the fleet; 0 is knocked at most.
        up_at_ms: Until then it is down: what arrives is lost.
        rolled_back: A crash came before a write, so that the audit log has records of a step that was done again.
        checkpoint: What it signed of its audit log while the run went on, if it did.
    """

    __slots__ = (
        "_armed", "_is_cut_off", "_is_tick_soon", "_sealed", "_stock", "checkpoint", "index", "rolled_back", "up_at_ms",
        "world",
    )  # fmt: skip

    def __init__(self, world: World, index: int, policy: Policy, limits: Limits) -> None:
        self.world = world
        self.index = index
        self.up_at_ms = 0
        self.rolled_back = False
        self.checkpoint: Checkpoint | None = None
        self._stock = limits.one_time_bundles
        self._armed: Restart | None = None
        self._sealed = False
        self._is_tick_soon = False
        self._is_cut_off = False
        super().__init__(
            MESH, clock=world.clock, entropy=world.entropy, policy=policy, limits=limits, sink=world.new_sink()
        )
        self.publish(self._stock, last_resort=True)
        world.later(world.random.randint(0, _POLL_MAX_MS), self.tick)

    @property
    def is_down(self) -> bool:
        """Say whether it is restarting."""
        return self.world.clock.now_ms < self.up_at_ms

    def when_up(self, act: Callable[..., None], *arguments: Any) -> None:
        """Have something happen once it is up again, or next if it is up."""
        self.world.later(max(0, self.up_at_ms - self.world.clock.now_ms), act, *arguments)

    # --- its audit log -----------------------------------------------------------------------------------------------

    def sign_checkpoint(self) -> None:
        """Sign what the audit log holds, if there is one, and keep that elsewhere."""
        if self.journal is not None:
            self.checkpoint = self.agent.checkpoint(self.journal.log)

    def entries(self) -> Iterable[bytes]:
        """Return the audit log's entries, as they stand in the sink."""
        return () if self.sink is None else self.sink.entries()

    # --- calls, and where they crash ---------------------------------------------------------------------------------

    def call(self, name: str, act: Callable[[], _R]) -> _R:
        """Call the library; where a restart is due, go down before or after the state is written.

        Raises:
            AgentMeshError: as the call does; nothing has changed.
            Crashed: the call has not happened.
        """
        armed = self._armed
        if armed is None or name == "poll":  # which has seldom anything to write
            return self.world.calls.timed(name, act)
        written = self.agent.export_state()
        result = self.world.calls.timed(name, act)  # where it raises, the next call is the one that crashes
        self._armed = None
        if armed is Restart.BEFORE_WRITE:
            self._fall(armed, written)
            self.rolled_back = True
            raise Crashed
        self._fall(armed, self.agent.export_state())
        # What the application does of this call was written with the state; none of it is handed on before the crash.
        self._is_cut_off = True
        self.world.after.append(self._reconnect)
        return result

    def _reconnect(self) -> None:
        self._is_cut_off = False

    def hand_over(self, to: int, envelope: bytes, what: str) -> None:
        """Give an envelope to the relay, unless the crash comes first."""
        if self._is_cut_off:
            self.world.counts["envelopes that a crash kept back"] += 1
        else:
            self.world.hand_over(to, envelope, what)

    def go_down(self, how: Restart, sealed: bool) -> None:
        """Go down now, or at the next call that changes something."""
        self._sealed = sealed
        if how is Restart.IDLE:
            self.agent.record_refusals()  # an orderly end; what a crash has counted is lost
            self._fall(how, self.agent.export_state())
        else:
            self._armed = how

    def _fall(self, how: Restart, written: bytes) -> None:
        world = self.world
        world.counts[f"restarts {how.value}"] += 1
        if self._sealed:
            world.counts["restarts from sealed state"] += 1
            box = nacl.secret.SecretBox(world.entropy.token(nacl.secret.SecretBox.KEY_SIZE))
            written = box.decrypt(box.encrypt(written, world.entropy.token(nacl.secret.SecretBox.NONCE_SIZE)))
        self.restart(written)
        self.up_at_ms = world.clock.now_ms + world.random.randint(*_DOWN_MS)

    def restore(self, written: bytes) -> Agent:
        """Return the agent that an exported state makes, and note how long that took."""
        return self.world.calls.timed("restore", lambda: super(FleetHost, self).restore(written))

    def broke(self, rule: str) -> None:
        """Note that the agent broke a rule."""
        self.world.ledger.fault("state", f"agent {self.index}: {rule}")

    # --- what time brings --------------------------------------------------------------------------------------------

    def publish(self, one_time: int, *, last_resort: bool) -> None:
        """Put fresh bundles on the shelf."""
        shelf = self.call("publish bundles", lambda: self.agent.publish_bundles(one_time, last_resort=last_resort))
        self.world.shelf.put(self.did, shelf)
        self.world.counts["one-time bundles published"] += len(shelf.one_time)
        self.world.counts["last-resort bundles published"] += shelf.last_resort is not None

    def tick(self) -> None:
        """Look at the time every now and then, and again when the agent says so."""
        if self.is_down:
            self.when_up(self.tick)
            return
        self.poll()
        deadline_ms = self.agent.next_deadline_ms
        wait_ms = _POLL_MAX_MS if deadline_ms is None else deadline_ms - self.world.clock.now_ms
        self.world.later(min(max(wait_ms, _POLL_MIN_MS), _POLL_MAX_MS), self.tick)

    def tick_soon(self) -> None:
        """Look at the time in ten minutes: stock may be low by then, and a close may have gone unanswered."""
        if not self._is_tick_soon:
            self._is_tick_soon = True
            self.world.later(_POLL_MIN_MS + 2 * SECOND_MS, self._extra_tick)

    def _extra_tick(self) -> None:
        if self.is_down:
            self.when_up(self._extra_tick)
            return
        self._is_tick_soon = False
        self.poll()

    def poll(self) -> None:
        """Poll, and publish what is wanted."""
        try:
            events = self.call("poll", self.agent.poll)
            for event in events:
                if isinstance(event, StockLow):
                    self.publish(self._stock, last_resort=False)
                    self.world.counts["times a stock was low"] += 1
                elif isinstance(event, RotationDue):
                    self.publish(0, last_resort=True)
                    self.world.counts["last-resort bundles rotated"] += 1
                else:
                    self.take(event)
        except Crashed:
            self.when_up(self.poll)

    def take(self, event: Event, envelope: bytes = b"") -> None:
        """Take an event that is the application's, and the envelope that it came of."""
        raise NotImplementedError

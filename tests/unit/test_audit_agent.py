"""What an agent has of its audit trail: when counted refusals are recorded, and checkpoints in its own name."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agentmesh import Agent, Intent
from agentmesh.audit import AuditEvent, AuditJournal, AuditLog, MemorySink, Record, verify_checkpoint
from agentmesh.audit.record import decode_entry
from agentmesh.errors import ArgumentInvalid, StoreError, WrongRecipient
from agentmesh.testing import ManualClock

MESH = "example/test"


class Sink:
    """A sink that can be told to fail."""

    def __init__(self) -> None:
        self.inner, self.fails = MemorySink(), False

    def append(self, entries: Sequence[bytes], /) -> None:
        if self.fails:
            raise StoreError
        self.inner.append(entries)

    def entries(self) -> Sequence[bytes]:
        return self.inner.entries()


class Scene:
    """An agent with a journal, and what strangers send it."""

    def __init__(self) -> None:
        self.clock, self.sink = ManualClock(), Sink()
        self.log = AuditLog(self.sink)
        self.agent = Agent.create(MESH, clock=self.clock, journal=AuditJournal(self.log))
        stranger, other = Agent.create(MESH, clock=self.clock), Agent.create(MESH, clock=self.clock)
        bundle = other.publish_bundles(1, last_resort=False).one_time[0]
        self.not_ours = bytes(stranger.knock(other.did, bundle, Intent("x")).envelope)

    def refuse(self, times: int = 1) -> None:
        for _ in range(times):
            with pytest.raises(WrongRecipient):
                self.agent.receive(self.not_ours)

    def records(self) -> list[Record]:
        return [decode_entry(entry)[2] for entry in self.sink.entries()]


def test_the_end_of_a_minute_with_refusals_is_a_deadline() -> None:
    scene = Scene()
    assert scene.agent.next_deadline_ms is None
    scene.refuse(3)
    end_ms = (scene.clock.now_ms // 60_000 + 1) * 60_000
    assert scene.agent.next_deadline_ms == end_ms
    scene.clock.now_ms = end_ms - 1
    scene.agent.poll()
    assert scene.records() == []
    scene.clock.now_ms = end_ms
    scene.agent.poll()
    [record] = scene.records()
    assert (record.event, record.count) == (AuditEvent.MESSAGE_REFUSED, 3)
    assert scene.agent.next_deadline_ms is None


def test_an_agent_that_stops_records_what_it_counted() -> None:
    scene = Scene()
    scene.agent.record_refusals()
    assert scene.records() == []
    scene.refuse(2)
    scene.agent.record_refusals()
    scene.agent.record_refusals()
    assert [record.count for record in scene.records()] == [2]
    scene.refuse()
    scene.agent.record_refusals()
    assert [record.count for record in scene.records()] == [2, 1]


def test_what_a_failing_sink_did_not_take_is_still_counted() -> None:
    scene = Scene()
    scene.refuse(2)
    scene.sink.fails = True
    for _ in range(2):
        with pytest.raises(StoreError):
            scene.agent.record_refusals()
    scene.sink.fails = False
    scene.refuse()
    scene.agent.record_refusals()
    assert [record.count for record in scene.records()] == [3]


def test_an_agent_without_a_journal_counts_nothing() -> None:
    agent = Agent.create(MESH)
    with pytest.raises(WrongRecipient):
        agent.receive(Scene().not_ours)
    agent.record_refusals()
    assert agent.next_deadline_ms is None


def test_an_agent_that_made_its_own_identity_signs_checkpoints() -> None:
    scene = Scene()
    scene.agent.publish_bundles(1, last_resort=False)
    checkpoint = scene.agent.checkpoint(scene.log)
    assert verify_checkpoint(checkpoint.statement, scene.agent.key, mesh=MESH) == checkpoint
    assert (checkpoint.size, checkpoint.root, checkpoint.time_ms) == (1, scene.log.root(), scene.clock.now_ms)
    for wrong in (None, scene.sink, b"log"):
        with pytest.raises(ArgumentInvalid):
            scene.agent.checkpoint(wrong)  # type: ignore[arg-type]

"""AGT's own code takes our export: its hashes, its chain, its proofs. And it finds what was altered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentmesh import Agent, Intent, KnockReceived
from agentmesh.audit import (
    AuditEvent,
    AuditJournal,
    AuditLog,
    MemorySink,
    Outcome,
    Record,
    to_agt_entries,
    to_cloud_events,
)
from agentmesh.errors import RemoteError
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.testing import ManualClock

Run = Callable[[str, Any], Any]


def conversation() -> tuple[str, list[bytes]]:
    """Return an agent's name, and its log of a conversation with a little of everything."""
    clock = ManualClock()
    log = AuditLog(MemorySink())
    alice = Agent.create("example/test", clock=clock)
    bob = Agent.create("example/test", clock=clock, journal=AuditJournal(log))
    shelf = bob.publish_bundles(2)
    [event] = bob.receive(alice.knock(bob.did, shelf.one_time[0], Intent("test")))
    assert isinstance(event, KnockReceived)
    alice.receive(bob.accept(event).envelope)
    for number in range(3):
        clock.advance(ms=number * 333)
        bob.receive(alice.send(bob.did, b"there"))
        alice.receive(bob.send(alice.did, b"back"))
    with pytest.raises(RemoteError):
        bob.receive(b"rubbish")
    clock.advance(seconds=60)
    [event] = bob.receive(alice.knock(bob.did, shelf.one_time[1], Intent("test")))
    assert isinstance(event, KnockReceived)
    alice.receive(bob.reject(event))
    bob.receive(alice.close(bob.did))
    return bob.did, list(log.entries())


def edges() -> list[bytes]:
    log = AuditLog(MemorySink())
    for at_ms in (0, 1, 999, 1_000, 1_767_225_600_000, 1_767_225_600_500, 253_402_300_799_999):
        for event in AuditEvent:
            log.append(
                [
                    Record(
                        event,
                        at_ms=at_ms,
                        mesh="m",
                        sender="did:agentmesh:x",
                        outcome=list(Outcome)[at_ms % 3],
                        number=2**53 - 1,
                        bundle_class=BundleClass.LAST_RESORT,
                    )
                ]
            )
    return list(log.entries())


def test_agts_own_code_takes_our_export(agt: Run) -> None:
    owner, entries = conversation()
    whole = list(to_agt_entries(entries, owner=owner))
    logs = [whole[:size] for size in range(len(whole) + 1)]
    logs.append(list(to_agt_entries(edges(), owner="did:agentmesh:x")))
    result = agt("agt_audit.py", logs)
    assert result["version"] == "5.0.0"
    for log, verdict in zip(logs, result["logs"], strict=True):
        assert verdict["verified"] == verdict["proved"] == [True] * len(log)
        # Its chain overwrites both hashes by its own: they are ours.
        assert verdict["hashes"] == [entry["entry_hash"] for entry in log]
        assert verdict["previous"] == [entry["previous_hash"] for entry in log]
        assert verdict["chain"] == verdict["read"] == [True, None]
    assert len(whole) > 15
    assert {entry["outcome"] for entry in whole} == {"success", "denied"}


def test_agts_own_code_finds_what_was_altered(agt: Run) -> None:
    owner, entries = conversation()
    whole = list(to_agt_entries(entries, owner=owner))
    logs = []
    others = {"timestamp": "2026-01-01T00:00:00.001Z", "data": {**whole[4]["data"], "count": 2}}
    for name, value in whole[4].items():
        logs.append([*whole[:4], {**whole[4], name: others.get(name, f"{value}0")}, *whole[5:]])
    logs += [whole[1:], [*whole[:4], *whole[5:]], [*whole[:4], whole[5], whole[4], *whole[6:]]]
    assert len(logs) == 13
    for log, verdict in zip(logs, agt("agt_audit.py", logs)["logs"], strict=True):
        assert verdict["read"][0] is False, log[4]


def test_types_are_agts_where_it_makes_cloud_events_of_our_export(agt: Run) -> None:
    owner, entries = conversation()
    theirs = agt("agt_audit.py", [list(to_agt_entries(entries, owner=owner))])["logs"][0]["events"]
    ours = list(to_cloud_events(entries, owner=owner))
    for name in ("specversion", "type", "source", "datacontenttype"):
        assert [event[name] for event in ours] == [event[name] for event in theirs]

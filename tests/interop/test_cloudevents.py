"""The CloudEvents SDK takes our export, and gives back what we wrote."""

from __future__ import annotations

import json

import pytest

from agentmesh import Agent, Intent
from agentmesh.audit import AuditJournal, AuditLog, MemorySink, to_cloud_events
from agentmesh.testing import ManualClock

cloudevents = pytest.importorskip("cloudevents.core.v1.event", reason="needs the SDK: pip install 'cloudevents>=2'")
formats = pytest.importorskip("cloudevents.core.formats.json", reason="needs the SDK: pip install 'cloudevents>=2'")


def test_the_sdk_reads_our_events_and_writes_them_again() -> None:
    clock = ManualClock()
    log = AuditLog(MemorySink())
    agent = Agent.create("example/test", clock=clock, journal=AuditJournal(log))
    agent.publish_bundles(2)
    clock.advance(ms=7)
    peer = Agent.create("example/test", clock=clock)
    agent.knock(peer.did, peer.publish_bundles(1).one_time[0], Intent("test"))
    events = list(to_cloud_events(log.entries(), owner=agent.did))
    assert len(events) == 4
    form = formats.JSONFormat()
    for event in events:
        read = form.read(cloudevents.CloudEvent, json.dumps(event))
        assert (read.get_id(), read.get_source(), read.get_type()) == (event["id"], event["source"], event["type"])
        assert read.get_specversion() == "1.0"
        assert round(read.get_time().timestamp() * 1000) == event["data"]["envelope_time_ms"] or "subject" not in event
        assert read.get_data() == event["data"]
        assert read.get_subject() == event.get("subject")
        assert read.get_extension("agentmeshentryhash") == event["agentmeshentryhash"]
        written = json.loads(form.write(read))
        assert {**written, "time": event["time"]} == event


def test_the_sdk_refuses_what_is_none() -> None:
    log = AuditLog(MemorySink())
    Agent.create("example/test", clock=ManualClock(), journal=AuditJournal(log)).publish_bundles(0)
    [event] = to_cloud_events(log.entries(), owner="did:agentmesh:x")
    form = formats.JSONFormat()
    form.read(cloudevents.CloudEvent, json.dumps(event))
    for name in ("source", "type", "specversion"):
        with pytest.raises(Exception, match=name):
            form.read(cloudevents.CloudEvent, json.dumps({**event, name: ""}))

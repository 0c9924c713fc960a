"""AGT's servers and AGT's cryptography among themselves: what the other tests of this folder stand on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Start = Callable[..., Any]


def texts(worker: Any, count: int) -> list[str]:
    return [event["text"] for event in worker.ask("take", count=count, only="message")["events"] if "text" in event]


@pytest.mark.parametrize(("ones", "others"), [("kars", "kars"), ("kars", "ts"), ("ts", "kars")])
def test_two_agents_of_theirs_converse(peer: Start, ones: str, others: str) -> None:
    one, one_did = peer(manners=ones)
    other, other_did = peer(manners=others, echo=True)
    sent: list[str] = []
    for turn in range(60):
        said = [f"{turn} {number}" for number in range(turn % 10)]
        one.ask("send", to=other_did, payloads=said)
        assert texts(one, len(said)) == said
        sent += said
    assert len(sent) == 270
    assert texts(other, 270) == sent
    assert one_did != other_did


def only(worker: Any, kind: str, count: int, **options: Any) -> list[dict[str, Any]]:
    events = worker.ask("take", count=count, only=kind, **options)["events"]
    return [event for event in events if event["event"] == kind]


def test_frames_in_any_order_are_opened_from_the_first_on(peer: Start) -> None:
    one, _ = peer()
    other, other_did = peer()
    [knock, *_] = one.ask("send", to=other_did, payloads=[str(number) for number in range(20)], hold=True)["frames"]
    assert knock["type"] == "knock"
    one.ask("release", order=[0, *range(20, 0, -1)])
    assert texts(other, 20) == [str(number) for number in reversed(range(20))]


def test_mail_waits_for_who_is_away_and_comes_again_until_it_is_acknowledged(peer: Start) -> None:
    one, one_did = peer()
    other, other_did = peer()
    one.ask("send", to=other_did, payloads=["first"])
    assert texts(other, 1) == ["first"]
    other.ask("drop")
    sent = one.ask("send", to=other_did, payloads=["second", "third"])["frames"]
    assert one.ask("sync") == {"closed": None}
    other.ask("connect")
    assert texts(other, 2) == ["second", "third"]
    other.ask("close")
    other.ask("connect")
    # kars acknowledges nothing: both come again, and its ratchet has left their keys behind.
    assert [event["id"] for event in only(other, "undecryptable", 2)] == [frame["id"] for frame in sent]
    # What was sent while it was there was never kept.
    assert only(other, "message", 0) == []
    assert one_did != other_did


def test_a_relay_takes_an_agent_without_heartbeats_to_be_away(
    mesh: Any, started: Any, agt_environment: Any, peer: Start, tmp_path: Path
) -> None:
    relay = started.server(agt_environment, "relay", clock=tmp_path / "clock")
    one, _ = peer(relay=relay.url)
    other, other_did = peer(relay=relay.url)
    relay.advance(91)
    one.ask("send", to=other_did, payloads=["in the inbox"])
    assert one.ask("sync") == other.ask("sync") == {"closed": None}
    other.ask("heartbeat")
    assert other.ask("take")["events"] == []  # a heartbeat flushes nothing
    other.ask("drop")
    other.ask("connect")
    assert texts(other, 1) == ["in the inbox"]


def test_a_second_knock_replaces_kars_session_and_not_that_of_typescript(peer: Start) -> None:
    one, _ = peer()
    kars, kars_did = peer()
    ts, ts_did = peer(manners="ts")
    for did in (kars_did, ts_did):
        one.ask("send", to=did, payloads=["before"])
    one.ask("restart")
    for did in (kars_did, ts_did):
        one.ask("send", to=did, payloads=["after"])
    assert texts(kars, 2) == ["before", "after"]
    assert [event["event"] for event in ts.ask("take", count=3)["events"]] == ["knock", "message", "undecryptable"]
    one.ask("knock", to=ts_did)
    one.ask("send", to=ts_did, payloads=["a third KNOCK"])
    assert texts(ts, 1) == ["a third KNOCK"]


def test_a_message_before_its_knock_is_lost_on_kars_and_held_by_typescript(peer: Start) -> None:
    one, _ = peer()
    kars, kars_did = peer()
    ts, ts_did = peer(manners="ts")
    for did in (kars_did, ts_did):
        one.ask("send", to=did, payloads=["early"], hold=True)
        one.ask("release", order=[1, 0])
    assert [event["event"] for event in kars.ask("take", count=2)["events"]] == ["dropped", "knock"]
    assert texts(ts, 1) == ["early"]


def test_a_knock_again_resets_kars_ratchet_where_it_used_no_one_time_key(peer: Start) -> None:
    one, _ = peer()
    spent, spent_did = peer(one_time=0)
    other, other_did = peer()
    for worker, did, broken in ((spent, spent_did, True), (other, other_did, False)):
        knock, _ = one.ask("send", to=did, payloads=["first"])["frames"]
        assert (knock["establishment"].get("otk") is None) == broken
        assert texts(worker, 1) == ["first"]
        one.ask("raw", frames=[json.dumps(knock)])
        one.ask("send", to=did, payloads=["second"])
        events = [event["event"] for event in worker.ask("take", count=2)["events"]]
        assert events == (["knock", "message"] if broken else ["refused", "message"])


def test_both_servers_come_back_on_their_ports_and_have_kept_nothing(
    started: Any, agt_environment: Any, peer: Start
) -> None:
    relay = started.server(agt_environment, "relay")
    registry = started.server(agt_environment, "registry")
    one, one_did = peer(registry=registry.url, relay=relay.url, seed="11" * 32)
    urls = registry.url, relay.url
    relay.stop(kill=True)
    registry.stop()
    [closed] = only(one, "closed", 1)
    assert closed["code"] == 1006
    relay.restart()
    registry.restart()
    assert (registry.url, relay.url) == urls
    found = one.ask("http", method="GET", url=f"{registry.url}/v1/agents/{one_did}")
    assert found["status"] == 404
    assert one.ask("connect") == {"closed": None}


def test_the_relay_refuses_a_connect_that_proves_nothing(mesh: Any, started: Any, agt_environment: Any) -> None:
    wire = started.worker(agt_environment, "agt_wire.py")
    frame = {"v": 1, "type": "connect", "from": "did:mesh:" + "0" * 32}
    for first, code in ((frame, 4005), ({"v": 1, "type": "connect"}, 4002), ({**frame, "type": "message"}, 4001)):
        wire.ask("open", relay=mesh.relay.url)
        wire.ask("raw", frames=[json.dumps(first)])
        [notice, closed] = wire.ask("take", count=2)["events"]
        assert notice["frame"]["type"] == "error"
        assert closed["code"] == code

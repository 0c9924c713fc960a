"""Our agent and AGT's, over AGT's relay and registry. Their side is AGT's own cryptography (agt_peer.py)."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentmesh.errors import (
    DuplicateMessage,
    KnockReplayed,
    MessageEarly,
    SenderMismatch,
)
from agentmesh.events import MessageReceived, SessionRejected
from agentmesh.handshake.prekeys import BundleClass

Starts = Callable[..., Any]
MANNERS = pytest.mark.parametrize("manners", ["kars", "ts"])


def texts(worker: Any, count: int) -> list[str]:
    events = worker.ask("take", count=count, only="message")["events"]
    return [event["text"] for event in events if event["event"] == "message"]


def kinds(worker: Any, count: int, *leaving: str) -> list[str]:
    return [event["event"] for event in worker.ask("take", count=count)["events"] if event["event"] not in leaving]


def numbered(first: int, count: int) -> list[str]:
    return [f"{number} \u00e9\u2603" for number in range(first, first + count)]


def encoded(said: list[str]) -> list[bytes]:
    return [text.encode() for text in said]


# --- conversations ---------------------------------------------------------------------------------------------------


@MANNERS
def test_ours_knocks_and_hundreds_of_messages_take_turns(peer: Starts, ours: Starts, manners: str) -> None:
    theirs, did = peer(manners=manners, echo=True)
    we = ours()
    knock = json.loads(we.knock(did))
    assert knock["establishment"]["otk"] == 0
    said = 0
    for turn in range(60):
        sent = numbered(said, turn % 10)
        we.send(did, *sent)
        assert we.hear_messages(len(sent)) == encoded(sent)
        said += len(sent)
    assert said == 270
    assert texts(theirs, said) == numbered(0, said)
    assert not we.refused


@MANNERS
def test_theirs_knocks_and_hundreds_of_messages_take_turns(peer: Starts, ours: Starts, manners: str) -> None:
    theirs, did = peer(manners=manners)
    we = ours(echo=True)
    said = 0
    for turn in range(60):
        sent = numbered(said, turn % 10)
        if sent:
            theirs.ask("send", to=we.agent.did, payloads=sent)
        assert we.hear_messages(len(sent)) == encoded(sent)
        assert texts(theirs, len(sent)) == sent
        said += len(sent)
    assert said == 270
    [established] = we.established
    assert established.peer.did == did
    assert established.bundle_class is BundleClass.ONE_TIME
    assert json.loads(established.reply.text)["type"] == "knock_accept"
    assert not we.refused


def test_payloads_of_every_form_arrive_as_they_were_sent(peer: Starts, ours: Starts) -> None:
    theirs, did = peer()
    we = ours()
    we.knock(did)
    binary = bytes(range(256))
    forms: list[bytes] = [b"", '\u00e9\u2603\U0001f600\x00"\\'.encode(), binary, b'{"a": 1}', b"\xff"]
    we.send(did, *forms)
    we.out(we.agent.send(did, b'{"a":[1,null,true],"z":1.0}', json=True).text)
    events = theirs.ask("take", count=len(forms) + 2)["events"][1:]
    got = [event["text"].encode() if "text" in event else base64.b64decode(event["b64"]) for event in events[:-1]]
    assert got == forms
    assert events[-1]["json"] == {"a": [1, None, True], "z": 1.0}
    back = ["", '\u00e9\u2603\U0001f600\x00"\\', {"b64": base64.b64encode(binary).decode()}, {"json": {"a": "\u00e9"}}]
    theirs.ask("send", to=we.agent.did, payloads=[*back, {"json": [1.0, None]}, {"json": "string"}])
    expected = [b"", forms[1], binary, '{"a":"\u00e9"}'.encode(), b"[1.0,null]", b"string"]
    assert we.hear_messages(6) == expected


def test_what_is_as_large_as_a_frame_may_be_arrives(peer: Starts, ours: Starts) -> None:
    theirs, did = peer()
    we = ours()
    we.knock(did)
    largest = "x" * 780_000
    we.send(did, largest)
    theirs.ask("take", count=1, only="knock")
    assert texts(theirs, 1) == [largest]
    theirs.ask("send", to=we.agent.did, payloads=[largest])
    assert we.hear_messages(1) == [largest.encode()]


# --- order -----------------------------------------------------------------------------------------------------------


def test_theirs_in_any_order_even_the_knock_last(peer: Starts, ours: Starts) -> None:
    theirs, _ = peer()
    we = ours()
    theirs.ask("send", to=we.agent.did, payloads=numbered(0, 16), hold=True)
    theirs.ask("release", order=[*range(16, 0, -1), 0])
    assert sorted(we.hear(17)) == sorted(encoded(numbered(0, 16)))
    assert we.refused == [MessageEarly] * 16
    theirs.ask("send", to=we.agent.did, payloads=numbered(20, 30), hold=True)
    theirs.ask("release", order=[*range(29, -1, -1)])
    assert we.hear_messages(30) == encoded(numbered(20, 30))[::-1]


@MANNERS
def test_ours_in_any_order_across_turns(peer: Starts, ours: Starts, manners: str) -> None:
    theirs, did = peer(manners=manners)
    we = ours()
    we.knock(did)
    frames = [we.agent.send(did, text.encode()).text for text in numbered(0, 50)]
    we.out(*frames[25:][::-1])
    assert texts(theirs, 25) == numbered(25, 25)[::-1]
    theirs.ask("send", to=we.agent.did, payloads=["a turn"])
    we.hear_messages(1)
    later = [we.agent.send(did, text.encode()).text for text in numbered(50, 10)]
    we.out(*later)
    we.out(*frames[:25])
    assert texts(theirs, 35) == [*numbered(50, 10), *numbered(0, 25)]


def test_lost_messages_stop_nothing(peer: Starts, ours: Starts) -> None:
    theirs, did = peer()
    we = ours()
    we.knock(did)
    frames = [we.agent.send(did, text.encode()).text for text in numbered(0, 101)]
    we.out(frames[100])  # a hundred lost: as many as they can bear
    assert texts(theirs, 1) == numbered(100, 1)
    theirs.ask("send", to=we.agent.did, payloads=numbered(0, 101), hold=True)
    theirs.ask("release", order=[100])
    assert we.hear_messages(1) == encoded(numbered(100, 1))
    we.send(did, "on")
    assert texts(theirs, 1) == ["on"]


# --- absence ---------------------------------------------------------------------------------------------------------


def test_mail_waits_for_them(peer: Starts, ours: Starts) -> None:
    theirs, did = peer()
    we = ours()
    theirs.ask("close")
    we.knock(did)
    we.send(did, *numbered(0, 30))
    we.sync()
    theirs.ask("connect")
    assert texts(theirs, 30) == numbered(0, 30)
    theirs.ask("send", to=we.agent.did, payloads=["back"])
    assert we.hear_messages(1) == [b"back"]


def test_mail_waits_for_us_and_what_was_acknowledged_does_not_come_again(peer: Starts, ours: Starts) -> None:
    theirs, did = peer()
    we = ours()
    we.drop()
    theirs.ask("send", to=we.agent.did, payloads=numbered(0, 30))
    theirs.ask("sync")
    we.connect()
    assert we.hear(31) == encoded(numbered(0, 30))
    we.sync()
    we.drop()
    we.connect()
    assert we.take(0) == []
    we.send(did, "back")
    assert texts(theirs, 1) == ["back"]


def test_what_was_not_acknowledged_comes_again_and_changes_nothing(peer: Starts, ours: Starts) -> None:
    theirs, did = peer()
    we = ours()
    we.drop()
    theirs.ask("send", to=we.agent.did, payloads=numbered(0, 10))
    theirs.ask("sync")
    we.connect()
    assert we.hear(11, ack=False) == encoded(numbered(0, 10))
    we.drop()
    before = we.agent.export_state()
    we.connect()
    assert we.hear(11) == []
    assert we.refused == [KnockReplayed, *[DuplicateMessage] * 10]
    assert we.agent.export_state() == before
    we.send(did, "back")
    assert texts(theirs, 1) == ["back"]


def test_a_conversation_outlives_the_relay_and_the_registry(
    started: Any, agt_environment: Any, peer: Starts, ours: Starts
) -> None:
    servers = {kind: started.server(agt_environment, kind) for kind in ("registry", "relay")}
    urls = {kind: server.url for kind, server in servers.items()}
    theirs, did = peer(**urls)
    we = ours(**urls)
    we.knock(did)
    we.send(did, "before")
    assert texts(theirs, 1) == ["before"]
    for server in servers.values():
        server.stop(kill=True)
    for server in servers.values():
        server.restart()
    we.connect()
    theirs.ask("connect")
    we.send(did, "after")
    assert texts(theirs, 1) == ["after"]
    theirs.ask("send", to=we.agent.did, payloads=["back"])
    assert we.hear_messages(1) == [b"back"]


def test_heartbeats_lost_and_mail_that_a_new_connection_brings(
    started: Any, agt_environment: Any, peer: Starts, ours: Starts, tmp_path: Path, clock: Any
) -> None:
    relay = started.server(agt_environment, "relay", clock=tmp_path / "clock")
    theirs, _ = peer(relay=relay.url)
    we = ours(relay=relay.url, clock=clock)
    theirs.ask("send", to=we.agent.did, payloads=["before"])
    assert we.hear(2) == [b"before"]
    for seconds in (91, 0):
        clock.advance(seconds=seconds)
        relay.advance(seconds)
        theirs.ask("send", to=we.agent.did, payloads=[str(seconds)])
        theirs.ask("sync")
        we.sync()
        assert we.take(0) == []
        assert we.link.has_lapsed
    we.drop()
    we.connect()
    assert we.hear(2) == [b"91", b"0"]
    for _ in range(4):
        clock.advance(seconds=30)
        relay.advance(30)
        heartbeat = we.link.heartbeat()
        assert heartbeat is not None
        we.out(heartbeat.text)
        we.sync()
        theirs.ask("send", to=we.agent.did, payloads=["in time"])
        assert we.hear(1) == [b"in time"]


# --- restarts --------------------------------------------------------------------------------------------------------


@MANNERS
@pytest.mark.parametrize("from_store", [False, True])
def test_ours_is_restarted_in_the_midst_of_it(
    peer: Starts, ours: Starts, manners: str, from_store: bool, tmp_path: Path
) -> None:
    theirs, did = peer(manners=manners)
    we = ours(file=tmp_path / "ours.mesh" if from_store else None)
    we.knock(did)
    said = 0
    for _ in range(6):
        we.drop()
        we.restart()
        sent = numbered(said, 5)
        theirs_sent = [f"theirs {text}" for text in sent]
        if said:
            theirs.ask("send", to=we.agent.did, payloads=theirs_sent)
            theirs.ask("sync")
        we.connect()
        if said:
            assert we.hear_messages(5) == encoded(theirs_sent)
        we.send(did, *sent)
        assert texts(theirs, 5) == sent
        said += 5


def test_a_knock_on_prekeys_from_before_a_restart_is_answered(peer: Starts, ours: Starts) -> None:
    theirs, _ = peer()
    we = ours()
    theirs.ask("send", to=we.agent.did, payloads=["on old keys"], hold=True)
    we.drop()
    we.restart()
    we.connect()
    theirs.ask("release")
    assert we.hear(2) == [b"on old keys"]


def test_what_was_opened_and_not_done_is_in_the_inbox_after_a_restart(
    peer: Starts, ours: Starts, tmp_path: Path
) -> None:
    theirs, did = peer()
    we = ours(file=tmp_path / "ours.mesh")
    theirs.ask("send", to=we.agent.did, payloads=["opened"])
    knock, message = we.take(2)
    we.handle(knock)
    we.agent.receive(json.dumps(message))  # and the process ends, before the application has seen it
    we.drop()
    we.restart()
    waiting = [event for event in we.agent.inbox() if isinstance(event, MessageReceived)]
    assert [event.plaintext for event in waiting] == [b"opened"]
    we.connect()
    we.handle(message)
    assert we.refused == [DuplicateMessage]
    we.send(did, "back")
    assert texts(theirs, 1) == ["back"]


def test_theirs_is_restarted_and_knocks_again(peer: Starts, ours: Starts) -> None:
    theirs, did = peer()
    we = ours()
    we.knock(did)
    we.send(did, "before")
    assert texts(theirs, 1) == ["before"]
    theirs.ask("restart")
    theirs.ask("send", to=we.agent.did, payloads=numbered(0, 3))
    assert we.hear(4) == encoded(numbered(0, 3))
    # From then on we send where we were heard last.
    we.send(did, *numbered(3, 3))
    assert texts(theirs, 3) == numbered(3, 3)


def test_theirs_is_restarted_and_ours_knocks_again(peer: Starts, ours: Starts) -> None:
    theirs, did = peer()
    we = ours()
    we.knock(did)
    we.send(did, "before")
    assert texts(theirs, 1) == ["before"]
    theirs.ask("restart")
    we.send(did, "to a session that is no more")
    assert kinds(theirs, 2) == ["closed", "dropped"]
    we.knock(did)
    we.send(did, "after")
    assert texts(theirs, 1) == ["after"]
    theirs.ask("send", to=we.agent.did, payloads=["back"])
    assert we.hear_messages(1) == [b"back"]


def test_typescript_is_told_by_a_second_knock_and_hears_with_the_third(peer: Starts, ours: Starts) -> None:
    theirs, did = peer(manners="ts")
    we = ours()
    we.knock(did)
    we.send(did, "before")
    assert texts(theirs, 1) == ["before"]
    we.knock(did)  # as one does who has lost all
    we.send(did, "it keeps its old session, and gives it up")
    assert kinds(theirs, 1) == ["undecryptable"]
    we.knock(did)
    we.send(did, "after")
    assert texts(theirs, 1) == ["after"]
    theirs.ask("send", to=we.agent.did, payloads=["back"])
    assert we.hear_messages(1) == [b"back"]


def test_a_refused_knock_ends_its_session(peer: Starts, ours: Starts) -> None:
    theirs, did = peer(manners="ts")
    we = ours()
    fetched = we.fetched(did)
    theirs.ask("restart", one_time=0)  # its old one-time keys are gone
    we.out(we.agent.knock(did, fetched).text)
    we.hear(1)
    [event] = we.events
    assert isinstance(event, SessionRejected)
    assert we.agent.sessions(did) == ()


def test_a_knock_on_a_prekey_that_kars_has_lost_is_met_with_silence_and_the_next_one_is_heard(
    peer: Starts, ours: Starts
) -> None:
    theirs, did = peer()
    we = ours()
    fetched = we.fetched(did)
    theirs.ask("restart", one_time=0)  # its old one-time keys are gone
    we.out(we.agent.knock(did, fetched).text)
    we.send(did, "on a key that is gone")
    assert kinds(theirs, 3) == ["closed", "refused", "dropped"]
    we.sync()
    assert we.take(0) == []
    we.knock(did)
    we.send(did, "after")
    assert texts(theirs, 1) == ["after"]
    theirs.ask("send", to=we.agent.did, payloads=["back"])
    assert we.hear_messages(1) == [b"back"]


# --- what may go wrong -----------------------------------------------------------------------------------------------


def test_a_second_knock_is_a_candidate_until_a_message_opens_under_it(peer: Starts, ours: Starts) -> None:
    theirs, did = peer()
    we = ours()
    theirs.ask("send", to=we.agent.did, payloads=["first"])
    assert we.hear(2) == [b"first"]
    late = theirs.ask("send", to=we.agent.did, payloads=["late"], hold=True)["frames"]
    theirs.ask("release", order=[])
    theirs.ask("knock", to=we.agent.did)
    assert we.hear(1) == []
    assert len(we.established) == 1
    theirs.ask("send", to=we.agent.did, payloads=["second"])
    assert we.hear(1) == [b"second"]
    assert len(we.established) == 2
    we.send(did, "to the new one")
    assert texts(theirs, 1) == ["to the new one"]
    # What the old session had under way still opens.
    theirs.ask("raw", frames=[json.dumps(late[0])])
    assert we.hear(1) == [b"late"]


@pytest.mark.parametrize("one_time", [20, 0])
def test_a_knock_again_resets_nothing(peer: Starts, ours: Starts, one_time: int) -> None:
    theirs, did = peer()
    we = ours(one_time=one_time)
    knock, message = theirs.ask("send", to=we.agent.did, payloads=["first"])["frames"]
    assert (knock["establishment"].get("otk") is None) == (one_time == 0)
    assert we.hear(2) == [b"first"]
    before = we.agent.export_state()
    # As it was, and under another id and time, which nobody authenticates.
    again = {**knock, "id": "another", "ts": "2020-01-01T00:00:00.000Z"}
    theirs.ask("raw", frames=[json.dumps(frame) for frame in (knock, message, again, message)])
    assert we.hear(4) == []
    assert set(we.refused) == {KnockReplayed, DuplicateMessage}
    assert we.agent.export_state() == before
    theirs.ask("send", to=we.agent.did, payloads=["second"])
    assert we.hear(1) == [b"second"]
    we.send(did, "back")
    assert texts(theirs, 1) == ["back"]


def flipped(text: str) -> str:
    data = bytearray(base64.b64decode(text))
    data[len(data) // 2] ^= 1
    return base64.b64encode(bytes(data)).decode()


def test_forged_frames_change_nothing(peer: Starts, ours: Starts) -> None:
    theirs, did = peer()
    we = ours()
    theirs.ask("send", to=we.agent.did, payloads=["first"])
    assert we.hear(2) == [b"first"]
    [genuine] = theirs.ask("send", to=we.agent.did, payloads=["genuine"], hold=True)["frames"]
    theirs.ask("release", order=[])
    forged = []
    for path, change in (
        (("ciphertext",), flipped),
        (("header", "dh"), flipped),
        (("header", "n"), lambda n: n + 1),
        (("header", "n"), lambda n: n + 5000),
        (("header", "pn"), lambda n: n + 1),
        (("ciphertext",), lambda _: ""),
        (("header",), lambda _: None),
        (("from",), lambda _: "did:mesh:" + "0" * 32),
    ):
        frame: Any = copy.deepcopy(genuine)
        inner = frame
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = change(inner[path[-1]])
        forged.append(frame)
    before = we.agent.export_state()
    theirs.ask("raw", frames=[json.dumps(frame) for frame in forged])
    assert we.hear(len(forged)) == []
    assert len(we.refused) == len(forged)
    assert we.agent.export_state() == before
    theirs.ask("raw", frames=[json.dumps(genuine)])
    assert we.hear(1) == [b"genuine"]
    we.send(did, "back")
    assert texts(theirs, 1) == ["back"]


def test_a_knock_with_a_strangers_key_is_refused(peer: Starts, ours: Starts) -> None:
    (theirs, _), (stranger, stranger_did) = peer(), peer()
    we = ours()
    knock, message = stranger.ask("send", to=we.agent.did, payloads=["first"], hold=True)["frames"]
    _, did = peer()
    mixed = {**knock, "from": did}
    before = we.agent.export_state()
    theirs.ask("raw", frames=[json.dumps(mixed)])
    assert we.hear(1) == []
    assert we.refused == [SenderMismatch]
    assert we.agent.export_state() == before
    stranger.ask("release")
    assert we.hear(2) == [b"first"]
    assert message["from"] == stranger_did


def test_both_knock_at_once_and_kars_first_answer_settles_it(peer: Starts, ours: Starts) -> None:
    theirs, did = peer()
    we = ours()
    theirs.ask("send", to=we.agent.did, payloads=["theirs"], hold=True)
    we.knock(did)
    we.send(did, "ours")
    we.sync()
    theirs.ask("release")
    assert we.hear(2) == [b"theirs"]
    assert texts(theirs, 1) == ["ours"]
    # It holds our session alone by now, and says so by its next message.
    theirs.ask("send", to=we.agent.did, payloads=["on ours"])
    assert we.hear(1) == [b"on ours"]
    we.send(did, *numbered(0, 5))
    assert texts(theirs, 5) == numbered(0, 5)


def test_both_knock_at_once_and_typescript_hears_with_the_next_knock(peer: Starts, ours: Starts) -> None:
    theirs, did = peer(manners="ts")
    we = ours()
    theirs.ask("send", to=we.agent.did, payloads=["theirs"], hold=True)
    we.knock(did)
    we.send(did, "it keeps its own session, and gives it up")
    assert kinds(theirs, 1) == ["undecryptable"]
    theirs.ask("release")
    assert we.hear_messages(1) == [b"theirs"]
    we.knock(did)  # as one does who hears nothing more
    we.send(did, "after")
    assert texts(theirs, 1) == ["after"]
    theirs.ask("send", to=we.agent.did, payloads=["back"])
    assert we.hear_messages(1) == [b"back"]


def test_two_of_ours_converse_over_their_mesh(ours: Starts) -> None:
    one, other = ours(), ours(echo=True)
    one.knock(other.agent.did)
    for turn in range(20):
        sent = numbered(turn * 5, 5)
        one.send(other.agent.did, *sent)
        assert other.hear_messages(5) == encoded(sent)
        assert one.hear_messages(5) == encoded(sent)
    assert not one.refused
    assert not other.refused

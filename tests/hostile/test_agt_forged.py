"""Frames of AGT's relay that somebody has altered, in any state of an agent: a refusal, or what the frame says anyway.

Whatever was altered, only errors of ours come out, a refusal leaves the state to the byte, and the genuine messages are
handed up once, before it or after it. And where a hook fails in the middle of a call, the call did nothing.
"""

from __future__ import annotations

import json
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.agt import AgtAgent
from agentmesh.errors import AgentMeshError, MessageEarly, RandomnessFailed
from agentmesh.testing import SeededEntropy

FIELDS = (
    ("v",), ("type",), ("from",), ("to",), ("id",), ("ts",), ("intent",), ("intent", "action"), ("establishment",),
    ("establishment", "ik"), ("establishment", "ek"), ("establishment", "otk"), ("header",), ("header", "dh"),
    ("header", "pn"), ("header", "n"), ("ciphertext",), ("knock_id",), ("reason",), ("more",),
)  # fmt: skip
KINDS = ("knock", "message", "knock_accept", "knock_reject", "ack", "heartbeat", "connect", "error", "x")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def altered(data: st.DataObject, frames: list[Any]) -> Any:
    """One of these frames with one or two fields altered: by anything, or by what another frame has there."""
    frame = json.loads(json.dumps(data.draw(st.sampled_from(frames))))
    for _ in range(data.draw(st.integers(1, 2))):
        *path, name = data.draw(st.sampled_from(FIELDS))
        place = frame
        for step in path:
            place = place.get(step) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            continue
        draw = data.draw(st.integers(0, 4))
        other = data.draw(st.sampled_from(frames))
        for step in path:
            other = other.get(step) or {}
        if draw == 0:
            place.pop(name, None)
        elif draw == 1 and name in other:
            place[name] = other[name]
        elif draw == 2 and isinstance(place.get(name), str) and place[name]:
            at = data.draw(st.integers(0, len(place[name]) - 1))
            place[name] = place[name][:at] + data.draw(st.sampled_from("Az09+/=-_ \n")) + place[name][at + 1 :]
        elif draw == 3:
            numbers = st.sampled_from([0, 1, 99, 100, 101, 1000, 2**31, 2**32 - 1, 2**32, -1, True])
            place[name] = data.draw(st.sampled_from(KINDS) if name == "type" else numbers)
        else:
            place[name] = data.draw(JSON)
    return frame


@given(data=st.data())
def test_altered_frames_do_nothing_or_what_they_say(agt_mesh: ModuleType, data: st.DataObject) -> None:
    scene = agt_mesh.Scene()
    mallory = agt_mesh.Peer(bytes(31) + b"m")
    stage = data.draw(st.integers(0, 4))
    if data.draw(st.booleans()):
        scene.ask()
    handed: list[bytes] = []
    if stage >= 2:
        handed += agt_mesh.said(scene.meet(data="before"))
    if stage >= 3 and not handed:
        handed += agt_mesh.said(scene.bob.accept(scene.bob.pending_knocks()[0]))
    if stage == 4:
        scene.pete.take(scene.bob.send(scene.pete.did, b"turn"))
    own = scene.bob.knock(mallory.did, mallory.bundle())
    genuine = [scene.knock()] if stage < 2 else []
    if stage == 1:
        scene.bob.receive(agt_mesh.text(genuine[0]))
    genuine += [scene.pete.send(scene.bob.did, f"genuine {number}") for number in range(2)]
    around = [
        scene.knock(mallory),
        mallory.send(scene.bob.did, "mallory"),
        mallory.frame("knock_reject", scene.bob.did, knock_id=own.frame_id, reason="policy_denied"),
        mallory.frame("knock_accept", scene.bob.did, knock_id=own.frame_id),
    ]
    forged = [altered(data, genuine[stage == 1 :] + around) for _ in range(3)]
    if stage == 0:  # who alters a KNOCK on its way can as well let it be lost
        forged = [frame for frame in forged if frame.get("type") != "knock"]
    for frame in forged:
        before = agt_mesh.look(scene.bob)
        try:
            handed += agt_mesh.said(scene.bob.receive(agt_mesh.text(frame)))
        except MessageEarly:
            assert agt_mesh.look(scene.bob)[0] == before[0]
        except AgentMeshError:
            assert agt_mesh.look(scene.bob)[0] == before[0]
    for frame in genuine:
        with suppress(AgentMeshError):
            handed += agt_mesh.said(scene.bob.receive(agt_mesh.text(frame)))
    for event in scene.bob.pending_knocks():
        handed += agt_mesh.said(scene.bob.accept(event))
    expected = {b"genuine 0", b"genuine 1"} | ({b"before"} if stage >= 2 else set())
    assert sorted(one for one in handed if one != b"mallory") == sorted(expected)
    assert handed.count(b"mallory") <= 1


class Failing:
    """A source of randomness that fails at one draw."""

    def __init__(self, at: int) -> None:
        self.source, self.at, self.draws = SeededEntropy("failing"), at, 0

    def token(self, size: int, /) -> bytes:
        self.draws += 1
        if self.draws == self.at:
            raise OSError
        return self.source.token(size)

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        raise AssertionError


@pytest.mark.parametrize("what", ["knock", "send", "receive", "turn", "accept", "reject", "publish"])
def test_a_call_without_randomness_did_nothing(agt_mesh: ModuleType, what: str) -> None:
    scene = agt_mesh.Scene()
    scene.meet()
    scene.pete.take(scene.bob.send(scene.pete.did, b"x"))
    frame = agt_mesh.text(scene.pete.send(scene.bob.did, "turn"))
    bundle = scene.pete.bundle()
    if what in ("accept", "reject"):
        scene.ask()
        scene.meet(agt_mesh.Peer(bytes(31) + b"o"))
    if what == "receive":
        scene.bob.receive(agt_mesh.text(scene.knock()))
        frame = agt_mesh.text(scene.pete.send(scene.bob.did, "x"))
    exported = scene.bob.export_state()
    failed = 0
    for at in range(3, 99):  # two draws show that it works
        source = Failing(at)
        bob = AgtAgent.restore(exported, clock=scene.clock, policy=scene.rules, entropy=source)
        calls = {
            "knock": lambda bob=bob: bob.knock(scene.pete.did, bundle),
            "send": lambda bob=bob: bob.send(scene.pete.did, b"x"),
            "receive": lambda bob=bob: bob.receive(frame),
            "turn": lambda bob=bob: bob.receive(frame),
            "accept": lambda bob=bob: bob.accept(bob.pending_knocks()[0]),
            "reject": lambda bob=bob: bob.reject(bob.pending_knocks()[0]),
            "publish": lambda bob=bob: bob.publish_prekeys(3, rotate=True),
        }
        try:
            calls[what]()
        except RandomnessFailed:
            failed += 1
            assert bob.export_state() == exported
            calls[what]()
            continue
        break
    assert failed >= 1

"""Seeded schedules of a mesh of AGT's: nothing is lost that the relay did not lose, and nothing is doubled.

Agents of ours, and one peer that is not, knock, send, go away and come back over a relay that does what AGT's does: it
passes on what is online and forgets it, stores what is offline, pushes it again until it is acknowledged. What is under
way comes in any order. Agents restart from what their journal has, crash behind a commit, and change their prekeys.
"""

from __future__ import annotations

import json
import os
import random
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest

from agentmesh.agt import AgtAgent
from agentmesh.agt.rows import export_agent, rows_of, state_of
from agentmesh.errors import NoSession, RemoteError, TryAgain
from agentmesh.policy import Grant
from agentmesh.testing import ManualClock, SeededEntropy

DEPTH = int(os.environ.get("AGENTMESH_DEPTH") or "1")
SEEDS = 60 * DEPTH
STEPS = 120


class Host:
    """An agent of ours with what drives it: it acknowledges what is done with, and offers again what is not."""

    def __init__(self, mesh: Mesh, name: str) -> None:
        self.mesh, self.name = mesh, name
        self.log = mesh.peers.Log()
        self.entropy = SeededEntropy(f"{name} {mesh.seed}")
        self.agent: Any = AgtAgent.create(
            "mesh",
            clock=mesh.clock,
            entropy=self.entropy,
            policy=mesh.peers.always(Grant()),
            journal=self.log,
            reliable=True,
        )
        self.log.rows = rows_of(self.agent._core.state)
        self.kept: list[str] = []  # refused for now, and not stored by the relay perhaps
        self.handed: list[bytes] = []
        self.publish()

    @property
    def did(self) -> str:
        return str(self.agent.did)

    def publish(self, *, rotate: bool = False) -> None:
        self.mesh.registry.put(self.agent.publish_prekeys(self.mesh.random.choice((0, 2, 5)), rotate=rotate))

    def knock(self, did: str) -> None:
        self.mesh.give(self, self.agent.knock(did, self.mesh.registry.answer(did)))

    def send(self, did: str, data: bytes) -> None:
        self.mesh.give(self, self.agent.send(did, data))

    def take(self, frame: str) -> None:
        try:
            events = self.agent.receive(frame)
        except TryAgain:
            if frame not in self.kept:
                self.kept.append(frame)
            return
        except RemoteError:
            events = ()
        if frame in self.kept:
            self.kept.remove(frame)
        for event in events:
            if event.reply is not None:
                self.mesh.give(self, event.reply)
        self.acknowledge(frame)
        for event in self.agent.inbox():
            if hasattr(event, "plaintext"):
                self.handed.append(event.plaintext)
            self.agent.done(event)

    def acknowledge(self, frame: str) -> None:
        if self.mesh.random.random() < 0.8:  # an acknowledgement is lost too
            self.mesh.relay.give({"type": "ack", "id": json.loads(frame)["id"]}, self.did)

    def crash(self, did: str) -> None:
        """Seal what never leaves; its key is not used again."""
        with suppress(NoSession):
            self.mesh.frames.append(json.loads(bytes(self.agent.send(did, b"sealed and not sent"))))
        self.restart()

    def restart(self) -> None:
        exported = export_agent(state_of(self.log.rows))
        assert exported == self.agent.export_state()
        self.agent = AgtAgent.restore(
            exported,
            clock=self.mesh.clock,
            entropy=self.entropy,
            policy=self.mesh.peers.always(Grant()),
            journal=self.log,
            reliable=True,
        )
        assert self.agent.export_state() == exported


class Foreign:
    """A peer that is not ours. Its sessions are its own, so it keeps all of them, and takes what comes in order."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.name = mesh, "pete"
        self.peer = mesh.peers.Peer(bytes(31) + b"p")
        self.did = self.peer.did
        self.handed: list[bytes] = []
        self.ratchets: dict[str, list[Any]] = {}
        bundle = json.loads(self.peer.bundle())
        one_time = [bundle["one_time_pre_key"]]
        mesh.registry.shelves[self.did] = {**bundle, "one_time_pre_keys": one_time}

    def knock(self, did: str) -> None:
        frame = self.peer.knock(did, self.mesh.registry.answer(did))
        self.ratchets.setdefault(did, []).append(self.peer.sessions[did])
        self.mesh.give(self, frame)

    def send(self, did: str, data: bytes) -> None:
        if did not in self.peer.sessions:
            raise NoSession
        self.mesh.give(self, self.peer.send(did, data.decode()))

    def take(self, frame: str) -> None:
        fields = json.loads(frame)
        sender = fields["from"]
        sends = self.peer.sessions.get(sender)
        if fields["type"] == "knock":
            self.peer.take(frame)
            self.ratchets.setdefault(sender, []).append(self.peer.sessions.pop(sender))
        for ratchet in self.ratchets.get(sender, []) if fields["type"] == "message" else ():
            self.peer.sessions[sender] = ratchet
            try:
                self.handed.append(self.peer.take(frame).encode())
                sends = ratchet
                break
            except self.mesh.peers.Refused:
                pass
        if sends is not None:
            self.peer.sessions[sender] = sends
        else:
            self.peer.sessions.pop(sender, None)
        self.mesh.relay.give({"type": "ack", "id": fields["id"]}, self.did)


class Mesh:
    """Three hosts, what is under way, and what the relay has lost."""

    def __init__(self, seed: int, peers: ModuleType, *, lossy: bool) -> None:
        self.seed, self.random, self.peers, self.lossy = seed, random.Random(seed), peers, lossy
        self.clock = ManualClock()
        self.registry, self.relay = peers.Registry(), peers.Relay()
        self.hosts: list[Any] = [Host(self, "alice"), Host(self, "bob"), Foreign(self)]
        self.sent: dict[bytes, tuple[Any, Any]] = {}
        self.lost: set[str] = set()  # frames
        self.frames: list[dict[str, Any]] = []
        self.data_of: dict[str, bytes] = {}
        self.sending: bytes | None = None
        for host in self.hosts:
            self.relay.connect(host.did)

    def give(self, host: Any, frame: Any) -> None:
        text = self.peers.text(frame)
        fields = json.loads(text)
        self.frames.append(fields)
        if self.sending is not None and fields["type"] == "message":
            self.data_of[fields["id"]] = self.sending
        if self.lossy and fields["type"] == "message" and self.random.random() < 0.05:
            self.lost.add(fields["id"])
            return
        self.relay.give(text, host.did)

    def send(self, host: Any, to: Any, number: int) -> None:
        data = b"%s-%d" % (host.name.encode(), number)
        self.sending = data
        try:
            host.send(to.did, data)
            self.sent[data] = (host, to)
        except NoSession:
            host.knock(to.did)
            host.send(to.did, data)
            self.sent[data] = (host, to)
        finally:
            self.sending = None

    def deliver(self, host: Any) -> None:
        mail = self.relay.mail.get(host.did)
        if not mail:
            return
        reorders = isinstance(host, Host) and self.random.random() < 0.5
        place = self.random.randrange(min(len(mail), 6)) if reorders else 0
        host.take(mail.pop(place))

    def step(self, number: int) -> None:
        host, to = self.random.sample(self.hosts, 2)
        draw = self.random.random()
        if draw < 0.35:
            self.send(host, to, number)
        elif draw < 0.80:
            self.deliver(host)
        elif draw < 0.85:
            self.clock.advance(ms=self.random.randrange(3000))
            if isinstance(host, Host):
                host.agent.poll()
        elif draw < 0.91:
            self.flip(host)
        elif draw < 0.94 and isinstance(host, Host):
            host.restart()
        elif draw < 0.95 and isinstance(host, Host):
            host.crash(to.did)
        elif draw < 0.97 and isinstance(host, Host):
            host.publish()
        elif isinstance(host, Host) and to is not self.hosts[2]:
            self.knock_again(host, to)

    def knock_again(self, host: Any, to: Any) -> None:
        host.knock(to.did)

    def flip(self, host: Any) -> None:
        if host.did in self.relay.mail:
            # What is on the wire has left the relay: it comes, before the connection is seen to be gone.
            for frame in self.relay.disconnect(host.did):
                host.take(frame)
            return
        self.relay.connect(host.did)
        for frame in [*getattr(host, "kept", ())]:
            host.take(frame)

    def settle(self) -> None:
        """All come back, and take what there is until there is no more."""
        for host in self.hosts:
            if host.did not in self.relay.mail:
                self.relay.connect(host.did)
        for _ in range(3):
            while any(self.relay.mail.values()):
                self.clock.advance(ms=200)
                for host in self.hosts:
                    self.deliver(host)
            for host in self.hosts:
                for frame in [*getattr(host, "kept", ())]:
                    self.clock.advance(ms=1000)
                    host.take(frame)

    def check(self) -> None:
        lost = {self.data_of[name] for name in self.lost if name in self.data_of}
        for host in self.hosts:
            assert len(host.handed) == len(set(host.handed)), "handed up twice"
        handed = {data for host in self.hosts for data in host.handed}
        missing = {data for data in self.sent if data not in handed and data not in lost}
        assert not missing, f"lost, and not by the relay: {missing}"
        keys = [(frame["header"]["dh"], frame["header"]["n"]) for frame in self.frames if frame["type"] == "message"]
        assert len(keys) == len(set(keys)), "a key was used twice"
        names = [frame["id"] for frame in self.frames if "id" in frame]
        assert len(names) == len(set(names))


def run(seed: int, peers: ModuleType, *, lossy: bool) -> Mesh:
    mesh = Mesh(seed, peers, lossy=lossy)
    for number in range(STEPS):
        mesh.step(number)
    mesh.settle()
    mesh.check()
    return mesh


@pytest.mark.parametrize("lossy", [False, True])
def test_nothing_is_lost_that_the_relay_did_not_lose_and_nothing_is_doubled(agt_mesh: ModuleType, lossy: bool) -> None:
    sent = 0
    for seed in range(SEEDS):
        try:
            sent += len(run(seed, agt_mesh, lossy=lossy).sent)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert sent > 20 * SEEDS


def test_after_any_schedule_all_can_talk(agt_mesh: ModuleType) -> None:
    for seed in range(SEEDS // 4):
        mesh = run(seed, agt_mesh, lossy=True)
        mesh.lossy = False
        alice, bob, _ = mesh.hosts
        for number in range(6):
            one, other = (alice, bob) if number % 2 else (bob, alice)
            mesh.send(one, other, 1000 + number)
            mesh.settle()
        mesh.check()

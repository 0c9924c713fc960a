"""Write what this version exports and sends, once, so that every later version can be held to open it.

python vectors/history.py           write history/v<version>/; refuse if it is there
python vectors/history.py --force   write it anew: only before that version has been released
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agentmesh import Agent, Conditions, Intent, __version__
from agentmesh.errors import AgentMeshError
from agentmesh.events import KnockReceived, MessageReceived
from agentmesh.testing import ManualClock, Pair, agent_pair, establish, established_pair

Json = dict[str, Any]

HISTORY = Path(__file__).resolve().parent / "history"
LATE_MS = 1000


def take_step(agent: Agent, clock: ManualClock, step: Json) -> Json:
    """Take one step of a file's `steps`, and return what must be equal: events, plaintext, error."""
    clock.now_ms = step["now_ms"]
    try:
        if step["do"] == "accept":
            [waiting] = agent.pending_knocks()
            early_payload = agent.accept(waiting).early_payload
            return {"early_payload": None if early_payload is None else early_payload.hex()}
        if step["do"] == "send":
            agent.send(step["peer"], b"from a restored agent")
            return {}
        events = agent.poll() if step["do"] == "poll" else agent.receive(bytes.fromhex(step["envelope"]))
    except AgentMeshError as error:
        return {"error": error.code}
    opened = [event.plaintext.hex() for event in events if isinstance(event, MessageReceived)]
    return {"events": [type(event).__name__ for event in events], **({"plaintext": opened[0]} if opened else {})}


def phases_of(agent: Agent, peers: list[str]) -> dict[str, str]:
    """Return the phases of an agent's sessions with these peers, by session id."""
    return {view.session_id.hex(): str(view.status.phase) for peer in peers for view in agent.sessions(peer)}


def _file(name: str, comment: str, agent: Agent, pair: Pair, *steps: Json) -> tuple[str, Json]:
    peer = pair.bob if agent is pair.alice else pair.alice
    state, now_ms = agent.export_state(), pair.clock.now_ms
    clock = ManualClock(now_ms)
    restored = Agent.restore(state, clock=clock)
    phases = phases_of(restored, [peer.did])
    taken = []
    for step in steps:
        step = {"now_ms": now_ms + LATE_MS, **step}
        taken.append({**step, **take_step(restored, clock, step)})
    return name, {
        "version": __version__,
        "name": name,
        "comment": comment,
        "now_ms": now_ms,
        "peers": [peer.did],
        "phases": phases,
        "state": state.hex(),
        "steps": taken,
    }


# --- what an agent makes, as bytes -----------------------------------------------------------------------------------


def _knock(pair: Pair, bundle: bytes | None = None, **fields: Any) -> bytes:
    """Have Alice knock at Bob, on a fresh bundle of his unless another is given."""
    bundle = pair.bob.publish_bundles(1).one_time[0] if bundle is None else bundle
    return pair.alice.knock(pair.bob.did, bundle, Intent("test"), **fields).envelope


def _knock_at(responder: Agent, initiator: Agent, early_payload: bytes) -> bytes:
    bundle = responder.publish_bundles(1).one_time[0]
    return initiator.knock(responder.did, bundle, Intent("test"), early_payload=early_payload).envelope


def _send(agent: Agent, peer: Agent, plaintext: bytes, **fields: Any) -> bytes:
    return agent.send(peer.did, plaintext, **fields).envelope


def _close(agent: Agent, peer: Agent) -> bytes:
    return agent.close(peer.did, "done").envelope


# --- the files -------------------------------------------------------------------------------------------------------


def _receive(envelope: bytes) -> Json:
    return {"do": "receive", "envelope": envelope.hex()}


def _fresh() -> tuple[str, Json]:
    pair = agent_pair(1)
    shelf = pair.bob.publish_bundles(3)
    knock = _knock(pair, shelf.one_time[1], early_payload=b"early")
    pair.clock.advance(seconds=1)
    other = _knock(pair, shelf.last_resort)
    return _file(
        "fresh", "bundles are published and nothing was received", pair.bob, pair,
        _receive(knock), {"do": "accept"}, _receive(other), _receive(knock),
    )  # fmt: skip


def _pending() -> tuple[str, Json]:
    pair = agent_pair(2)
    knock = _knock(pair, early_payload=b"e")
    [event] = pair.bob.receive(knock)
    if not isinstance(event, KnockReceived):
        raise TypeError("the application is asked")
    accepted = pair.bob.accept(event, Conditions(max_messages=9, ttl_seconds=3600)).envelope
    message = _send(pair.bob, pair.alice, b"behind the ACCEPT")
    return _file(
        "pending", "a KNOCK waits for its verdict", pair.alice, pair,
        _receive(message), _receive(accepted), _receive(message), {"do": "send", "peer": pair.bob.did},
    )  # fmt: skip


def _undecided() -> tuple[str, Json]:
    pair = agent_pair(3)
    knock = _knock(pair, early_payload=b"e")
    pair.bob.receive(knock)
    return _file(
        "undecided", "a KNOCK waits for the application, with an early payload", pair.bob, pair,
        _receive(knock), {"do": "accept"}, _receive(knock), {"do": "send", "peer": pair.alice.did},
    )  # fmt: skip


def _rejected() -> tuple[str, Json]:
    pair = agent_pair(4)
    knock = _knock(pair)
    [event] = pair.bob.receive(knock)
    if not isinstance(event, KnockReceived):
        raise TypeError("the application is asked")
    pair.bob.reject(event)
    return _file("rejected", "a KNOCK was rejected; its answer is kept", pair.bob, pair, _receive(knock))


def _conversing() -> Iterator[tuple[str, Json]]:
    for name, subject in (("initiator", "alice"), ("responder", "bob")):
        pair = established_pair(5, conditions=Conditions(allowed_actions=("test", "other")), early_payload=b"early")
        own, peer = (pair.alice, pair.bob) if subject == "alice" else (pair.bob, pair.alice)
        for turn in range(7):
            peer.receive(_send(own, peer, b"own %d" % turn))
            late = _send(peer, own, b"late %d" % turn)
            own.receive(_send(peer, own, b"on time %d" % turn, action="other"))
        skipped = _send(peer, own, b"skipped")
        own.receive(_send(peer, own, b"not skipped"))
        coming = _send(peer, own, b"coming")
        yield _file(
            f"established-{name}", "in the middle of a conversation: kept keys in several chains", own, pair,
            _receive(late), _receive(skipped), _receive(coming), _receive(coming),
            {"do": "send", "peer": peer.did},
        )  # fmt: skip


def _closing() -> Iterator[tuple[str, Json]]:
    pair = established_pair(6)
    crossing = _send(pair.bob, pair.alice, b"crossing")
    closed = _close(pair.alice, pair.bob)
    [event, *_] = pair.bob.receive(closed)
    yield _file(
        "closing-own", "it has closed, and the peer has not answered", pair.alice, pair,
        _receive(crossing), _receive(event.reply.envelope), _receive(crossing),
    )  # fmt: skip
    pair = established_pair(7)
    late = [_send(pair.bob, pair.alice, b"late %d" % number) for number in range(2)]
    pair.alice.receive(_close(pair.bob, pair.alice))
    yield _file(
        "closing-peer", "the peer has closed, and two messages that it announced are missing", pair.alice, pair,
        _receive(late[1]), _receive(late[0]),
    )  # fmt: skip
    pair = established_pair(8)
    _send(pair.bob, pair.alice, b"never comes")
    pair.alice.receive(_close(pair.bob, pair.alice))
    later = {"now_ms": pair.clock.now_ms + 600_001}
    yield _file("truncated", "600 s later it is truncated", pair.alice, pair, {"do": "poll", **later})


def _ended() -> tuple[str, Json]:
    pair = established_pair(9)
    message = _send(pair.bob, pair.alice, b"opened")
    pair.alice.receive(message)
    [event, *_] = pair.bob.receive(_close(pair.alice, pair.bob))
    pair.alice.receive(event.reply)
    return _file("ended", "the session is closed", pair.alice, pair, _receive(message))


def _superseded() -> tuple[str, Json]:
    pair = established_pair(10)
    old = _send(pair.alice, pair.bob, b"on the old session")
    lost = Agent.create(pair.alice.mesh, identity=agent_pair(10).alice._core.state.identity, clock=pair.clock)
    pair.clock.advance(seconds=1)
    establish(lost, pair.bob)
    new = _send(lost, pair.bob, b"on the new session")
    return _file(
        "superseded", "the peer lost its state and knocked anew: two sessions, one of which sends", pair.bob, pair,
        _receive(old), _receive(new), {"do": "send", "peer": pair.alice.did},
    )  # fmt: skip


def _reliable() -> tuple[str, Json]:
    pair = established_pair(11, reliable=True, acknowledge=True, in_order=True, early_payload=b"early")
    messages = [_send(pair.bob, pair.alice, b"message %d" % number) for number in range(4)]
    for late in (messages[0], messages[3], messages[2]):
        pair.alice.receive(late)
    _send(pair.alice, pair.bob, b"waits", label=b"mine")
    pair.alice.receive(_knock_at(pair.alice, pair.bob, b"also"))
    return _file(
        "reliable", "envelopes wait in its outbox, events in its inbox, two of which came early and are held",
        pair.alice, pair, _receive(messages[3]), _receive(messages[1]), {"do": "send", "peer": pair.bob.did},
        {"do": "accept"},
    )  # fmt: skip


SINGLE: tuple[Callable[[], tuple[str, Json]], ...] = (
    _fresh, _pending, _undecided, _rejected, _ended, _superseded, _reliable,
)  # fmt: skip


def main() -> int:
    """Write the folder of this version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--force", action="store_true", help="write it anew, though it is there")
    arguments = parser.parse_args()
    folder = HISTORY / f"v{__version__}"
    if folder.exists() and not arguments.force:
        print(f"{folder} is there: what a version wrote is never written again", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.json"):
        stale.unlink()
    for name, content in [*(make() for make in SINGLE), *_conversing(), *_closing()]:
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="ascii")
        print(name, content["phases"], [step.get("events", step.get("error")) for step in content["steps"]])
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Write an agent of AGT's mesh as this version keeps it, once, so that every later version can be held to open it.

python vectors/history_agt.py           write history/v<version>/agt/; refuse if it is there
python vectors/history_agt.py --force   write it anew: only before that version has been released
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from agentmesh import MessageReceived, __version__
from agentmesh.agt import AgtAgent, HttpRequest
from agentmesh.store import SQLiteStore
from agentmesh.testing import ManualClock

HISTORY = Path(__file__).resolve().parent / "history"
KEY = bytes(range(32))
MESH = "example/history"
LATE_MS = 1000


def fetched(request: HttpRequest) -> bytes:
    """Return what a registry gives of these prekeys to the first that asks."""
    shelf = json.loads(request.body)
    one_time = shelf.pop("one_time_pre_keys")
    return json.dumps({**shelf, "one_time_pre_key": one_time[0]}).encode()


def told(agent: AgtAgent, peers: list[str]) -> dict[str, Any]:
    """Return what must be equal of an agent that was restored or opened."""
    return {
        "did": agent.did,
        "generation": agent.generation,
        "inbox": [
            [type(event).__name__, event.plaintext.hex() if isinstance(event, MessageReceived) else None]
            for event in agent.inbox()
        ],
        "waiting": [asked.peer.did for asked in agent.pending_knocks()],
        "sessions": [
            [view.session_id.hex(), str(view.status.phase), view.status.data_sent, view.status.data_opened]
            for peer in peers
            for view in agent.sessions(peer)
        ],
    }


def write(folder: Path) -> None:
    """Write an agent with a session, a kept key, an inbox, prekeys of two ages and two KNOCKs, one of them proved."""
    clock = ManualClock()
    with SQLiteStore(folder / "agt.mesh", key=KEY) as store:
        bob = store.open_agt_agent(MESH, clock=clock)
        first = fetched(bob.publish_prekeys(3))
        second = fetched(bob.publish_prekeys(2, rotate=True))
        alice, carol, dave = (AgtAgent.create(MESH, clock=clock) for _ in range(3))
        for peer, bundle in ((alice, first), (carol, second)):
            bob.receive(peer.knock(bob.did, bundle).text)
            [asked] = bob.receive(peer.send(bob.did, b"may I?").text)
            if peer is alice:
                bob.accept(asked)  # type: ignore[arg-type]
        third = json.loads(second)
        knock = dave.knock(bob.did, json.dumps({**third, "one_time_pre_key": None}).encode())
        bob.receive(knock.text)
        proof = dave.send(bob.did, b"comes when it is restored")
        answer = alice.receive(bob.send(alice.did, b"yes").text)
        assert isinstance(answer[0], MessageReceived)
        early, late = alice.send(bob.did, b"comes late"), alice.send(bob.did, b"comes first")
        bob.receive(late.text)
        peers = [alice.did, carol.did, dave.did]
        content = {
            "version": __version__,
            "comment": "An agent of AGT's mesh: its export, and the store beside it, under a key.",
            "key": KEY.hex(),
            "mesh": MESH,
            "now_ms": clock.now_ms + LATE_MS,
            "peers": peers,
            "agent": told(bob, peers),
            "state": bob.export_state().hex(),
            "late": {"frame": early.text, "plaintext": b"comes late".hex()},
            "proof": proof.text,
        }
    (folder / "agt.expected").write_text(json.dumps(content, indent=1) + "\n", "ascii")
    for lock in folder.glob("*.lock"):
        lock.unlink()


def main() -> int:
    """Write the folder of this version."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--force", action="store_true")
    options = parser.parse_args()
    folder = HISTORY / f"v{__version__}" / "agt"
    if folder.exists():
        if not options.force:
            sys.exit(f"{folder} is there: what a version has written stays as it is")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

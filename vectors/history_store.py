"""Write a store of this version, once, so that every later version can be held to open it.

python vectors/history_store.py           write history/v<version>/store/; refuse if it is there
python vectors/history_store.py --force   write it anew: only before that version has been released
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from agentmesh import Agent, Intent, MessageReceived, __version__
from agentmesh.store import SQLiteStore, Store
from agentmesh.testing import ManualClock

HISTORY = Path(__file__).resolve().parent / "history"
KEY = bytes(range(32))
PASSPHRASE = "correct horse battery staple"  # noqa: S105 - it is here to be known
MESH = "example/history"
LATE_MS = 1000


def told(store: Store, agent: Agent) -> dict[str, Any]:
    """Return what must be equal of an agent that was opened."""
    log = store.log()
    return {
        "did": agent.did,
        "generation": agent.generation,
        "outbox": [[int(one.purpose), one.number, one.label.hex(), one.envelope.hex()] for one in agent.outbox()],
        "inbox": [
            [type(event).__name__, event.plaintext.hex() if isinstance(event, MessageReceived) else None]
            for event in agent.inbox()
        ],
        "log": [len(log), log.root().hex()],
    }


def write(folder: Path) -> None:
    """Write one store with an agent, its log, a kept key and both boxes, and one under a passphrase."""
    clock = ManualClock()
    path = folder / "agents.mesh"
    bob = Agent.create(MESH, clock=clock)
    with SQLiteStore(path, key=KEY) as store:
        alice = store.open_agent(MESH, clock=clock, keep_log=True)
        alice.publish_bundles(2)
        bundle = bob.publish_bundles(1).one_time[0]
        [asked] = bob.receive(alice.knock(bob.did, bundle, Intent("history")).envelope)
        alice.receive(bob.accept(asked).envelope)  # type: ignore[arg-type]
        bob.receive(alice.send(bob.did, b"arrived").envelope)
        alice.send(bob.did, b"waits", label=b"row 7")
        early, late = bob.send(alice.did, b"comes late"), bob.send(alice.did, b"comes first")
        alice.receive(late.envelope)
        found = told(store, alice)
    with SQLiteStore(folder / "passphrase.mesh", key=PASSPHRASE) as store:
        store.open_agent(MESH, clock=clock)
    content = {
        "version": __version__,
        "comment": "A store with an agent, its log and boxes, under a key; another under a passphrase.",
        "key": KEY.hex(),
        "passphrase": PASSPHRASE,
        "mesh": MESH,
        "now_ms": clock.now_ms + LATE_MS,
        "peer": bob.did,
        "agent": found,
        "late": {"envelope": early.envelope.hex(), "plaintext": b"comes late".hex()},
    }
    (folder / "agents.expected").write_text(json.dumps(content, indent=1) + "\n", "ascii")
    for lock in folder.glob("*.lock"):
        lock.unlink()


def main() -> int:
    """Write the folder of this version."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--force", action="store_true")
    options = parser.parse_args()
    folder = HISTORY / f"v{__version__}" / "store"
    if folder.exists():
        if not options.force:
            print(f"{folder} is there", file=sys.stderr)
            return 1
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

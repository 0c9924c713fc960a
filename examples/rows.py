"""What the examples over brokers run: one agent writes rows, another reads each of them exactly once.

Both have a store, so either may be killed and started again at any moment, and the broker too. The reader prints a line
of JSON when it can be reached, and one for each row; the writer one when all of its rows have arrived.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from agentmesh import Agent, AgentMeshError, Intent, events
from agentmesh.courier import Courier, Pauses, Transport
from agentmesh.errors import NoBundle, TransportFailed
from agentmesh.store import SQLiteStore

MESH: Final = "example/rows"


class Failed(Exception):
    """It cannot go on; the text says why."""


class Table:
    """The application's own memory: what it has read, or what has arrived, by the receipt of its envelope."""

    def __init__(self, path: str) -> None:
        self._file = sqlite3.connect(path, isolation_level=None)  # each statement is a commit
        self._file.execute("CREATE TABLE IF NOT EXISTS done (receipt BLOB PRIMARY KEY, row TEXT NOT NULL)")

    def write(self, receipt: bytes, row: str) -> bool:
        """Keep a row, and say whether it is new: an event that was not `done` before a kill is told again."""
        return self._file.execute("INSERT OR IGNORE INTO done VALUES (?, ?)", (receipt, row)).rowcount == 1

    def rows(self) -> list[str]:
        """Return all rows."""
        return [row for (row,) in self._file.execute("SELECT row FROM done")]


async def read(courier: Courier, table: Table) -> None:
    """Accept whoever knocks, and keep what they send, until it is told to stop."""
    async for event in courier.events():
        if isinstance(event, events.KnockReceived):
            await courier.accept(event)  # a policy says more: see docs/how-to/policy.md
        elif isinstance(event, events.MessageReceived):
            row = event.plaintext.decode("ascii", "backslashreplace")
            if table.write(event.receipt, row):  # first written down, then done
                tell("row", row=row)
        await courier.done(event)


async def write(courier: Courier, table: Table, peer: str, count: int) -> None:
    """Send rows to a peer; return once all of them have arrived, whatever happened in between."""
    agent = courier.agent
    # What left before a kill waits in the outbox, has arrived, or is told of in the inbox. The courier has not begun.
    known = {waiting.label for waiting in agent.outbox()} | {row.encode() for row in table.rows()}
    for event in agent.inbox():
        known |= {message.label for message in event.messages} if isinstance(event, events.Delivered) else set()

    async def send() -> None:
        for number in range(count):
            if (row := b"row %d" % number) not in known:
                await courier.send(peer, row, label=row)
                known.add(row)

    async with courier:
        if not agent.sessions(peer):
            await knock(courier, peer)
        elif agent.session(peer).status.sends:
            await send()
        async for event in courier.events():
            if isinstance(event, events.SessionEstablished):
                await send()
            elif isinstance(event, events.Delivered):
                for message in event.messages:
                    table.write(message.receipt, message.label.decode())
            elif isinstance(event, events.SessionRejected | events.SessionOver | events.Undelivered):
                raise Failed(f"the session has ended: {type(event).__name__}")
            await courier.done(event)
            if len(table.rows()) >= count:
                tell("arrived", count=count)
                return


async def knock(courier: Courier, peer: str) -> None:
    """Knock, as soon as there is a broker, and the peer has left bundles."""
    pauses = Pauses(longest_ms=2000)
    while True:
        try:
            await courier.knock(peer, Intent("rows"))
        except (NoBundle, TransportFailed) as error:
            note(error)
            await asyncio.sleep(pauses.next_seconds())
        else:
            return


def tell(event: str, **facts: Any) -> None:
    """Tell whoever started it."""
    print(json.dumps({"event": event, **facts}), flush=True)


def note(error: object, _envelope: bytes | None = None) -> None:
    """Tell a person, and what was the cause."""
    cause = error.__cause__ if isinstance(error, BaseException) else None
    print(error, *([] if cause is None else [repr(cause)]), file=sys.stderr, flush=True)


async def run(agent: Agent, transport: Transport, options: argparse.Namespace) -> None:
    """Be the reader, or the writer where there is a peer."""
    courier = Courier(agent, transport, notice=note, one_time=0 if options.peer else 20)
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # on Windows
            asyncio.get_running_loop().add_signal_handler(number, courier.stop)
    table = Table(options.table)
    if options.peer:
        await write(courier, table, options.peer, options.count)
        return
    async with courier:
        tell("ready", did=agent.did)
        await read(courier, table)


def main(transport_of: Callable[[str, str], Transport]) -> int:
    """Run one of the two over a broker; `transport_of` makes a transport from its URL and this agent's DID."""
    parser = argparse.ArgumentParser(description="Rows from one agent to another.", allow_abbrev=False)
    parser.add_argument("broker", metavar="URL", help="where the broker listens")
    parser.add_argument("--store", metavar="FILE", required=True, help="where the agent is kept")
    parser.add_argument("--key-file", metavar="FILE", required=True, help="the key of the store: a file of 32 bytes")
    parser.add_argument("--table", metavar="FILE", required=True, help="where the rows are kept")
    parser.add_argument("--peer", metavar="DID", help="whom to send rows to; without it, this is the reader")
    parser.add_argument("--count", type=int, metavar="N", default=10, help="how many")
    options = parser.parse_args()
    try:
        with SQLiteStore(options.store, key=Path(options.key_file).read_bytes()) as store:
            agent = store.open_agent(MESH)
            asyncio.run(run(agent, transport_of(options.broker, agent.did), options))
    except (Failed, AgentMeshError, OSError) as error:
        note(error)
        return 1
    return 0

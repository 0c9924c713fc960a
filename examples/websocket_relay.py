"""A plain relay over WebSocket: it keeps envelopes and bundles in memory, and knows nothing of what they are.

It needs `websockets`: `pip install 'agentmesh-e2ee[examples]'`. `python examples/websocket_relay.py 8765` serves the
agents of examples/websocket_agent.py. Whoever connects says who it is: docs/how-to/websocket.md says what to add.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from contextlib import suppress
from itertools import count
from typing import Any, Final

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

FRAME_MAX_BYTES: Final = 4 << 20
KEPT_MAX: Final = 10_000  # of one agent


class Relay:
    """Queues and a shelf, of any number of agents."""

    def __init__(self) -> None:
        self._queues: dict[str, dict[int, str]] = defaultdict(dict)
        self._bundles: dict[str, list[str]] = defaultdict(list)
        self._last_resort: dict[str, str] = {}
        self._numbers = count()
        self._connected: dict[str, ServerConnection] = {}

    async def serve(self, socket: ServerConnection) -> None:
        """Serve a connection: first what waits for its agent, then what it asks."""
        did = socket.request.path.lstrip("/") if socket.request is not None else ""
        self._connected[did] = socket
        try:
            for number, envelope in list(self._queues[did].items()):
                await socket.send(json.dumps({"number": number, "envelope": envelope}))
            async for frame in socket:
                asked = json.loads(frame)
                answer = {"answer": asked.get("n"), "bundle": None, "ok": False}
                await self._do(did, asked, answer)
                await socket.send(json.dumps(answer))
        except (ConnectionClosed, ValueError, LookupError, TypeError, AttributeError):
            pass  # no frame of this relay's: the connection ends
        finally:
            if self._connected.get(did) is socket:
                del self._connected[did]

    async def _do(self, did: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
        if asked["do"] == "publish" and len(self._queues[asked["to"]]) < KEPT_MAX:
            number, answer["ok"] = next(self._numbers), True
            self._queues[asked["to"]][number] = asked["envelope"]
            if (recipient := self._connected.get(asked["to"])) is not None:
                with suppress(ConnectionClosed):  # it comes again over the next connection
                    await recipient.send(json.dumps({"number": number, "envelope": asked["envelope"]}))
        elif asked["do"] == "acknowledge":
            answer["ok"] = self._queues[did].pop(asked["number"], None) is not None
        elif asked["do"] == "put":
            new = [one for one in asked["one_time"] if one not in self._bundles[did]]
            self._bundles[did], answer["ok"] = [*self._bundles[did], *new][:KEPT_MAX], True
            self._last_resort[did] = asked["last_resort"] or self._last_resort.get(did, "")
        elif asked["do"] == "take":
            bundles = self._bundles[asked["did"]]
            answer["bundle"], answer["ok"] = bundles.pop(0) if bundles else self._last_resort.get(asked["did"]), True


async def main(port: int) -> None:
    """Serve on loopback."""
    async with serve(Relay().serve, "127.0.0.1", port, max_size=FRAME_MAX_BYTES):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

"""A plain relay over WebSocket: it keeps envelopes and bundles in memory, and knows nothing of what they are.

It needs `websockets`: `pip install '.[examples]'`. `python examples/websocket_relay.py 8765` serves the
agents of examples/websocket_agent.py. Whoever connects says who it is: docs/how-to/websocket.md says what to add.
"""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64decode
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
        self._come: dict[str, asyncio.Event] = {}  # of who is connected: there is more

    async def serve(self, socket: ServerConnection) -> None:
        """Serve a connection: first what waits for its agent, then what it asks."""
        did = socket.request.path.lstrip("/") if socket.request is not None else ""
        come = self._come[did] = asyncio.Event()
        handing = asyncio.create_task(self._hand(did, socket, come))
        try:
            async for frame in socket:
                asked = json.loads(frame)
                answer = {"answer": asked.get("n"), "bundle": None, "ok": False}
                self._do(did, asked, answer)
                await socket.send(json.dumps(answer))
        except (ConnectionClosed, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass  # no frame of this relay's: the connection ends
        finally:
            handing.cancel()
            if self._come.get(did) is come:
                del self._come[did]

    async def _hand(self, did: str, socket: ServerConnection, come: asyncio.Event) -> None:
        """Hand over what waits for an agent, then what comes. Who does not read it holds up nobody else."""
        handed = -1
        with suppress(ConnectionClosed):  # it comes again over the next connection
            while True:
                come.clear()
                for number, envelope in list(self._queues[did].items()):
                    if number > handed:
                        await socket.send(json.dumps({"number": number, "envelope": envelope}))
                        handed = number
                await come.wait()

    def _do(self, did: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
        if asked["do"] == "publish" and len(self._queues[asked["to"]]) < KEPT_MAX:
            b64decode(asked["envelope"], validate=True)  # rubbish ends the connection of its sender, and no other
            self._queues[asked["to"]][next(self._numbers)], answer["ok"] = asked["envelope"], True
            if (come := self._come.get(asked["to"])) is not None:
                come.set()
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

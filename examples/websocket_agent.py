r"""An agent over the relay of examples/websocket_relay.py.

It needs `websockets` beside this project: `pip install '.[examples]'`. With the relay in a third shell:

    python examples/websocket_agent.py ws://127.0.0.1:8765 --store bob.mesh --key-file key --table bob.rows
    python examples/websocket_agent.py ws://127.0.0.1:8765 --store alice.mesh --key-file key --table alice.rows \
        --peer did:agentmesh:...

docs/how-to/websocket.md says why it is as it is.
"""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Sequence
from functools import partial
from itertools import count
from typing import Any, Final

from rows import main
from websockets.asyncio.client import ClientConnection, connect

from agentmesh.courier import Acknowledge

FRAME_MAX_BYTES: Final = 4 << 20


class WebSocketTransport:
    """One agent's connection to the relay. Questions and answers go over it, and what comes for the agent."""

    def __init__(self, url: str, did: str) -> None:
        self._url = f"{url}/{did}"
        self._socket: ClientConnection | None = None
        self._listening: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._come: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()  # no more than the relay keeps
        self._is_read = False  # what this connection brought

    async def _connected(self) -> ClientConnection:
        async with self._lock:
            if self._socket is None:
                self._socket = await connect(self._url, max_size=FRAME_MAX_BYTES, proxy=None, open_timeout=5)
                self._come, self._is_read = asyncio.Queue(), False
                self._listening = asyncio.create_task(self._listen(self._socket, self._come))
            return self._socket

    async def _listen(self, socket: ClientConnection, come: asyncio.Queue[tuple[int, bytes] | None]) -> None:
        try:
            async for frame in socket:
                said = json.loads(frame)
                if "answer" not in said:
                    come.put_nowait((said["number"], _decoded(said["envelope"])))
                elif not (asked := self._asked.pop(said["answer"], asyncio.Future())).done():
                    asked.set_result(said)
        except (ValueError, LookupError, TypeError):
            pass  # no frame of the relay's: a new connection begins
        finally:
            self._socket = None
            come.put_nowait(None)
            for waiting in self._asked.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionError("the connection ended before there was an answer"))
                    waiting.exception()  # so that nothing is logged where whoever asked has failed to send
            self._asked.clear()
            await socket.close()

    async def _ask(self, do: str, **what: Any) -> dict[str, Any]:
        socket, number = await self._connected(), next(self._numbers)
        answered = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            await socket.send(json.dumps({"n": number, "do": do, **what}))
            answer: dict[str, Any] = await answered
            return answer
        finally:
            self._asked.pop(number, None)

    async def close(self) -> None:
        """End the connection, if there is one."""
        if self._socket is not None and self._listening is not None:
            await self._socket.close()
            await self._listening

    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        """Hand an envelope to the relay."""
        if not (await self._ask("publish", to=recipient, envelope=b64encode(envelope).decode()))["ok"]:
            raise ConnectionError("the relay keeps no more for this agent")

    async def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        """Yield what comes, until the connection ends. Each begins one, which brings all that was not acknowledged."""
        if self._is_read:
            await self.close()
        await self._connected()
        self._is_read, come = True, self._come
        while (one := await come.get()) is not None:
            number, envelope = one
            yield envelope, partial(self._ask, "acknowledge", number=number)

    async def put_bundles(self, _did: str, one_time: Sequence[bytes], last_resort: bytes | None, /) -> None:
        """Put bundles on the relay's shelf: those of the agent whose connection it is."""
        last = None if last_resort is None else b64encode(last_resort).decode()
        await self._ask("put", one_time=[b64encode(one).decode() for one in one_time], last_resort=last)

    async def take_bundle(self, did: str, /) -> bytes | None:
        """Take a bundle from the relay's shelf."""
        taken = (await self._ask("take", did=did))["bundle"]
        return b64decode(taken) if taken else None


def _decoded(envelope: str) -> bytes:
    """Return the bytes; none of what is no base64, so that it is refused and acknowledged, and not in the way."""
    try:
        return b64decode(envelope)
    except (ValueError, TypeError):
        return b""


if __name__ == "__main__":
    sys.exit(main(WebSocketTransport))

"""Run by AGT's environment: moves frames and HTTP requests for whoever asks, and reads none of them.

JSON lines in, JSON lines out, one answer to each request. Nothing of this project is imported here.

    {"do": "open", "relay": URL}                     -> {}
    {"do": "raw", "frames": [text, ...]}             -> {}: sends them as they are
    {"do": "sync"}                                   -> {"closed": null}: the relay has handled all that was sent before
    {"do": "take", "count": 3, "seconds": 10}        -> {"events": [...]}: waits until there are so many, then takes all
    {"do": "close"} or {"do": "drop"}                -> {}: with a farewell, or as a cable that is cut
    {"do": "http", "method", "url", "headers", "body"} -> {"status": 200, "body": text}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Any

import httpx
import websockets

# kars' client reads no more; a larger frame ends its connection.
FRAME_MAX_BYTES = 1 << 20
# The relay answers a type that it does not know, after it has handled all frames before: AGT's TypeScript client sends
# this one at each start.
PROBE = {"v": 1, "type": "fetch_pending"}


class Wire:
    """One connection to a relay, and what has come over it."""

    def __init__(self) -> None:
        self._socket: Any = None
        self._reading: asyncio.Task[None] | None = None
        self._probe: asyncio.Future[int | None] | None = None
        self._events: list[dict[str, Any]] = []
        self._happened = asyncio.Event()
        self._web = httpx.AsyncClient(timeout=20)

    def happened(self, event: str, **facts: Any) -> None:
        self._events.append({"event": event, **facts})
        self._happened.set()

    async def on_frame(self, frame: dict[str, Any]) -> None:
        """Take a frame that has come."""
        self.happened("frame", frame=frame)

    async def send(self, frame: dict[str, Any]) -> None:
        await self._socket.send(json.dumps(frame))

    async def do_open(self, relay: str) -> None:
        self._socket = await websockets.connect(relay, max_size=FRAME_MAX_BYTES, ping_interval=None)
        self._reading = asyncio.create_task(self._read(self._socket))

    async def _read(self, socket: Any) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            async for text in socket:
                frame = json.loads(text)
                probed = frame.get("type") == "error" and "fetch_pending" in frame.get("detail", "")
                if probed and self._probe is not None and not self._probe.done():
                    self._probe.set_result(None)
                else:
                    await self.on_frame(frame)
        code = socket.close_code
        self.happened("closed", code=code, reason=socket.close_reason)
        if self._probe is not None and not self._probe.done():
            self._probe.set_result(code)

    async def do_raw(self, frames: list[str]) -> None:
        for text in frames:
            await self._socket.send(text)

    async def do_sync(self) -> dict[str, Any]:
        self._probe = asyncio.get_running_loop().create_future()
        try:
            await self.send(PROBE)
        except websockets.ConnectionClosed:
            return {"closed": self._socket.close_code}
        return {"closed": await asyncio.wait_for(self._probe, 20)}

    async def do_take(self, count: int = 0, seconds: float = 20, only: str | None = None) -> dict[str, Any]:
        def enough() -> bool:
            return len([1 for event in self._events if only is None or event["event"] == only]) >= count

        async def wait() -> None:
            while not enough():
                self._happened.clear()
                await self._happened.wait()

        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(wait(), seconds)
        taken, self._events = self._events, []
        return {"events": taken}

    async def _ended(self) -> None:
        if self._reading is not None:
            await asyncio.wait_for(self._reading, 20)
        self._socket = self._reading = None

    async def do_close(self) -> None:
        await self._socket.close()
        await self._ended()

    async def do_drop(self) -> None:
        self._socket.transport.abort()
        await self._ended()

    async def do_http(
        self, method: str, url: str, headers: dict[str, str] | None = None, body: str = ""
    ) -> dict[str, Any]:
        headers = {"content-type": "application/json", **(headers or {})}
        answer = await self._web.request(method, url, headers=headers, content=body.encode())
        return {"status": answer.status_code, "body": answer.text}


async def serve(worker: Any) -> None:
    """Answer until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # because a library that prints would break the protocol
    lines = asyncio.StreamReader(limit=1 << 27)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        request = json.loads(line)
        try:
            answer = await getattr(worker, f"do_{request.pop('do')}")(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({} if answer is None else answer), file=answers, flush=True)


if __name__ == "__main__":

    async def main() -> None:
        await serve(Wire())

    asyncio.run(main())

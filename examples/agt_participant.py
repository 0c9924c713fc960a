"""An agent of ours among those of AGT's mesh: its requests to the registry, its connection to the relay, its upkeep.

`Participant` moves what an `AgtAgent` makes and what comes for it; what to say is for who derives from it. It needs
`websockets`, and of the standard library asyncio and an HTTP client.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Awaitable, Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from agentmesh import RemoteError, RotationDue, StockLow, TryAgain
from agentmesh.agt import AgtAgent, AgtFrame, HttpRequest, read_answer
from agentmesh.engine.hooks import system_clock_ms
from agentmesh.errors import PeerNotAllowed, RegistryRefused, RelayComplaint

ANSWER_MAX_BYTES: Final = 1 << 20
ANSWER_SECONDS: Final = 10
# The relay takes 16 MiB, and may write them three times as large. What this agent will not read is to be refused one by
# one, because a connection that ends over it would meet it again.
FRAME_MAX_BYTES: Final = 64 << 20
TICK_SECONDS: Final = 5
TICKS_PER_SIGN: Final = 6  # of life, to the registry
PAUSE_FIRST_SECONDS: Final = 0.25
PAUSE_LONGEST_SECONDS: Final = 5.0
UNREACHABLE: Final = (OSError, HTTPException)


class Failed(Exception):
    """It cannot go on; the text says why."""


def note(text: object) -> None:
    """Tell a person."""
    print(text, file=sys.stderr, flush=True)


class Patience:
    """Pauses that grow."""

    def __init__(self) -> None:
        self._seconds = PAUSE_FIRST_SECONDS

    async def wait(self) -> None:
        """Wait, and longer the next time."""
        await asyncio.sleep(self._seconds)
        self._seconds = min(2 * self._seconds, PAUSE_LONGEST_SECONDS)


# --- the registry ----------------------------------------------------------------------------------------------------


class Registry:
    """Makes requests, directly: through no proxy, and to nowhere that an answer sends it, because of their headers."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise Failed("the registry: not an http or https URL")
        self._connection = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._place, self._prefix = parts.netloc, parts.path.rstrip("/")

    async def ask(self, request: HttpRequest) -> bytes:
        """Return the body of an answer that reports success; raise `RegistryRefused`, or one of `UNREACHABLE`."""
        status, body = await in_background(lambda: self._exchange(request))
        read_answer(status, body, ANSWER_MAX_BYTES)
        return bytes(body)

    async def ask_until_served(self, make: Callable[[], HttpRequest]) -> bytes:
        """Ask again while the registry is away, busy, or does not know what is asked for yet."""
        patience = Patience()
        while True:
            try:
                return await self.ask(make())
            except RegistryRefused as error:
                if error.status not in (404, 429) and error.status < 500:
                    raise
                note(error)
            except UNREACHABLE as error:
                note(f"the registry cannot be reached: {type(error).__name__}")
            await patience.wait()

    def _exchange(self, request: HttpRequest) -> tuple[int, bytes]:
        connection = self._connection(self._place, timeout=ANSWER_SECONDS)
        try:
            connection.request(request.method, self._prefix + request.path, request.body or None, request.headers)
            answer = connection.getresponse()
            return answer.status, answer.read(ANSWER_MAX_BYTES + 1)
        finally:
            connection.close()


async def in_background(call: Callable[[], Any]) -> Any:
    """Return what a call returns that blocks. Its thread holds nothing up: nobody waits for it at the end."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Any] = loop.create_future()

    def answer(tell: Callable[[Any], None], what: Any) -> None:
        if not answered.done():
            tell(what)

    def run() -> None:
        try:
            outcome = answered.set_result, call()
        except Exception as error:
            outcome = answered.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(answer, *outcome)

    threading.Thread(target=run, daemon=True).start()
    async with asyncio.timeout(ANSWER_SECONDS):
        return await answered


# --- the agent --------------------------------------------------------------------------------------------------------


class Participant:
    """An agent with its connections: registered, connected, heard of every 30 seconds, and never out of prekeys."""

    def __init__(self, agent: AgtAgent, name: str, registry: str, relay: str) -> None:
        self.agent, self.name = agent, name
        self.connections = 0  # so far, to the relay
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.registry = Registry(registry)
        self._relay = relay_url(relay)
        self._link = agent.link()
        self._socket: ClientConnection | None = None
        self._is_connected = asyncio.Event()
        self._is_leaving = False
        for event in agent.inbox():  # what a run before this one has not done
            self.events.put_nowait(event)

    async def converse(self) -> None:
        """Do what the agent is there for, to its end. What comes is in `events`."""
        raise NotImplementedError

    async def run(self, ready: Callable[[], None]) -> None:
        """Enter the mesh, say `ready`, converse, and leave. What cannot be mended is raised."""
        await self._enter()
        tasks = [
            asyncio.create_task(task)
            for task in (self._converse(ready), self._stay(), self._beat(), self._keep_house())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await self._leave()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _converse(self, ready: Callable[[], None]) -> None:
        await self._is_connected.wait()
        ready()
        await self.converse()

    async def _enter(self) -> None:
        """Register, and leave prekeys. A name is a capability in AGT's registry: that is what agents are found by."""
        try:
            await self.registry.ask_until_served(
                lambda: self.agent.registration(capabilities=[self.name], metadata={"display_name": self.name})
            )
        except RegistryRefused as error:
            if error.status != 409:  # it knows this agent
                raise
        await self.registry.ask_until_served(self.agent.publish_prekeys)

    async def _keep_house(self) -> None:
        """Top prekeys up, and show the registry that this agent lives; register anew where it has forgotten that."""
        tick = 0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            tick += 1
            is_due = any(isinstance(event, StockLow | RotationDue) for event in self.agent.poll())
            try:
                if is_due:
                    await self.registry.ask(self.agent.publish_prekeys())
                if tick % TICKS_PER_SIGN == 0:
                    await self.registry.ask(self.agent.heartbeat())
            except RegistryRefused as error:
                note(error)
                if error.status == 401:
                    await self._enter()
            except UNREACHABLE as error:
                note(f"the registry cannot be reached: {type(error).__name__}")

    # --- the relay ---------------------------------------------------------------------------------------------------

    async def _stay(self) -> None:
        """Connect, again and again, as long as that makes sense."""
        while True:
            code, reason = await self._connect()
            if self._is_leaving:
                await asyncio.Event().wait()  # whoever leaves ends this
            advice = self._link.closed(code, reason)
            note(f"the connection ended ({code}): {advice.why}")
            if not advice.reconnect:
                raise Failed(advice.why)
            await asyncio.sleep(advice.after_ms / 1000)

    async def _connect(self) -> tuple[int, str]:
        """Hold a connection until it ends, and return how it did."""
        opening = connect(
            self._relay, max_size=FRAME_MAX_BYTES, proxy=None, open_timeout=ANSWER_SECONDS, close_timeout=2
        )
        try:
            async with opening as socket:
                await socket.send(self._link.connect().text)
                self._socket = socket
                self.connections += 1
                self._is_connected.set()
                with contextlib.suppress(ConnectionClosed):
                    async for frame in socket:
                        await self._take(socket, frame)
        except (OSError, WebSocketException):
            return 1006, ""
        finally:
            self._is_connected.clear()
        return int(socket.close_code or 1006), socket.close_reason or ""

    async def _take(self, socket: ClientConnection, frame: str | bytes) -> None:
        """Take a frame, and acknowledge it once that is done with: see `AgtAgent.receive`."""
        events: tuple[Any, ...] = ()
        try:
            events = self.agent.receive(frame)
        except (TryAgain, PeerNotAllowed) as error:
            note(error)
            return
        except RelayComplaint as error:
            note(f"{error}: {error.detail!a}")
        except RemoteError as error:
            note(error)
        try:
            if (ack := self._link.ack(frame)) is not None:
                await socket.send(ack.text)
            for event in events:
                if event.reply is not None:
                    await socket.send(event.reply.text)
        finally:  # they hold, whatever becomes of the connection
            for event in events:
                self.events.put_nowait(event)

    async def _beat(self) -> None:
        """Send heartbeats. Who sent none for too long gets no mail before the next connection."""
        while True:
            due_seconds = (self._link.next_heartbeat_ms - system_clock_ms()) / 1000
            await asyncio.sleep(min(max(due_seconds, 0.1), TICK_SECONDS))
            if self._socket is None or not self._is_connected.is_set():
                continue
            with contextlib.suppress(ConnectionClosed):
                if self._link.has_lapsed:
                    await self._socket.close()
                elif (frame := self._link.heartbeat()) is not None:
                    await self._socket.send(frame.text)

    async def ship(self, make: Callable[[], Awaitable[AgtFrame]]) -> Any:
        """Make a frame and send it. One that a connection may have taken with it is made anew: none is sent twice."""
        while True:
            await self._is_connected.wait()
            frame = await make()
            try:
                assert self._socket is not None
                await self._socket.send(frame.text)
            except ConnectionClosed:
                await asyncio.sleep(PAUSE_FIRST_SECONDS)
            else:
                return frame

    async def _leave(self) -> None:
        """Close in order: the relay has taken what was sent before, once it closes over this frame."""
        self._is_leaving = True
        if self._socket is not None and self._is_connected.is_set():
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                await self._socket.send(self._link.disconnect().text)
                async with asyncio.timeout(2):
                    await self._socket.wait_closed()


def relay_url(url: str) -> str:
    """Return a relay's URL, with the scheme and the path that AGT's relay has where they are left out."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.netloc:
        raise Failed("the relay: not a ws or wss URL")
    return urlunsplit((scheme, parts.netloc, "/ws" if parts.path in ("", "/") else parts.path, parts.query, ""))

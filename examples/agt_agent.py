r"""An agent on the registry and the relay of Microsoft's Agent Governance Toolkit (AGT): it echoes, or checks echoes.

It needs `websockets` beside this project: `pip install 'agentmesh-e2ee[examples]'`. Two shells, two agents:

    python examples/agt_agent.py --role wait --registry http://127.0.0.1:8082 --relay ws://127.0.0.1:8083 \
        --name bob --count 10
    python examples/agt_agent.py --role initiate --registry http://127.0.0.1:8082 --relay ws://127.0.0.1:8083 \
        --name alice --count 10 --peer-did did:mesh:...

Each prints a line of JSON when it can be reached and one when it ends; all else goes to standard error. It ends with 0
where every message was sent and echoed, and with 1 otherwise. What it does and why: docs/how-to/agt.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from agentmesh import AgentMeshError, Grant, LocalError, RemoteError, TryAgain
from agentmesh.agt import AgtAgent, AgtFrame, AgtIdentity, HttpRequest, discover, fetch, read_answer
from agentmesh.engine.hooks import system_clock_ms
from agentmesh.errors import ArgumentInvalid, NoSession, PeerNotAllowed, RegistryRefused, RelayComplaint
from agentmesh.events import MessageReceived, RotationDue, SessionEstablished, SessionRejected, StockLow

MESH: Final = "agt"  # what policy and audit records call AGT's mesh, which has no name
ANSWER_MAX_BYTES: Final = 1 << 20
ANSWER_SECONDS: Final = 10
# The relay takes 16 MiB, and may write them three times as large. What this agent will not read is to be refused one by
# one, because a connection that ends over it would meet it again.
FRAME_MAX_BYTES: Final = 64 << 20
TICK_SECONDS: Final = 5
TICKS_PER_SIGN: Final = 6  # of life, to the registry
PAUSE_FIRST_SECONDS: Final = 0.25
PAUSE_LONGEST_SECONDS: Final = 5.0
SILENCES_SECONDS: Final = (10, 20, 40)  # how long an echo is awaited before something is done about it; then the last
REFUSALS_MAX: Final = 5
UNREACHABLE: Final = (OSError, HTTPException)


class Failed(Exception):
    """It cannot go on; the text says why."""


def note(text: object) -> None:
    """Tell a person."""
    print(text, file=sys.stderr, flush=True)


def tell(event: str, **facts: Any) -> None:
    """Tell whoever started it."""
    print(json.dumps({"event": event, **facts}), flush=True)


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
            raise Failed("--registry: not an http or https URL")
        self._connection = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._place, self._prefix = parts.netloc, parts.path.rstrip("/")

    async def ask(self, request: HttpRequest) -> bytes:
        """Return the body of an answer that reports success.

        Raises:
            RegistryRefused: it reports none.
            OSError, HTTPException: it cannot be reached, or does not answer in time.
        """
        status, body = await in_background(lambda: self._exchange(request))
        read_answer(status, body, ANSWER_MAX_BYTES)
        return body

    async def ask_until_served(self, make: Callable[[], HttpRequest]) -> bytes:
        """Ask again while the registry is away, busy, or does not know what is asked for yet.

        Raises:
            RegistryRefused: for another reason.
        """
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

    def answer(result: Any, error: Exception | None) -> None:
        if answered.done():
            return
        if error is None:
            answered.set_result(result)
        else:
            answered.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except Exception as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(answer, result, error)

    threading.Thread(target=run, daemon=True).start()
    async with asyncio.timeout(ANSWER_SECONDS):
        return await answered


# --- what both roles do ----------------------------------------------------------------------------------------------


class Participant:
    """An agent with its connections: registered, connected, heard of every 30 seconds, and never out of prekeys."""

    def __init__(self, agent: AgtAgent, options: argparse.Namespace) -> None:
        self.agent = agent
        self.name, self.count, self.peer_did = options.name, options.count, options.peer_did
        self.sent = self.received = self.connections = 0
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.registry = Registry(options.registry)
        self._relay = relay_url(options.relay)
        self._link = agent.link()
        self._socket: ClientConnection | None = None
        self._is_connected = asyncio.Event()
        self._is_leaving = False
        for event in agent.inbox():  # what a run before this one has not done
            self.events.put_nowait(event)

    @property
    def is_done(self) -> bool:
        """Whether all messages were sent, and came."""
        return self.sent == self.received == self.count

    async def converse(self) -> None:
        """Play the role to its end."""
        raise NotImplementedError

    async def run(self) -> None:
        """Enter the mesh, play the role, and leave. What cannot be mended is raised."""
        await self._enter()
        tasks = [asyncio.create_task(task) for task in (self._play(), self._stay(), self._beat(), self._keep_house())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await self._leave()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _play(self) -> None:
        await self._is_connected.wait()
        tell("ready", did=self.agent.did)
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
        return socket.close_code or 1006, socket.close_reason or ""

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
        raise Failed("--relay: not a ws or wss URL")
    return urlunsplit((scheme, parts.netloc, "/ws" if parts.path in ("", "/") else parts.path, parts.query, ""))


# --- waiting ---------------------------------------------------------------------------------------------------------


class Waiter(Participant):
    """Takes conversations and echoes what comes, until so many messages have come and their echoes have left."""

    async def converse(self) -> None:
        """Echo."""
        while self.received < self.count:
            event = await self.events.get()
            if isinstance(event, MessageReceived):
                self.received += 1
                await self._echo(event)
            self.agent.done(event)

    async def _echo(self, event: MessageReceived) -> None:
        async def make() -> AgtFrame:
            return echo_of(self.agent, event)

        try:
            await self.ship(make)
        except LocalError as error:  # as JSON it is too large, or its session has gone
            note(error)
        else:
            self.sent += 1


def echo_of(agent: AgtAgent, event: MessageReceived) -> AgtFrame:
    """Return a message with what one held, in the form that it came in, as far as that can be told.

    A JSON string came as its text and an object as JSON: what looks like an object or an array goes back as one. So a
    string whose text is JSON comes back as the object: to a client in Python that is the same.
    """
    data = event.plaintext
    if data.lstrip()[:1] in (b"{", b"["):
        with contextlib.suppress(ArgumentInvalid):
            return agent.send(event.peer.did, data, json=True)
    return agent.send(event.peer.did, data)


# --- initiating ------------------------------------------------------------------------------------------------------


class Initiator(Participant):
    """Begins a conversation, and sends one message after the other, each once the echo of the one before is there.

    A peer that was restarted has lost its keys, and nobody says so: silence is all there is to go by.
    """

    def __init__(self, agent: AgtAgent, options: argparse.Namespace) -> None:
        super().__init__(agent, options)
        self._session: Any = None  # which session; `None` where a KNOCK is due
        self._signed: Any = None  # the signed prekey that it began with
        self._is_heard = False
        self._refusals = 0

    async def converse(self) -> None:
        """Send, and check the echoes."""
        if self.count == 0:
            return
        did = await self._find()
        run = os.urandom(4).hex()  # so that an echo of an earlier run is not taken for one of this
        for number in range(1, self.count + 1):
            await self._exchange(did, f"{self.name} {run}: message {number} of {self.count}".encode())

    async def _find(self) -> str:
        """Return the peer: the one that is named, or else the one other agent that goes by this agent's own name."""
        if self.peer_did is not None:
            return str(self.peer_did)
        patience = Patience()
        while True:
            body = await self.registry.ask_until_served(lambda: discover(self.name))
            found = read_answer(200, body, ANSWER_MAX_BYTES).get("results")
            dids = {one.get("did") for one in found or () if isinstance(one, dict)} - {self.agent.did, None}
            if len(dids) > 1:
                raise Failed(f"several agents go by the name of {self.name}: say which, with --peer-did")
            if dids:
                return str(dids.pop())
            await patience.wait()

    async def _exchange(self, did: str, data: bytes) -> None:
        self.sent += 1
        silences, is_due, connection = 0, True, 0
        while True:
            if is_due:
                await self._say(did, data)
                connection = self.connections
            if await self._is_echoed(data, SILENCES_SECONDS[min(silences, len(SILENCES_SECONDS) - 1)]):
                self.received += 1
                return
            silences += 1
            is_cut = connection != self.connections
            if silences >= len(SILENCES_SECONDS) or (is_cut and not self._is_heard) or await self._is_renewed(did):
                self._session = None
            is_due = is_cut or self._session is None  # what is on its way to an agent that is away is not sent again

    async def _say(self, did: str, data: bytes) -> None:
        async def knock() -> AgtFrame:
            return await self._new_knock(did)

        async def message() -> AgtFrame:
            return self.agent.send(did, data, session_id=self._session)

        while True:
            if self._session is None:
                self._session = (await self.ship(knock)).session_id
                self._is_heard = False
            with contextlib.suppress(NoSession):
                await self.ship(message)
                return
            self._session = None

    async def _new_knock(self, did: str) -> AgtFrame:
        patience = Patience()
        while True:
            body = await self.registry.ask_until_served(lambda: fetch(did))
            try:
                frame = self.agent.knock(did, body)
            except RemoteError as error:
                note(f"the peer's prekeys: {error}")
            else:
                self._signed = signed_prekey_in(body)
                return frame
            await patience.wait()

    async def _is_renewed(self, did: str) -> bool:
        """Say whether the peer has other prekeys by now: then it has lost the session, or has no more use for it."""
        try:
            return signed_prekey_in(await self.registry.ask(fetch(did))) != self._signed
        except (RegistryRefused, *UNREACHABLE):
            return False

    async def _is_echoed(self, data: bytes, seconds: float) -> bool:
        """Wait for an echo; say no where it does not come in time, or a KNOCK is refused."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    event = await self.events.get()
                    self.agent.done(event)
                    if isinstance(event, SessionEstablished):
                        self._session = event.session_id  # the peer has begun anew
                    elif isinstance(event, SessionRejected):
                        self._session = None
                        self._refusals += 1
                        if self._refusals >= REFUSALS_MAX:
                            raise Failed("the peer refuses")
                        await asyncio.sleep(self._refusals * PAUSE_FIRST_SECONDS)
                        return False
                    elif isinstance(event, MessageReceived):
                        self._is_heard = True
                        if event.plaintext == data:
                            return True
                        note("a message that is no echo of the last one")
        return False


def signed_prekey_in(body: bytes) -> Any:
    """Return the signed prekey of a registry's answer, or `None` where there is none to be read."""
    try:
        return json.loads(body)["signed_pre_key"]["public_key"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


# --- the command -----------------------------------------------------------------------------------------------------


class Welcome:
    """A policy that takes everybody, or one agent alone. A real one says more: see docs/how-to/admission.md."""

    def __init__(self, did: str | None) -> None:
        self._did = did

    def may_knock(self, sender: Any) -> bool:
        """Say whether somebody may ask at all."""
        return self._did is None or sender.did == self._did

    def decide(self, _knock: Any) -> Grant:
        """Take whoever may ask."""
        return Grant()

    def still_allowed(self, _peer: Any) -> bool:
        """Take nothing back."""
        return True


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description="An agent on AGT's registry and relay.", allow_abbrev=False)
    parser.add_argument("--role", choices=("wait", "initiate"), required=True, help="echo, or send and check echoes")
    parser.add_argument("--registry", metavar="URL", required=True, help="http://host:8082")
    parser.add_argument("--relay", metavar="URL", required=True, help="ws://host:8083")
    parser.add_argument("--name", required=True, help="what it is found by in the registry")
    parser.add_argument("--count", type=int, metavar="N", required=True, help="how many messages; 0 or more")
    parser.add_argument(
        "--peer-did", metavar="DID", help="whom to reach, or the only one to listen to; without it a waiter takes "
        "everybody, and an initiator looks for the one other agent of its own name",
    )  # fmt: skip
    parser.add_argument("--seed", metavar="HEX", help="64 digits: who it is; somebody new without it")
    parser.add_argument("--deadline", type=float, metavar="SECONDS", default=300, help="when it gives up")
    options = parser.parse_args(arguments)
    if options.count < 0 or not 0 < options.deadline < float("inf"):
        parser.error("--count: 0 or more; --deadline: more than 0")
    return options


def open_agent(options: argparse.Namespace) -> AgtAgent:
    """Return the agent: somebody new, or whose seed is given."""
    identity = None if options.seed is None else AgtIdentity.from_seed(bytes.fromhex(options.seed))
    return AgtAgent.create(mesh=MESH, identity=identity, policy=Welcome(options.peer_did))


async def run(participant: Participant, deadline_seconds: float) -> None:
    """Run until it is done, told to stop, or out of time."""
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # on Windows
            asyncio.get_running_loop().add_signal_handler(number, told.set)
    running, stopping = asyncio.create_task(participant.run()), asyncio.create_task(told.wait())
    done, _ = await asyncio.wait({running, stopping}, timeout=deadline_seconds, return_when=asyncio.FIRST_COMPLETED)
    if running not in done:
        note("told to stop" if stopping in done else "out of time")
    for task in (running, stopping):
        task.cancel()
    await asyncio.wait({running, stopping})
    if running in done:
        running.result()


def main() -> int:
    """Be one of the two agents, and return what the process ends with."""
    options = options_of()
    participant = None
    try:
        participant = (Waiter if options.role == "wait" else Initiator)(open_agent(options), options)
        asyncio.run(run(participant, options.deadline))
    except (Failed, AgentMeshError, OSError, ValueError) as error:
        note(error if isinstance(error, Failed | AgentMeshError) else type(error).__name__)
    is_ok = participant is not None and participant.is_done
    sent, received = (0, 0) if participant is None else (participant.sent, participant.received)
    tell("result", ok=is_ok, sent=sent, received=received)
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())

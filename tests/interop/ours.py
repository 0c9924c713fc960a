"""An agent of ours on AGT's mesh: `AgtAgent`, and the process that moves its frames and requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agentmesh.agt import AgtAgent, HttpRequest, RelayLink, fetch, read_answer
from agentmesh.engine.hooks import Clock
from agentmesh.errors import RemoteError, TryAgain
from agentmesh.events import Event, MessageReceived, SessionEstablished
from agentmesh.identity import IdentityKey
from agentmesh.policy import ClaimedSender, Decision, Grant, KnockRequest
from agentmesh.store import SQLiteStore

MAX_BYTES = 1 << 20
MESH = "agt"


class Welcome:
    """The policy that grants everybody."""

    def may_knock(self, sender: ClaimedSender, /) -> bool:
        return True

    def decide(self, knock: KnockRequest, /) -> Decision:
        return Grant()

    def still_allowed(self, peer: IdentityKey, /) -> bool:
        return True


class Life:
    """Where an agent of ours lives on when its process ends: in a store where there is a file, or else in an export."""

    def __init__(self, file: Path | None, clock: Clock) -> None:
        self._file, self._clock = file, clock
        self._store: SQLiteStore | None = None

    def begin(self) -> AgtAgent:
        if self._file is None:
            return AgtAgent.create(MESH, policy=Welcome(), clock=self._clock)
        self._store = SQLiteStore(self._file, key=bytes(32))
        return self._store.open_agt_agent(MESH, policy=Welcome(), clock=self._clock)

    def again(self, agent: AgtAgent) -> AgtAgent:
        if self._store is None:
            return AgtAgent.restore(agent.export_state(), policy=Welcome(), clock=self._clock)
        self.stop()
        return self.begin()

    def stop(self) -> None:
        if self._store is not None:
            self._store.close()


class Ours:
    """What an application does: it moves frames, acknowledges them, and keeps what came of them."""

    def __init__(self, worker: Any, registry: str, relay: str, life: Life, *, echo: bool = False) -> None:
        self.agent: AgtAgent = life.begin()
        self.relay = relay
        self.link: RelayLink = self.agent.link()
        self.refused: list[type[RemoteError]] = []
        self.events: list[Event] = []
        self.sent: list[str] = []
        self._worker, self._registry, self._life, self._echo = worker, registry, life, echo

    # --- the registry ---

    def ask(self, request: HttpRequest) -> dict[str, Any]:
        answer = self._http(request)
        return read_answer(answer["status"], answer["body"].encode(), MAX_BYTES)

    def _http(self, request: HttpRequest) -> Any:
        url, body = self._registry + request.path, request.body.decode()
        return self._worker.ask("http", method=request.method, url=url, headers=request.headers, body=body)

    def register(self, one_time: int = 20) -> None:
        self.ask(self.agent.registration(capabilities=["ours"]))
        assert self.ask(self.agent.publish_prekeys(one_time))["otk_count"] == one_time

    # --- the relay ---

    def connect(self) -> None:
        self._worker.ask("open", relay=self.relay)
        self._worker.ask("raw", frames=[self.link.connect().text])
        self.sync()

    def sync(self) -> None:
        """Return once the relay has handled all that was sent."""
        assert self._worker.ask("sync") == {"closed": None}

    def drop(self) -> None:
        self._worker.ask("drop")

    def out(self, *frames: str) -> None:
        self.sent += frames
        self._worker.ask("raw", frames=list(frames))

    def fetched(self, did: str) -> bytes:
        """Return what the registry gives out for a KNOCK."""
        answer = self._http(fetch(did))
        assert answer["status"] == 200, answer
        body: str = answer["body"]
        return body.encode()

    def knock(self, did: str) -> str:
        """Ask the registry, and return the KNOCK, which has been sent."""
        text = self.agent.knock(did, self.fetched(did)).text
        self.out(text)
        return text

    def send(self, did: str, *payloads: bytes | str) -> None:
        self.out(*(self.agent.send(did, one if isinstance(one, bytes) else one.encode()).text for one in payloads))

    # --- what comes ---

    def take(self, count: int, *, seconds: float = 20) -> list[dict[str, Any]]:
        """Wait for so many frames, and return what came in all, untouched."""
        events = self._worker.ask("take", count=count, only="frame", seconds=seconds)["events"]
        return [event["frame"] for event in events if event["event"] == "frame"]

    def handle(self, frame: dict[str, Any], *, ack: bool = True) -> None:
        """Hand one frame to the agent, as an application does."""
        text = json.dumps(frame)
        try:
            events = self.agent.receive(text)
        except TryAgain as error:
            self.refused.append(type(error))
            return
        except RemoteError as error:
            self.refused.append(type(error))
            events = ()
        acknowledgement = self.link.ack(text) if ack else None
        if acknowledgement is not None:
            self.out(acknowledgement.text)
        for event in events:
            self._happened(event)

    def _happened(self, event: Event) -> None:
        self.events.append(event)
        if event.reply is not None:
            self.out(event.reply.text)  # type: ignore[attr-defined]
        if self._echo and isinstance(event, MessageReceived):
            self.send(event.peer.did, event.plaintext)
        self.agent.done(event)

    def hear(self, count: int, *, ack: bool = True) -> list[bytes]:
        """Wait for so many frames, handle them, and return the payloads among them."""
        before = len(self.events)
        frames = self.take(count)
        assert len(frames) >= count, f"{len(frames)} frames came, and not {count}"
        for frame in frames:
            self.handle(frame, ack=ack)
        return [event.plaintext for event in self.events[before:] if isinstance(event, MessageReceived)]

    def hear_messages(self, count: int) -> list[bytes]:
        """Handle frames until so many payloads have come."""
        heard: list[bytes] = []
        while len(heard) < count:
            heard += self.hear(1)
        return heard

    @property
    def established(self) -> list[SessionEstablished]:
        return [event for event in self.events if isinstance(event, SessionEstablished)]

    def restart(self) -> None:
        """Go on as another process would: a new link, and no connection yet."""
        self.agent = self._life.again(self.agent)
        self.link = self.agent.link()

"""An agent of ours on AGT's mesh: `AgtAgent`, and the process that moves its frames and requests."""

from __future__ import annotations

import json
from typing import Any

from agentmesh.agt import AgtAgent, HttpRequest, RelayLink, fetch, read_answer
from agentmesh.errors import RemoteError, TryAgain
from agentmesh.events import Event, MessageReceived, SessionEstablished
from agentmesh.identity import IdentityKey
from agentmesh.policy import ClaimedSender, Decision, Grant, KnockRequest

MAX_BYTES = 1 << 20


class Welcome:
    """The policy that grants everybody."""

    def may_knock(self, sender: ClaimedSender, /) -> bool:
        return True

    def decide(self, knock: KnockRequest, /) -> Decision:
        return Grant()

    def still_allowed(self, peer: IdentityKey, /) -> bool:
        return True


class Ours:
    """What an application does: it moves frames, acknowledges them, and keeps what came of them."""

    def __init__(self, worker: Any, registry: str, relay: str, agent: AgtAgent, *, echo: bool = False) -> None:
        self.agent = agent
        self.relay = relay
        self.link: RelayLink = agent.link()
        self.refused: list[type[RemoteError]] = []
        self.events: list[Event] = []
        self.came: list[dict[str, Any]] = []
        self.sent: list[str] = []
        self._worker, self._registry, self._echo = worker, registry, echo

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
        frames = [event["frame"] for event in events if event["event"] == "frame"]
        self.came += frames
        return frames

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

    def hear(self, count: int, *, ack: bool = True) -> list[bytes]:
        """Wait for so many frames, handle them, and return the payloads among them."""
        before = len(self.events)
        for frame in self.take(count):
            self.handle(frame, ack=ack)
        return [event.plaintext for event in self.events[before:] if isinstance(event, MessageReceived)]

    def hear_messages(self, count: int) -> list[bytes]:
        """Handle frames until so many payloads have come."""
        heard: list[bytes] = []
        while len(heard) < count:
            more = self.hear(1)
            assert more or self.came, "nothing comes"
            heard += more
        return heard

    @property
    def established(self) -> list[SessionEstablished]:
        return [event for event in self.events if isinstance(event, SessionEstablished)]

    def restart(self) -> None:
        """Go on as another process would, from an export: a new link, and no connection yet."""
        self.agent = AgtAgent.restore(self.agent.export_state(), policy=Welcome())
        self.link = self.agent.link()

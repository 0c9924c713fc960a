"""What the demo's two agents have in common: an agent, its connection to the relay, and what it notes of both."""

from __future__ import annotations

import time
from typing import Any, Final

from agentmesh import Agent
from agentmesh.cli.demo.frames import Channel, FrameType, frame
from agentmesh.cli.demo.tally import Tally
from agentmesh.envelope import receipt_of
from agentmesh.events import Event, MessageReceived
from agentmesh.outgoing import Outgoing
from agentmesh.primitives.keys import SessionId

MESH: Final = "agentmesh/demo"


class Station:
    """An agent with its connection to the relay, and a tally of the envelopes that it sent and received."""

    def __init__(self, channel: Channel) -> None:
        self.agent: Agent = Agent.create(MESH)
        self._channel = channel
        self._tally = Tally()
        self._began_at = time.process_time()
        self._channel.send(frame(FrameType.HELLO, self.agent.did.encode("ascii")))

    def publish(self, bundle: bytes) -> None:
        """Put a bundle on the relay's shelf."""
        self._channel.send(frame(FrameType.PUBLISH, bundle))
        self._next(FrameType.STORED)
        self.note("bundle", "publishes a bundle")

    def fetch(self, did: str) -> bytes:
        """Take a bundle of an agent from the relay's shelf."""
        self._channel.send(frame(FrameType.FETCH, did.encode("ascii")))
        bundle = self._next(FrameType.BUNDLE)
        self.note("bundle", "fetches a bundle")
        return bundle

    def post(self, outgoing: Outgoing, text: str) -> None:
        """Hand an envelope to the relay, and note what it is."""
        self._tally.count("out", outgoing.receipt, len(outgoing.envelope))
        self.note(outgoing.receipt.hex(), text)
        self._channel.send(frame(FrameType.ENVELOPE, outgoing.envelope))

    def take(self) -> tuple[Event, str]:
        """Return what the next envelope means, and its receipt in hexadecimal."""
        envelope = self._next(FrameType.ENVELOPE)
        event, *_ = self.agent.receive(envelope)
        # A message's receipt was computed when it was opened.
        receipt = event.receipt if isinstance(event, MessageReceived) else receipt_of(envelope)
        self._tally.count("in", receipt, len(envelope))
        return event, receipt.hex()

    def note(self, key: str, text: str) -> None:
        """Note what this side saw of an envelope."""
        self._tally.note([key, text])

    def report(self, peer: str, session_id: SessionId, **more: Any) -> dict[str, Any]:
        """Close the connection and return what this side tells of the whole."""
        self._channel.close()
        status = self.agent.session(peer, session_id).status
        return {
            **self._tally.report(),
            "peer": peer,
            "phase": str(status.phase),
            "data_sent": status.data_sent,
            "data_opened": status.data_opened,
            "cpu_seconds": time.process_time() - self._began_at,
            **more,
        }

    def _next(self, expected: FrameType) -> bytes:
        received = self._channel.receive()
        if received is None:
            raise ConnectionError("the relay ended the connection")
        frame_type, payload = received
        if frame_type is not expected:
            raise ConnectionError(f"the relay sent a frame of type {frame_type}")
        return payload

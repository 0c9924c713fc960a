"""A relay as an endpoint of FastAPI: it limits rates, and writes a log of what passed, without holding a key.

It needs `fastapi` and `uvicorn`: `pip install '.[examples]'`.

    python examples/fastapi_relay.py --port 8080 --log relay.log

The agents of examples/http_agent.py speak to it. docs/how-to/fastapi.md says what to add in earnest.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import defaultdict
from contextlib import suppress
from itertools import count
from typing import Annotated, Final

import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field, ValidationError

from agentmesh import OuterEnvelope, RemoteError
from agentmesh.audit import AuditLog
from agentmesh.errors import Busy, EnvelopeReplayed
from agentmesh.relay import RelayLimiter, relay_record
from agentmesh.store import LogFile

KEPT_MAX: Final = 10_000  # of one agent: envelopes, and bundles
BODY_MAX_BYTES, PUT_MAX_BYTES = 2 << 20, 10 << 20
BUNDLE_MAX_CHARACTERS, WAIT_MAX_SECONDS = 8192, 20.0
REPLAY_SECONDS: Final = 3  # shorter than an agent's first pause: what it offers again, it offers for a reason
Wait = Annotated[float, Query(ge=0, le=WAIT_MAX_SECONDS, allow_inf_nan=False)]
Bundle = Annotated[str, Field(max_length=BUNDLE_MAX_CHARACTERS, pattern="^[A-Za-z0-9+/]*=*$")]


class Put(BaseModel):
    """What an agent adds to the shelf."""

    one_time: Annotated[list[Bundle], Field(max_length=1000)]
    last_resort: Bundle | None = None


class Relay:
    """Queues and a shelf in memory, behind a limiter, and the log."""

    def __init__(self, log: AuditLog, limiter: RelayLimiter) -> None:
        self._log, self._limiter = log, limiter
        self._queues: dict[str, dict[int, bytes]] = defaultdict(dict)
        self._bundles: dict[str, list[str]] = defaultdict(list)
        self._last_resort: dict[str, str] = {}
        self._numbers = count(1)
        self._come = asyncio.Event()

    async def pass_on(self, did: str, body: bytes, source: str) -> None:
        """Let an envelope pass, or say by the answer's status why not. It is logged before anybody can have it."""
        try:
            envelope = OuterEnvelope.parse(body)
            if envelope.header.recipient != did:
                raise HTTPException(400, "for another agent")
            if len(self._queues.get(did, ())) >= KEPT_MAX:
                raise HTTPException(503, "no more is kept for this agent")
            self._limiter.admit(envelope, source=source)
        except EnvelopeReplayed:
            return  # it has just passed
        except Busy as error:
            raise HTTPException(429, error.code, {"Retry-After": "1"}) from None
        except RemoteError as error:
            raise HTTPException(400, error.code) from None
        if body in self._queues.get(did, {}).values():
            return  # offered again, and kept until it is acknowledged
        await asyncio.to_thread(self._log.append, relay_record(envelope, at_ms=time.time_ns() // 1_000_000))
        self._queues[did][next(self._numbers)] = body
        self._come.set()
        self._come = asyncio.Event()

    async def next_for(self, did: str, after: int, wait_seconds: float) -> tuple[int, bytes] | None:
        """Return the first envelope behind a number, as soon as there is one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_seconds):
                while not (found := [one for one in self._queues.get(did, {}).items() if one[0] > after][:1]):
                    await self._come.wait()
                return found[0]
        return None

    def acknowledge(self, did: str, number: int) -> None:
        """Forget an envelope that its agent has."""
        self._queues.get(did, {}).pop(number, None)

    def put(self, did: str, made: Put) -> None:
        """Add to the shelf."""
        self._bundles[did] = list(dict.fromkeys((*self._bundles[did], *made.one_time)))[:KEPT_MAX]
        self._last_resort[did] = made.last_resort or self._last_resort.get(did, "")

    def take(self, did: str) -> str | None:
        """Take from the shelf: a one-time bundle once, else the last resort."""
        return self._bundles[did].pop(0) if self._bundles.get(did) else self._last_resort.get(did) or None


async def body_of(request: Request, max_bytes: int) -> bytes:
    """Return a body, read in pieces and no further than the bound."""
    body = b""
    async for chunk in request.stream():
        if len(body := body + chunk) > max_bytes:
            raise HTTPException(413)
    return body


def app_of(relay: Relay) -> FastAPI:
    """Return the endpoint. Whom to charge is what it has authenticated: here an address, in earnest an account."""
    app = FastAPI(title="AgentMesh relay", openapi_url=None)

    @app.post("/to/{did}", status_code=202)
    async def publish(did: str, request: Request) -> None:
        source = "" if request.client is None else request.client.host
        await relay.pass_on(did, await body_of(request, BODY_MAX_BYTES), source)

    @app.get("/for/{did}")
    async def envelopes(did: str, after: int = 0, wait_seconds: Wait = 0) -> Response:
        number, body = await relay.next_for(did, after, wait_seconds) or (0, b"")
        return Response(body, 200 if number else 204, {"X-Number": str(number)}, "application/octet-stream")

    @app.delete("/for/{did}/{number}", status_code=204)
    async def acknowledge(did: str, number: int) -> None:
        relay.acknowledge(did, number)

    @app.put("/bundles/{did}", status_code=204)
    async def put_bundles(did: str, request: Request) -> None:
        try:
            relay.put(did, Put.model_validate_json(await body_of(request, PUT_MAX_BYTES)))
        except ValidationError:
            raise HTTPException(422) from None

    @app.post("/bundles/{did}/take")
    async def take_bundle(did: str) -> str | None:
        return relay.take(did)

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A relay for AgentMesh.", allow_abbrev=False)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--log", metavar="FILE", required=True, help="where it records what passed")
    parser.add_argument("--rate", type=int, default=50, help="envelopes a second of one address")
    options = parser.parse_args()
    limiter = RelayLimiter(per_identity=options.rate, together=10 * options.rate, replay_window_seconds=REPLAY_SECONDS)
    with LogFile(options.log) as file:
        uvicorn.run(app_of(Relay(AuditLog(file), limiter)), host="127.0.0.1", port=options.port, log_level="warning")

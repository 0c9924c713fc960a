"""A relay as an endpoint of FastAPI: it limits rates, and writes a log of what passed, without holding a key.

It needs `fastapi` and `uvicorn`: `pip install '.[examples]'`.

    python examples/fastapi_relay.py --port 8080 --log relay.log
    python -m agentmesh audit verify relay.log

The agents of examples/http_agent.py speak to it. docs/how-to/fastapi.md says what to add in earnest.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import defaultdict
from itertools import count
from typing import Annotated, Final

import uvicorn
from fastapi import Body, FastAPI, HTTPException, Request, Response

from agentmesh import OuterEnvelope, RemoteError
from agentmesh.audit import AuditLog
from agentmesh.errors import Busy, EnvelopeReplayed
from agentmesh.relay import RelayLimiter, relay_record
from agentmesh.store import LogFile

KEPT_MAX: Final = 10_000  # of one agent: envelopes, and bundles
BODY_MAX_BYTES: Final = 2 << 20
BUNDLE_MAX_CHARACTERS: Final = 8192
WAIT_MAX_SECONDS: Final = 20.0
OneTime = Annotated[list[str], Body(max_length=1000)]
LastResort = Annotated[str | None, Body(max_length=BUNDLE_MAX_CHARACTERS)]


class Relay:
    """Queues and a shelf in memory, behind a limiter, and the log."""

    def __init__(self, log: AuditLog, limiter: RelayLimiter) -> None:
        self._log = log
        self._limiter = limiter
        self._queues: dict[str, dict[int, bytes]] = defaultdict(dict)
        self._bundles: dict[str, list[str]] = defaultdict(list)
        self._last_resort: dict[str, str] = {}
        self._numbers = count(1)
        self._come: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def pass_on(self, did: str, body: bytes, source: str) -> None:
        """Let an envelope pass, or say by the answer's status why not. It is logged before anybody can have it."""
        try:
            envelope = OuterEnvelope.parse(body)
            if envelope.header.recipient != did:
                raise HTTPException(400, "for another agent")
            if len(self._queues[did]) >= KEPT_MAX:
                raise HTTPException(503, "no more is kept for this agent")
            self._limiter.admit(envelope, source=source)
        except EnvelopeReplayed:
            return  # it passed, and is kept until the agent has acknowledged it
        except Busy as error:
            raise HTTPException(429, error.code, {"Retry-After": "1"}) from None
        except RemoteError as error:
            raise HTTPException(400, error.code) from None
        await asyncio.to_thread(self._log.append, relay_record(envelope, at_ms=time.time_ns() // 1_000_000))
        self._queues[did][next(self._numbers)] = body
        self._come.pop(did, asyncio.Event()).set()

    async def next_for(self, did: str, after: int, wait_seconds: float) -> tuple[int, bytes] | None:
        """Return the first envelope behind a number, as soon as there is one."""
        try:
            async with asyncio.timeout(min(wait_seconds, WAIT_MAX_SECONDS)):
                while True:
                    come = self._come[did]
                    for number, body in self._queues[did].items():
                        if number > after:
                            return number, body
                    await come.wait()
        except TimeoutError:
            return None

    def acknowledge(self, did: str, number: int) -> None:
        """Forget an envelope that its agent has."""
        self._queues[did].pop(number, None)

    def put(self, did: str, one_time: list[str], last_resort: str | None) -> None:
        """Add to the shelf."""
        new = [one for one in one_time if one not in self._bundles[did] and len(one) <= BUNDLE_MAX_CHARACTERS]
        self._bundles[did] = [*self._bundles[did], *new][:KEPT_MAX]
        if last_resort is not None:
            self._last_resort[did] = last_resort

    def take(self, did: str) -> str | None:
        """Take from the shelf: a one-time bundle once, else the last resort."""
        return self._bundles[did].pop(0) if self._bundles[did] else self._last_resort.get(did)


def app_of(relay: Relay) -> FastAPI:
    """Return the endpoint. Whom to charge is what it has authenticated: here an address, in earnest an account."""
    app = FastAPI(title="AgentMesh relay", openapi_url=None)

    @app.post("/to/{did}", status_code=202)
    async def publish(did: str, request: Request) -> None:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_MAX_BYTES:
                raise HTTPException(413)
        await relay.pass_on(did, body, "" if request.client is None else request.client.host)

    @app.get("/for/{did}")
    async def envelopes(did: str, after: int = 0, wait_seconds: float = 0) -> Response:
        found = await relay.next_for(did, after, wait_seconds)
        if found is None:
            return Response(status_code=204)
        return Response(found[1], media_type="application/octet-stream", headers={"X-Number": str(found[0])})

    @app.delete("/for/{did}/{number}", status_code=204)
    async def acknowledge(did: str, number: int) -> None:
        relay.acknowledge(did, number)

    @app.put("/bundles/{did}", status_code=204)
    async def put_bundles(did: str, one_time: OneTime, last_resort: LastResort = None) -> None:
        relay.put(did, one_time, last_resort)

    @app.post("/bundles/{did}/take")
    async def take_bundle(did: str) -> str | None:
        return relay.take(did)

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A relay for AgentMesh.", allow_abbrev=False)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--log", metavar="FILE", required=True, help="where it records what passed")
    options = parser.parse_args()
    with LogFile(options.log) as file:
        made = Relay(AuditLog(file), RelayLimiter())
        uvicorn.run(app_of(made), host="127.0.0.1", port=options.port, log_level="warning")

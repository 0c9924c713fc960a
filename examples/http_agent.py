r"""An agent over HTTP, for the relay of examples/fastapi_relay.py.

It needs `httpx` beside this project: `pip install '.[examples]'`. With the relay in a third shell:

    python examples/http_agent.py http://127.0.0.1:8080 --store bob.mesh --key-file key --table bob.rows
    python examples/http_agent.py http://127.0.0.1:8080 --store alice.mesh --key-file key --table alice.rows \
        --peer did:agentmesh:...

docs/how-to/fastapi.md says why it is as it is.
"""

from __future__ import annotations

import sys
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Final

import httpx
from rows import main

from agentmesh.courier import Acknowledge

WAIT_SECONDS: Final = 10


class HttpTransport:
    """Requests to the relay; each is made anew, so there is no connection to keep."""

    def __init__(self, url: str, did: str) -> None:
        self._did = did
        self._http = httpx.AsyncClient(base_url=url, timeout=WAIT_SECONDS + 5, trust_env=False)

    async def close(self) -> None:
        """End what connections there are."""
        await self._http.aclose()

    async def publish(self, recipient: str, envelope: bytes, /) -> None:
        """Hand an envelope to the relay. One that it will not have now, it is offered again."""
        (await self._http.post(f"/to/{recipient}", content=envelope)).raise_for_status()

    async def envelopes(self) -> AsyncIterator[tuple[bytes, Acknowledge]]:
        """Ask for one after the other, from the oldest that was not acknowledged."""
        after = 0
        while True:
            query = {"after": after, "wait_seconds": WAIT_SECONDS}
            answer = (await self._http.get(f"/for/{self._did}", params=query)).raise_for_status()
            if answer.status_code == httpx.codes.OK:
                after = int(answer.headers["X-Number"])
                yield answer.content, partial(self._acknowledge, after)

    async def _acknowledge(self, number: int) -> None:
        (await self._http.delete(f"/for/{self._did}/{number}")).raise_for_status()

    async def put_bundles(self, did: str, one_time: Sequence[bytes], last_resort: bytes | None, /) -> None:
        """Put bundles on the relay's shelf."""
        last = None if last_resort is None else b64encode(last_resort).decode()
        body = {"one_time": [b64encode(one).decode() for one in one_time], "last_resort": last}
        (await self._http.put(f"/bundles/{did}", json=body)).raise_for_status()

    async def take_bundle(self, did: str, /) -> bytes | None:
        """Take a bundle from the relay's shelf."""
        taken = (await self._http.post(f"/bundles/{did}/take")).raise_for_status().json()
        return b64decode(taken) if taken else None


if __name__ == "__main__":
    sys.exit(main(HttpTransport))

r"""An agent on the registry and the relay of Microsoft's Agent Governance Toolkit (AGT): it echoes, or checks echoes.

It needs `websockets` beside this project: `pip install '.[examples]'`. Two shells, two agents:

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from agt_participant import (
    ANSWER_MAX_BYTES,
    PAUSE_FIRST_SECONDS,
    UNREACHABLE,
    Failed,
    Participant,
    Patience,
    note,
)

from agentmesh import (
    AgentMeshError,
    Grant,
    LocalError,
    MessageReceived,
    RemoteError,
    SessionEstablished,
    SessionRejected,
)
from agentmesh.agt import AgtAgent, AgtFrame, AgtIdentity, discover, fetch, read_answer
from agentmesh.errors import ArgumentInvalid, NoSession, RegistryRefused
from agentmesh.store import SQLiteStore

MESH: Final = "agt"  # what policy and audit records call AGT's mesh, which has no name
# How long an echo is awaited before something is done about it; longer than the three seconds that AGT's TypeScript
# client holds what precedes a KNOCK, because it ends the next session over what it held.
SILENCES_SECONDS: Final = (10, 20, 40, 60)
REFUSALS_MAX: Final = 5


def tell(event: str, **facts: Any) -> None:
    """Tell whoever started it."""
    print(json.dumps({"event": event, **facts}), flush=True)


# --- waiting ---------------------------------------------------------------------------------------------------------


class Role(Participant):
    """What both count."""

    def __init__(self, agent: AgtAgent, options: argparse.Namespace) -> None:
        super().__init__(agent, options.name, options.registry, options.relay)
        self.count: int = options.count
        self.peer_did: str | None = options.peer_did
        self.sent = self.received = 0

    @property
    def is_done(self) -> bool:
        """Whether all messages were sent, and came."""
        return self.sent == self.received == self.count


class Waiter(Role):
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


class Initiator(Role):
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
            return self.peer_did
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
        silences, is_due, connection = 0, True, 0
        while True:
            if is_due:
                await self._say(did, data)
                self.sent += silences == 0  # as a message; the frames may be more
                connection = self.connections
            if await self._is_echoed(data, SILENCES_SECONDS[min(silences, len(SILENCES_SECONDS) - 1)]):
                self.received += 1
                return
            silences += 1
            is_cut = connection != self.connections
            if not self._is_heard or silences > 1 or await self._is_renewed(did):
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
            return bool(signed_prekey_in(await self.registry.ask(fetch(did))) != self._signed)
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
                        self._is_heard |= event.session_id == self._session
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
    parser.add_argument("--store", metavar="FILE", help="where it is kept, and goes on from; in memory without it")
    parser.add_argument("--key-file", metavar="FILE", help="the key of the store: a file of 32 bytes")
    options = parser.parse_args(arguments)
    if options.count < 0 or not 0 < options.deadline < float("inf"):
        parser.error("--count: 0 or more; --deadline: more than 0")
    if (options.store is None) != (options.key_file is None):
        parser.error("--store and --key-file: both or neither")
    return options


@contextlib.contextmanager
def opened(options: argparse.Namespace) -> Iterator[AgtAgent]:
    """Give the agent: the one of the store, or one that lives as long as this process."""
    identity = None if options.seed is None else AgtIdentity.from_seed(bytes.fromhex(options.seed))
    policy = Welcome(options.peer_did)
    if options.store is None:
        yield AgtAgent.create(mesh=MESH, identity=identity, policy=policy)
        return
    with SQLiteStore(options.store, key=Path(options.key_file).read_bytes()) as store:
        yield store.open_agt_agent(MESH, identity=identity, policy=policy)


async def run(role: Role, deadline_seconds: float) -> None:
    """Run until it is done, told to stop, or out of time."""
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # on Windows
            asyncio.get_running_loop().add_signal_handler(number, told.set)
    running, stopping = (
        asyncio.create_task(role.run(lambda: tell("ready", did=role.agent.did))),
        asyncio.create_task(told.wait()),
    )
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
    role = None
    try:
        with opened(options) as agent:
            role = (Waiter if options.role == "wait" else Initiator)(agent, options)
            asyncio.run(run(role, options.deadline))
    except (Failed, AgentMeshError, OSError, ValueError) as error:
        note(error if isinstance(error, Failed | AgentMeshError) else type(error).__name__)
    is_ok = role is not None and role.is_done
    sent, received = (0, 0) if role is None else (role.sent, role.received)
    tell("result", ok=is_ok, sent=sent, received=received)
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())

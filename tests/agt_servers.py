"""A registry and a relay that behave as AGT's do, on loopback, of the standard library alone.

They are what docs/agt.md says of the real ones, as far as an agent can tell, and no more: state in memory, one process.
A test may look at what came (`frames`), cut a connection (`cut`), and stop and start either on the same port, after
which it has forgotten all. Whoever wants the real ones: tests/interop.

Tests reach this module through the fixture `agt_servers`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import struct
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

WINDOW_SECONDS = 300
WAIT_SECONDS = 30  # only so that a hang fails
BODY_MAX_BYTES = 1 << 20
FRAME_MAX_BYTES = 16 << 20
_ACCEPT_SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10


def did_of(public: bytes) -> str:
    return f"did:mesh:{hashlib.sha256(public).hexdigest()[:32]}"


def unbase64(text: str) -> bytes:
    return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)


def is_proved(public: bytes, text: str, time_text: str, signature: bytes) -> bool:
    try:
        at = datetime.fromisoformat(time_text)
        VerifyKey(public).verify(text.encode(), signature)
    except (ValueError, BadSignatureError):
        return False
    return at.tzinfo is not None and abs(at.timestamp() - time.time()) <= WINDOW_SECONDS


class Server:
    """A server in a thread of its own. It listens when it is made; `stop` and `start` keep the port."""

    def __init__(self) -> None:
        self.port = 0
        self._happened = threading.Condition()
        self.start()

    def until(self, is_so: Callable[[], Any]) -> None:
        """Wait until something is so; it is asked again whenever something has come."""
        with self._happened:
            assert self._happened.wait_for(is_so, WAIT_SECONDS), "it has not come"

    def _tell(self) -> None:
        with self._happened:
            self._happened.notify_all()

    def start(self) -> None:
        self.forget()
        up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(up)), daemon=True)
        self._thread.start()
        assert up.wait(10), "the server does not start"

    def stop(self) -> None:
        """End all connections, as a process that is killed does. Once more does nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(10)

    def forget(self) -> None:
        raise NotImplementedError

    async def _serve(self, up: threading.Event) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, limit=BODY_MAX_BYTES)
        self.port = server.sockets[0].getsockname()[1]
        up.set()
        await self._over.wait()
        server.close()
        for writer in self._open:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, target, _ = head[0].split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            await self.serve(method, target, headers, reader, writer)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            self._open.discard(writer)
            with contextlib.suppress(OSError):
                writer.close()

    async def serve(self, method: str, target: str, headers: dict[str, str], reader: Any, writer: Any) -> None:
        raise NotImplementedError


# --- the registry ----------------------------------------------------------------------------------------------------


class Refused(Exception):
    """Args: the status."""


class Registry(Server):
    """AGT's registry: who is there, by name, and prekeys, of which it gives each one-time one to one who asks."""

    def forget(self) -> None:
        self.agents: dict[str, dict[str, Any]] = {}
        self.prekeys: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str]] = []  # method and path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, method: str, target: str, headers: dict[str, str], reader: Any, writer: Any) -> None:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        parts = urlsplit(target)
        self.asked.append((method, parts.path))
        try:
            status, value = self._answer(method, unquote(parts.path), parse_qs(parts.query), headers, body)
        except Refused as refused:
            status, value = refused.args[0], {"detail": "refused"}
        except (KeyError, TypeError, ValueError):
            status, value = 422, {"detail": "a field is missing"}
        self._tell()
        text = b"" if value is None else json.dumps(value).encode()
        writer.write(f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
        await writer.drain()

    def _answer(
        self, method: str, path: str, query: dict[str, list[str]], headers: dict[str, str], body: bytes
    ) -> tuple[int, Any]:
        match method, path.strip("/").split("/"):
            case "POST", ["v1", "agents"]:
                return self._register(json.loads(body))
            case "GET", ["v1", "discover"]:
                return 200, self._discover(query["capability"][0], int(query.get("limit", ["20"])[0]))
            case "GET", ["v1", "agents", did, "prekeys"]:
                return 200, self._fetch(did)
            case "GET", ["v1", "agents", did]:
                return 200, self._known(did)
            case "GET", ["v1", "agents", did, "presence"]:
                return 200, {"did": did, "last_seen": self._known(did)["last_seen"], "online": True}
            case "PUT", ["v1", "agents", did, "prekeys"]:
                self._check(did, headers, missing=422)
                self.prekeys[did] = json.loads(body)
                return 200, {"did": did, "otk_count": len(self.prekeys[did]["one_time_pre_keys"])}
            case "POST", ["v1", "agents", did, "heartbeat"]:
                self._check(did, headers, missing=401)
                self.agents[did]["last_seen"] = time.time()
                return 200, {"did": did}
            case "DELETE", ["v1", "agents", did]:
                self._check(did, headers, missing=422)
                del self.agents[did]
                self.prekeys.pop(did, None)
                return 204, None
        raise Refused(404)

    def _register(self, body: dict[str, Any]) -> tuple[int, Any]:
        public = unbase64(body["public_key"])
        at = body["proof_timestamp"]
        if not is_proved(public, body["public_key"] + at, at, unbase64(body["proof"])):
            raise Refused(401)
        did = did_of(public)
        if did in self.agents:
            raise Refused(409)
        self.agents[did] = {
            "did": did,
            "capabilities": body["capabilities"],
            "metadata": body["metadata"],
            "last_seen": time.time(),
            "public": public,
        }
        return 201, {"did": did, "status": "registered"}

    def _known(self, did: str) -> dict[str, Any]:
        if did not in self.agents:
            raise Refused(404)
        return {name: value for name, value in self.agents[did].items() if name != "public"}

    def _check(self, did: str, headers: dict[str, str], *, missing: int) -> None:
        """Take an Authorization of AGT's: a signed time, and nothing that it is for."""
        if "authorization" not in headers:
            raise Refused(missing)
        _, sender, at, signature = headers["authorization"].split(" ")
        if sender not in self.agents or not is_proved(self.agents[sender]["public"], at, at, unbase64(signature)):
            raise Refused(401)
        if sender != did:
            raise Refused(403)

    def _fetch(self, did: str) -> dict[str, Any]:
        if did not in self.prekeys:
            raise Refused(404)
        shelf = self.prekeys[did]
        one_time = shelf["one_time_pre_keys"].pop(0) if shelf["one_time_pre_keys"] else None
        return {
            "identity_key": shelf["identity_key"],
            "identity_key_ed": shelf["identity_key_ed"],
            "signed_pre_key": shelf["signed_pre_key"],
            "one_time_pre_key": one_time,
        }

    def _discover(self, capability: str, limit: int) -> dict[str, Any]:
        found = [self._known(did) for did, agent in self.agents.items() if capability in agent["capabilities"]]
        results = [{name: agent[name] for name in ("did", "capabilities", "last_seen")} for agent in found]
        return {"results": results[:limit], "total": len(results)}


# --- the relay -------------------------------------------------------------------------------------------------------


class WebSocket:
    """The server's side of one connection (RFC 6455): texts, and no extension."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader, self._writer = reader, writer
        self.heard_at = time.monotonic()  # the last heartbeat

    async def accept(self, key: str) -> None:
        answer = base64.b64encode(hashlib.sha1(key.encode() + _ACCEPT_SALT).digest()).decode()
        self._writer.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {answer}\r\n\r\n".encode()
        )
        await self._writer.drain()

    async def receive(self) -> str | None:
        """Return the next text, or `None` where the other side closes, or sends what is none."""
        message = b""
        while True:
            first, second = await self._reader.readexactly(2)
            size = second & 127
            if size >= 126:
                size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
            if size + len(message) > FRAME_MAX_BYTES:
                await self.close(1009)
                return None
            mask = await self._reader.readexactly(4)
            data = await self._reader.readexactly(size)
            masking = int.from_bytes(mask * (size // 4 + 1), "big") >> 8 * (4 - size % 4)
            data = (int.from_bytes(data, "big") ^ masking).to_bytes(size, "big")
            opcode = first & 15
            if opcode == _CLOSE:
                self._write(_CLOSE, data[:2])
                return None
            if opcode == _PING:
                self._write(_PONG, data)
            elif opcode == _BINARY:
                return None
            elif opcode != _PONG:
                message += data
                if first & 128:
                    return message.decode()

    async def send(self, frame: dict[str, Any]) -> None:
        self._write(_TEXT, json.dumps(frame).encode())
        await self._writer.drain()

    async def close(self, code: int, reason: str = "") -> None:
        self._write(_CLOSE, struct.pack(">H", code) + reason.encode())
        with contextlib.suppress(OSError):
            await self._writer.drain()

    def cut(self) -> None:
        self._writer.transport.abort()

    def _write(self, opcode: int, data: bytes) -> None:
        size = len(data)
        length = bytes([size]) if size < 126 else struct.pack(">BH", 126, size) if size < 1 << 16 else b""
        self._writer.write(bytes([128 | opcode]) + (length or struct.pack(">BQ", 127, size)) + data)


class Relay(Server):
    """AGT's relay: frames to who is there, and kept for who is not until they are acknowledged.

    Args:
        patience_seconds: How long an agent that sends no heartbeat is taken to be there.
        replaced_code: What a connection is closed with whose agent connects again; 1000 in AGT 5.0.0 as published.
    """

    def __init__(self, *, patience_seconds: float = 90, replaced_code: int = 4006) -> None:
        self._patience, self._replaced_code = patience_seconds, replaced_code
        super().__init__()

    def forget(self) -> None:
        self.frames: list[dict[str, Any]] = []  # all that came, in its order
        self.stored: dict[str, dict[str, Any]] = {}
        self._sockets: dict[str, WebSocket] = {}
        self.lose: set[str] = set()  # the types of frames that are lost, each once

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def is_there(self, did: str) -> bool:
        return did in self._sockets

    def cut(self, did: str) -> None:
        """End an agent's connection as a cable does that is cut."""
        self._loop.call_soon_threadsafe(lambda: self._sockets.pop(did).cut())

    def close(self, did: str, code: int, reason: str = "") -> None:
        """Close an agent's connection."""
        asyncio.run_coroutine_threadsafe(self._sockets.pop(did).close(code, reason), self._loop).result(10)

    def push(self, did: str, text: dict[str, Any]) -> None:
        """Send an agent a frame of the relay's own."""
        asyncio.run_coroutine_threadsafe(self._sockets[did].send(text), self._loop).result(10)

    def of(self, kind: str, sender: str | None = None) -> list[dict[str, Any]]:
        """Return the frames of a type that came, from an agent or from all."""
        return [one for one in self.frames if one.get("type") == kind and sender in (None, one.get("from"))]

    async def serve(self, method: str, target: str, headers: dict[str, str], reader: Any, writer: Any) -> None:
        if method != "GET" or urlsplit(target).path != "/ws" or "sec-websocket-key" not in headers:
            writer.write(b"HTTP/1.1 404 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        socket = WebSocket(reader, writer)
        await socket.accept(headers["sec-websocket-key"])
        async with asyncio.timeout(10):
            first = await socket.receive()
        if first is None or not await self._is_welcome(socket, json.loads(first)):
            return
        did = json.loads(first)["from"]
        await self._enter(did, socket)
        try:
            while (text := await socket.receive()) is not None:
                frame = json.loads(text)
                self.frames.append(frame)
                if frame.get("type") == "disconnect":
                    await socket.close(1000)
                    return
                await self._take(did, socket, frame)
                self._tell()
        finally:
            if self._sockets.get(did) is socket:
                del self._sockets[did]
            self._tell()

    async def _is_welcome(self, socket: WebSocket, frame: dict[str, Any]) -> bool:
        self.frames.append(frame)
        if frame.get("type") != "connect":
            return await self._refuse(socket, 4001)
        try:
            public = base64.b64decode(frame["public_key"], validate=True)
            signature = base64.b64decode(frame["signature"], validate=True)
        except (KeyError, ValueError):
            return await self._refuse(socket, 4005)
        at = frame.get("timestamp", "")
        if frame.get("from") != did_of(public) or not is_proved(public, at, at, signature):
            return await self._refuse(socket, 4005)
        return True

    async def _refuse(self, socket: WebSocket, code: int) -> bool:
        await socket.send({"type": "error", "detail": "refused"})
        await socket.close(code)
        return False

    async def _enter(self, did: str, socket: WebSocket) -> None:
        before, self._sockets[did] = self._sockets.get(did), socket
        if before is not None:
            await before.close(self._replaced_code, "session_replaced")
        for frame in [one for one in self.stored.values() if one["to"] == did]:
            await socket.send(frame)
        self._tell()

    async def _take(self, did: str, socket: WebSocket, frame: dict[str, Any]) -> None:
        kind = frame.get("type")
        if kind == "ack":
            self.stored.pop(frame.get("id", ""), None)
        elif kind == "heartbeat":
            socket.heard_at = time.monotonic()
        elif kind not in ("message", "knock", "knock_accept", "knock_reject"):
            await socket.send({"type": "error", "detail": f"Unknown frame type: {kind}"})
        elif frame.get("to") and frame.get("id") and frame.setdefault("from", did) == did:
            if kind in self.lose:
                self.lose.discard(kind)
                return
            await self._route(frame)

    async def _route(self, frame: dict[str, Any]) -> None:
        there = self._sockets.get(frame["to"])
        if there is not None and time.monotonic() - there.heard_at <= self._patience:
            with contextlib.suppress(OSError):
                await there.send(frame)
                return
        self.stored.setdefault(frame["id"], frame)

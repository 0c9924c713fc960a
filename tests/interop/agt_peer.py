"""Run by AGT's environment: an agent that speaks the wire as kars' client does, with AGT's own X3DH and ratchet.

It is as lax as they are: it takes any KNOCK, a new one replaces its session, its ratchet moves before a tag is checked,
and it acknowledges nothing. With "ts" manners it does what the TypeScript client of AGT's main branch does instead: it
accepts, acknowledges, keeps the session that it has, holds five early messages for three seconds, and gives up a
session on the first message that does not open. Requests are those of agt_wire.py, and:

    {"do": "start", "registry", "relay", "name", "seed", "manners", "echo"} -> {"did"}
    {"do": "restart"}: all but the identity is forgotten, as in a new process
    {"do": "connect", "relay"}: again, after `close` or `drop`
    {"do": "knock", "to"}: begins a session, whatever there is
    {"do": "send", "to", "payloads": ["text" or {"b64"} or {"json"}], "hold"} -> {"frames"}: begins a session if need be
    {"do": "release", "order": [1, 0]}: sends what was held; what is not named is lost
    {"do": "heartbeat"}

Events: message (from, id, and text, b64 or json), knock, dropped, undecryptable, refused, frame (any other), closed.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from agentmesh.encryption.channel import ChannelEstablishment, SecureChannel
from agentmesh.encryption.ratchet import EncryptedMessage, MessageHeader
from agentmesh.encryption.x3dh import PreKeyBundle, X3DHKeyManager
from agt_wire import Wire, serve
from nacl.signing import SigningKey

EARLY_MAX = 5
EARLY_SECONDS = 3


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def std64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def unbase64(text: str) -> bytes:
    return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4))


def wrapped(payload: Any) -> bytes:
    """Return what is sealed: kars makes a JSON string of text, and an object of other bytes; TypeScript any JSON."""
    if isinstance(payload, str):
        return json.dumps(payload).encode()
    if "json" in payload:
        return json.dumps(payload["json"], separators=(",", ":"), ensure_ascii=False).encode()
    return json.dumps({"raw_b64": payload["b64"]}).encode()


def unwrapped(plaintext: bytes) -> dict[str, Any]:
    value = json.loads(plaintext)
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, dict) and set(value) == {"raw_b64"}:
        return {"b64": value["raw_b64"]}
    return {"json": value}


class Peer(Wire):
    """An agent of theirs."""

    def __init__(self) -> None:
        super().__init__()
        self._channels: dict[str, SecureChannel] = {}
        self._early: dict[str, list[tuple[float, dict[str, Any]]]] = {}
        self._held: list[dict[str, Any]] = []

    async def do_start(
        self,
        registry: str,
        relay: str,
        name: str = "peer",
        seed: str | None = None,
        manners: str = "kars",
        echo: bool = False,
        one_time: int = 10,
    ) -> dict[str, Any]:
        self._registry, self._relay, self._echo, self._one_time = registry, relay, echo, one_time
        self._ts = manners == "ts"
        self._key = SigningKey.generate() if seed is None else SigningKey(bytes.fromhex(seed))
        self._public = bytes(self._key.verify_key)
        self.did = f"did:mesh:{hashlib.sha256(self._public).hexdigest()[:32]}"
        await self._register(name)
        await self._fresh()
        await self.do_connect()
        return {"did": self.did}

    # --- the registry ------------------------------------------------------------------------------------------------

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        at = now()
        headers = {"Authorization": f"Ed25519-Timestamp {self.did} {at} {url64(self._key.sign(at.encode()).signature)}"}
        text = "" if body is None else json.dumps(body)
        answer = await self.do_http(method, f"{self._registry}/v1/{path}", headers, text)
        if answer["status"] not in (200, 201, 409):
            raise ValueError(f"the registry says {answer}")
        return json.loads(answer["body"])

    async def _register(self, name: str) -> None:
        public, at = url64(self._public), now()
        await self._call(
            "POST",
            "agents",
            {
                "public_key": public,
                "proof": url64(self._key.sign((public + at).encode()).signature),
                "proof_timestamp": at,
                "capabilities": [name],
                "metadata": {"display_name": name, "runtime": "python"},
            },
        )

    async def _fresh(self) -> None:
        """Make keys as a new process does: ids begin at 0 again, and no old private key is known."""
        self._manager = X3DHKeyManager.from_ed25519_keys(bytes(self._key) + self._public, self._public)
        self._manager.generate_signed_pre_key()
        self._channels.clear()
        self._early.clear()
        await self._publish()

    async def _publish(self) -> None:
        signed = self._manager.signed_pre_key
        one_time = self._manager.generate_one_time_pre_keys(self._one_time)
        await self._call(
            "PUT",
            f"agents/{self.did}/prekeys",
            {
                "identity_key": url64(self._manager.identity_key.public_key),
                "identity_key_ed": url64(self._public),
                "signed_pre_key": {
                    "key_id": signed.key_id,
                    "public_key": url64(signed.key_pair.public_key),
                    "signature": url64(signed.signature),
                },
                "one_time_pre_keys": [
                    {"key_id": key.key_id, "public_key": url64(key.key_pair.public_key)} for key in one_time
                ],
            },
        )

    async def _fetch(self, did: str) -> PreKeyBundle:
        found = await self._call("GET", f"agents/{did}/prekeys")
        signed, one_time = found["signed_pre_key"], found["one_time_pre_key"]
        return PreKeyBundle(
            identity_key=unbase64(found["identity_key"]),
            identity_key_ed=unbase64(found["identity_key_ed"]),
            signed_pre_key=unbase64(signed["public_key"]),
            signed_pre_key_signature=unbase64(signed["signature"]),
            signed_pre_key_id=signed["key_id"],
            one_time_pre_key=None if one_time is None else unbase64(one_time["public_key"]),
            one_time_pre_key_id=None if one_time is None else one_time["key_id"],
        )

    # --- the relay ---------------------------------------------------------------------------------------------------

    async def do_connect(self, relay: str | None = None) -> dict[str, Any]:
        self._relay = self._relay if relay is None else relay
        await self.do_open(self._relay)
        at = now()
        signature = std64(self._key.sign(at.encode()).signature)
        key = std64(self._public)
        frame = {"v": 1, "type": "connect", "from": self.did, "public_key": key, "timestamp": at}
        await self.send({**frame, "signature": signature})
        return await self.do_sync()

    async def do_restart(self, one_time: int | None = None) -> dict[str, Any]:
        self._one_time = self._one_time if one_time is None else one_time
        if self._socket is not None:
            await self.do_drop()
        await self._fresh()
        return await self.do_connect()

    async def do_heartbeat(self) -> dict[str, Any]:
        await self.send({"v": 1, "type": "heartbeat", "from": self.did, "ts": now()})
        return await self.do_sync()

    def _frame(self, kind: str, to: str, **fields: Any) -> dict[str, Any]:
        return {"v": 1, "type": kind, "from": self.did, "to": to, "id": str(uuid.uuid4()), "ts": now(), **fields}

    async def _out(self, frame: dict[str, Any], hold: bool = False) -> dict[str, Any]:
        if hold:
            self._held.append(frame)
        else:
            await self.send(frame)
        return frame

    async def do_knock(self, to: str, hold: bool = False) -> dict[str, Any]:
        channel, made = SecureChannel.create_sender(self._manager, await self._fetch(to), f"{self.did}|{to}".encode())
        self._channels[to] = channel
        establishment = {"ik": std64(made.initiator_identity_key), "ek": std64(made.ephemeral_public_key)}
        if made.used_one_time_key_id is not None:
            establishment["otk"] = made.used_one_time_key_id
        frame = self._frame("knock", to, intent={"action": "establish_session"}, establishment=establishment)
        return {"frames": [await self._out(frame, hold)]}

    async def _seal(self, to: str, plaintext: bytes, hold: bool = False) -> dict[str, Any]:
        sealed = self._channels[to].send(plaintext)
        header = {
            "dh": std64(sealed.header.dh_public_key),
            "pn": sealed.header.previous_chain_length,
            "n": sealed.header.message_number,
        }
        return await self._out(self._frame("message", to, header=header, ciphertext=std64(sealed.ciphertext)), hold)

    async def do_send(self, to: str, payloads: list[Any], hold: bool = False) -> dict[str, Any]:
        frames = [] if to in self._channels else (await self.do_knock(to, hold))["frames"]
        for payload in payloads:
            frames.append(await self._seal(to, wrapped(payload), hold))
        return {"frames": frames}

    async def do_release(self, order: list[int] | None = None) -> None:
        held, self._held = self._held, []
        for at in range(len(held)) if order is None else order:
            await self.send(held[at])

    # --- what comes --------------------------------------------------------------------------------------------------

    async def on_frame(self, frame: dict[str, Any]) -> None:
        kind, sender = frame.get("type"), frame.get("from", "")
        if kind == "knock":
            await self._knocked(sender, frame)
        elif kind == "message":
            await self._opened(sender, frame)
        else:
            if kind == "knock_reject" and self._ts:
                self._channels.pop(sender, None)
            self.happened("frame", frame=frame)

    async def _knocked(self, sender: str, frame: dict[str, Any]) -> None:
        fields, accepted = frame["establishment"], True
        if not (self._ts and sender in self._channels):
            made = ChannelEstablishment(unbase64(fields["ik"]), unbase64(fields["ek"]), fields.get("otk"))
            try:
                self._channels[sender] = SecureChannel.create_receiver(
                    self._manager, made, f"{sender}|{self.did}".encode()
                )
            except Exception as error:
                accepted = False
                self.happened("refused", sender=sender, why=str(error))
            else:
                self.happened("knock", sender=sender, one_time=fields.get("otk"))
        if not self._ts:
            if accepted:
                await self._publish()
            return
        kind, more = ("knock_accept", {}) if accepted else ("knock_reject", {"reason": "policy_denied"})
        await self.send(self._frame(kind, sender, knock_id=frame["id"], **more))
        for at, early in self._early.pop(sender, []):
            if time.monotonic() - at < EARLY_SECONDS:
                await self._opened(sender, early)

    async def _opened(self, sender: str, frame: dict[str, Any]) -> None:
        channel = self._channels.get(sender)
        if channel is None:
            if self._ts:
                early = self._early.setdefault(sender, [])
                early.append((time.monotonic(), frame))
                del early[:-EARLY_MAX]
            else:
                self.happened("dropped", sender=sender, id=frame["id"])
            return
        header = frame["header"]
        sealed = EncryptedMessage(
            MessageHeader(unbase64(header["dh"]), header["pn"], header["n"]), unbase64(frame["ciphertext"])
        )
        try:
            plaintext = channel.receive(sealed)
        except Exception as error:
            if self._ts:
                del self._channels[sender]
            self.happened("undecryptable", sender=sender, id=frame["id"], why=type(error).__name__)
            return
        if self._ts:
            await self.send({"v": 1, "type": "ack", "id": frame["id"]})
        self.happened("message", sender=sender, id=frame["id"], **unwrapped(plaintext))
        if self._echo:
            await self._seal(sender, plaintext)


if __name__ == "__main__":

    async def main() -> None:
        await serve(Peer())

    asyncio.run(main())

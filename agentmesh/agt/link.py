"""One connection to AGT's relay: what to send when, and what to do when it ends (docs/agt.md).

It moves nothing and knows no socket. The relay answers nothing to a connection that it takes; what it does not take, it
closes. Mail is pushed to whoever is connected and has sent a heartbeat, a frame of that type, within 90 s: to others it
is kept back, and only a new connection brings it.
"""

from __future__ import annotations

from typing import Final, final

from attrs import frozen

from agentmesh.agt.frames import (
    RELAY_MAX_BYTES,
    AgtFrame,
    ack_frame,
    connect_frame,
    disconnect_frame,
    frame_object,
    heartbeat_frame,
)
from agentmesh.agt_identity import AgtIdentity
from agentmesh.engine.guard import check_given
from agentmesh.engine.hooks import Clock, read_clock
from agentmesh.errors import ArgumentInvalid, Malformed, TooLarge
from agentmesh.primitives.arguments import frameless, text_argument, uint_argument
from agentmesh.primitives.buckets import Elapsed
from agentmesh.primitives.entropy import CheckedEntropy, Entropy, SystemEntropy
from agentmesh.primitives.keys import Redacted

HEARTBEAT_MS: Final = 30_000
MAIL_STOPS_MS: Final = 90_000  # without a heartbeat for so long

_UNDERWAY_MS: Final = 10_000  # a heartbeat may take so long to get there
_TOKEN_MAX_BYTES: Final = 16_384
_PAUSE_FIRST_MS: Final = 1000
_PAUSE_LONGEST_MS: Final = 60_000

_REPLACED: Final = "another connection of this identity has taken its place: two that reconnect would take turns"
# Codes after which the same connection would end in the same way, or would do harm.
_FINAL: Final = {
    4001: "the first frame was not that of connect: the relay reads nothing before it",
    4002: "the relay found no DID in the first frame: it is not the relay that this speaks to",
    4003: "the relay wants a token, or another one",
    4005: "the proof was not taken: this clock is off by over five minutes, or the key is not the DID's",
    4006: _REPLACED,
}
_CLOSED: Final = 1000
_PASSING: Final = {
    _CLOSED: "the relay closed: it ends, or an older one gave this place to another connection of this identity",
    1006: "the connection was lost, or the relay dropped it: it does so on what is no JSON",
    1009: "a frame was too large: nothing brings that one through",
    4004: "the relay heard nothing for 90 s: heartbeats were not sent, or were lost",
}
_UNKNOWN: Final = "the relay closed with a code that means nothing here"
_REPLACED_REASON: Final = "session_replaced"

_ID_TYPES: Final = (str, int, float, bool)  # the relay stores a frame by whatever its sender put there


@final
@frozen(kw_only=True)
class Advice:
    """What to do after a connection has ended.

    Attributes:
        reconnect: Whether to connect again; if not, a person or the program has something to mend first.
        after_ms: How long to wait before that, in milliseconds; 0 where `reconnect` is false.
        why: What is known of the end, in a fixed phrase.
    """

    reconnect: bool
    after_ms: int
    why: str


@final
class RelayLink(Redacted):
    """One agent's side of its connections to one relay. For one loop: it is not locked, and lost with the process.

    Time is counted, not compared: a clock that is set back or forward neither ends heartbeats nor brings many at once.
    """

    __slots__ = ("_beaten_ms", "_clock", "_connected_ms", "_elapsed", "_entropy", "_has_lapsed", "_identity",
                 "_is_connected", "_pause_ms", "_token")  # fmt: skip

    @frameless
    def __init__(
        self, identity: AgtIdentity, clock: Clock, token: str | None = None, *, entropy: Entropy | None = None
    ) -> None:
        """Connect nothing yet.

        Args:
            identity: Whose connections they are.
            clock: Returns milliseconds since the epoch. The relay's may differ by five minutes.
            token: What the relay asks for besides, if anything, 1 to 16,384 bytes of text. It is a secret.
            entropy: Where the pauses between connections take their chance from; the operating system by default.

        Raises:
            ArgumentInvalid: an argument of another type or form, or a clock that shows no time.
        """
        if type(identity) is not AgtIdentity:
            raise ArgumentInvalid("identity", "not an AgtIdentity")
        check_given(clock=clock, limits=None, entropy=entropy)
        self._identity = identity
        self._clock = clock
        self._token = None if token is None else text_argument("token", token, 1, _TOKEN_MAX_BYTES)
        self._entropy = CheckedEntropy(SystemEntropy() if entropy is None else entropy)
        self._elapsed = Elapsed(MAIL_STOPS_MS)
        self._connected_ms = self._beaten_ms = self._elapsed.at(read_clock(clock))
        self._is_connected = self._has_lapsed = False
        self._pause_ms = _PAUSE_FIRST_MS

    # --- what to send ------------------------------------------------------------------------------------------------

    def connect(self) -> AgtFrame:
        """Return the first frame of a new connection. No answer comes: go on, until the relay closes or pushes mail."""
        now_ms = read_clock(self._clock)
        self._connected_ms = self._beaten_ms = self._elapsed.at(now_ms)  # the relay counts it as the first heartbeat
        self._is_connected, self._has_lapsed = True, False
        return AgtFrame(connect_frame(self._identity, now_ms, self._token))

    @property
    def next_heartbeat_ms(self) -> int:
        """When the next heartbeat is due, by the link's clock; a whole interval from now where nothing is connected."""
        now_ms = read_clock(self._clock)
        since_ms = self._elapsed.at(now_ms) - self._beaten_ms if self._is_connected else 0
        return now_ms + max(0, HEARTBEAT_MS - since_ms)

    @property
    def has_lapsed(self) -> bool:
        """Whether the relay may be keeping mail back, because heartbeats were too far apart.

        Those that follow do not help: close the connection, and connect again.
        """
        since_ms = self._elapsed.at(read_clock(self._clock)) - self._beaten_ms
        return self._is_connected and (self._has_lapsed or since_ms >= MAIL_STOPS_MS - _UNDERWAY_MS)

    def heartbeat(self) -> AgtFrame | None:
        """Return a heartbeat to send now, or `None` where none is due. What else is sent does not stand for one."""
        if not self._is_connected:
            return None
        self._has_lapsed = self.has_lapsed
        now_ms = read_clock(self._clock)
        elapsed_ms = self._elapsed.at(now_ms)
        if elapsed_ms - self._beaten_ms < HEARTBEAT_MS:
            return None
        self._beaten_ms = elapsed_ms
        return AgtFrame(heartbeat_frame(self._identity.did, now_ms))

    def ack(self, frame: bytes | str) -> AgtFrame | None:
        """Return what has the relay forget a frame, once that is done with; else each connection brings it again.

        Args:
            frame: What came from the relay, taken or refused: a bad one is to be forgotten as well.

        Returns:
            The acknowledgement, or `None` where there is nothing to acknowledge: a notice of the relay itself, or what
            has no id that can be read.

        Raises:
            ArgumentInvalid: neither text nor bytes.
        """
        try:
            fields = frame_object(frame, RELAY_MAX_BYTES)
        except (TooLarge, Malformed):
            return None
        frame_id = fields.get("id")
        if type(frame_id) not in _ID_TYPES or not frame_id or fields.get("type") == "error":
            return None
        return AgtFrame(ack_frame(frame_id))

    def disconnect(self) -> AgtFrame:
        """Return the last frame of a connection, which the relay closes then."""
        return AgtFrame(disconnect_frame(self._identity.did))

    # --- when it has ended -------------------------------------------------------------------------------------------

    def closed(self, code: int, reason: str = "") -> Advice:
        """Return what to do now that the connection has ended, or was never made.

        Pauses double from one second to a minute, half of each left to chance, so that the agents of a relay that was
        restarted do not all come at once; a connection that held for a heartbeat's interval begins them anew.

        Args:
            code: The close code of the WebSocket; 1006 where there was none.
            reason: What came with it.

        Raises:
            ArgumentInvalid: no close code.
            RandomnessFailed: the source of randomness broke its contract.
        """
        # A library for WebSockets may give an enumeration's member.
        code = uint_argument("code", int(code) if isinstance(code, int) else code, 4999, minimum=1000)
        draw = int.from_bytes(self._entropy.token(4), "big")
        elapsed_ms = self._elapsed.at(read_clock(self._clock))
        if self._is_connected and elapsed_ms - self._connected_ms >= HEARTBEAT_MS:
            self._pause_ms = _PAUSE_FIRST_MS
        self._is_connected = self._has_lapsed = False
        if code in _FINAL or reason == _REPLACED_REASON:
            return Advice(reconnect=False, after_ms=0, why=_FINAL.get(code, _REPLACED))
        # Two that take each other's place without knowing it do so at least no oftener than that.
        pause_ms = _PAUSE_LONGEST_MS if code == _CLOSED else self._pause_ms
        self._pause_ms = min(2 * self._pause_ms, _PAUSE_LONGEST_MS)
        half_ms = pause_ms // 2
        return Advice(reconnect=True, after_ms=half_ms + draw % (half_ms + 1), why=_PASSING.get(code, _UNKNOWN))

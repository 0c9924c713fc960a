"""The Double Ratchet with header encryption (docs/protocol.md, section 6; Signal's specification, section 4).

Theory of operation. Each side has a sending chain and a receiving chain; every message has a key of its own from its
chain. With each turn of the conversation the side that answers brings a fresh ratchet key, and a Diffie-Hellman mixes
it into the root key, from which the next chains come. The header (ratchet key, length of the previous chain, number) is
sealed under a header key that the previous turn agreed on, so opening it says which chain a message belongs to:

    current receiving header key -> the current chain;   next receiving header key -> the peer has taken a turn;
    header key of a past chain   -> a late message, whose key was skipped and kept.

Three rules make it hold under attack. *Opening changes nothing*: `Ratchet.open` returns what it would change as a
value, which the owner applies as its last statement, after everything about the message has been checked. *Work is
bounded before it is done*: a gap is measured before a key is derived, and the costly half of a turn (a new key pair, a
second Diffie-Hellman) is computed only for a message that has been authenticated. *Every number answers for itself*: a
header that contradicts its chain is refused even though it is authentic.

This module calls no primitive. A `Suite` gives them, and says how a header names its chain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, final

from attrs import frozen

from agentmesh.errors import ChainExhausted, ContradictoryHeader, DecryptionFailed, DuplicateMessage, GapTooLarge
from agentmesh.limits import COUNTER_MAX, KEPT_CHAINS, Limits
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import ChainKey, HeaderKey, MessageKey, Redacted, RootKey, X25519PublicKey, X25519Secret
from agentmesh.session.chains import OpenDelta, PastChain, ReceivingChain, SendingChain, SkippedAt, Turn


class RatchetHeader(NamedTuple):
    """What a message says about itself, sealed: the sender's ratchet key, `pn`, and `n`."""

    key: X25519PublicKey
    previous_length: int
    n: int


@frozen(kw_only=True)
class Suite:
    """The primitives that a ratchet runs on, and how its headers name their chain.

    Attributes:
        key_pair: Return a fresh (secret, public).
        dh: Return the shared secret of (secret, public); raises `BadPoint`.
        kdf_root: From (root key, shared secret) to (root key, chain key, next header key).
        kdf_chain: From a chain key to (chain key, message key).
        seal: From (header key, message key, header, context, plaintext, nonce) to the message, in parts to be joined.
        parse: From bytes and where in them the message begins to the frame that the two `open` calls take; raises
            `Malformed`.
        open_header: From (header key, frame) to the header, or `None` if it is not of that chain.
        open_body: From (message key, frame, context) to the plaintext; raises `DecryptionFailed`.
        chain_name: From (header key of the new chain, the peer's ratchet key) to what names the chain from then on.
        past_first: Try past chains before the next one: for a suite whose headers are in clear, where the next chain
            is whatever is not known yet.
    """

    key_pair: Callable[[Entropy], tuple[X25519Secret, X25519PublicKey]]
    dh: Callable[[X25519Secret, X25519PublicKey], bytes]
    kdf_root: Callable[[RootKey, bytes], tuple[RootKey, ChainKey, HeaderKey]]
    kdf_chain: Callable[[ChainKey], tuple[ChainKey, MessageKey]]
    seal: Callable[[HeaderKey, MessageKey, RatchetHeader, bytes, bytes, bytes], tuple[bytes, ...]]
    parse: Callable[[bytes, int], Any]
    open_header: Callable[[HeaderKey, Any], RatchetHeader | None]
    open_body: Callable[[MessageKey, Any, bytes], bytes]
    chain_name: Callable[[HeaderKey, X25519PublicKey], HeaderKey]
    past_first: bool = False


@final
class Opened(Redacted):
    """An authenticated message, not yet accepted: the owner checks its content, then asks for the `delta`.

    Attributes:
        plaintext: What was sealed.
        header: The authentic header.
        number: The running number in this direction: the chain's start + n.
        message_key: For a disclosure that was asked for.
    """

    __slots__ = ("_delta", "header", "message_key", "number", "plaintext")

    def __init__(
        self,
        plaintext: bytes,
        header: RatchetHeader,
        number: int,
        message_key: MessageKey,
        delta: OpenDelta | Callable[[Entropy], OpenDelta],
    ) -> None:
        self.plaintext: bytes = plaintext
        self.header: RatchetHeader = header
        self.number: int = number
        self.message_key: MessageKey = message_key
        self._delta = delta

    def delta(self, entropy: Entropy) -> OpenDelta:
        """Return what accepting this message changes; a turn's fresh key pair is drawn here."""
        delta = self._delta
        return delta if isinstance(delta, OpenDelta) else delta(entropy)


_NOTHING: Final[tuple[Any, ...]] = ()


@final
class Ratchet(Redacted):
    """The state of one side: made by `initiator` or `responder`, changed by `apply_sealed` and `apply` alone."""

    __slots__ = (
        "next_receiving",
        "next_sending",
        "past",
        "public",
        "receiving",
        "root",
        "secret",
        "sending",
        "skipped",
        "suite",
    )

    def __init__(
        self,
        suite: Suite,
        root: RootKey,
        secret: X25519Secret,
        public: X25519PublicKey,
        sending: SendingChain | None,
        receiving: ReceivingChain | None,
        next_sending: HeaderKey,
        next_receiving: HeaderKey,
        past: tuple[PastChain, ...] = (),
        skipped: dict[SkippedAt, tuple[MessageKey, int]] | None = None,
    ) -> None:
        self.suite: Suite = suite
        self.root: RootKey = root
        self.secret: X25519Secret = secret
        self.public: X25519PublicKey = public
        self.sending: SendingChain | None = sending
        self.receiving: ReceivingChain | None = receiving
        self.next_sending: HeaderKey = next_sending
        self.next_receiving: HeaderKey = next_receiving
        self.past: tuple[PastChain, ...] = past  # oldest first
        self.skipped: dict[SkippedAt, tuple[MessageKey, int]] = {} if skipped is None else skipped  # oldest first

    @classmethod
    def initiator(
        cls,
        suite: Suite,
        root: RootKey,
        secret: X25519Secret,
        public: X25519PublicKey,
        *,
        header_key_ab: HeaderKey,
        header_key_ba: HeaderKey,
    ) -> Ratchet:
        """Return A's ratchet before the ACCEPT: no chains, and EK as its ratchet key. It can open, not seal."""
        return cls(suite, root, secret, public, None, None, header_key_ab, header_key_ba)

    @classmethod
    def responder(
        cls,
        suite: Suite,
        root: RootKey,
        ephemeral: X25519PublicKey,
        *,
        header_key_ab: HeaderKey,
        header_key_ba: HeaderKey,
        entropy: Entropy,
    ) -> Ratchet:
        """Return B's ratchet, which is the first to seal: with the ACCEPT."""
        secret, public = suite.key_pair(entropy)
        root, chain_key, next_sending = suite.kdf_root(root, suite.dh(secret, ephemeral))
        sending = SendingChain(chain_key, header_key_ba, 0, 0, 0)
        return cls(suite, root, secret, public, sending, None, next_sending, header_key_ab)

    def copy(self) -> Ratchet:
        """Return a ratchet of the same state that can be changed apart."""
        return Ratchet(
            self.suite,
            self.root,
            self.secret,
            self.public,
            self.sending,
            self.receiving,
            self.next_sending,
            self.next_receiving,
            self.past,
            dict(self.skipped),
        )

    # --- sealing ---------------------------------------------------------------------------------------------------

    def seal(
        self, plaintext: bytes, context: bytes, nonce: bytes, turn: Turn | None = None
    ) -> tuple[tuple[bytes, ...], MessageKey, SendingChain]:
        """Return (message in parts, its key, the sending chain after it). Nothing changes until `apply_sealed`.

        The parts are joined by the caller, once, with what it puts before them.

        With `turn`, seal over the state after that turn, which is to be applied first.

        Raises:
            ChainExhausted: the chain has reached its last number, or there is none yet.
        """
        chain, public = (self.sending, self.public) if turn is None else (turn.sending, turn.public)
        # The length of a chain travels as pn and must fit it too, so the last number is never used.
        if chain is None or chain.n >= COUNTER_MAX:
            raise ChainExhausted
        chain_key, message_key = self.suite.kdf_chain(chain.key)
        header = RatchetHeader(public, chain.previous_length, chain.n)
        message = self.suite.seal(chain.header_key, message_key, header, context, plaintext, nonce)
        after = SendingChain(chain_key, chain.header_key, chain.n + 1, chain.previous_length, chain.start)
        return message, message_key, after

    def apply_sealed(self, chain: SendingChain) -> None:
        """Commit what `seal` returned. Do so before the message leaves."""
        self.sending = chain

    # --- opening ---------------------------------------------------------------------------------------------------

    def awaits(self, message: bytes, *, start: int = 0) -> bool:
        """Say whether the message at `start` is sealed under the next receiving header key: the peer has taken a turn.

        Raises:
            Malformed: not a message of this suite.
        """
        return self.suite.open_header(self.next_receiving, self.suite.parse(message, start)) is not None

    def open(self, message: bytes, context: bytes, now_ms: int, limits: Limits, start: int = 0) -> Opened:
        """Return the authenticated message that begins at `start`. The state is untouched, whatever happens. Section 6.

        Raises:
            Malformed: not a message of this suite.
            DecryptionFailed: no header key opens its header, or its body is not authentic.
            DuplicateMessage: it was opened before, or its key was evicted.
            GapTooLarge: more messages are missing than `limits.skipped_keys_per_step`.
            ContradictoryHeader: an authentic header that contradicts its chain.
            BadPoint: an authentic header with a ratchet key of small order.
        """
        frame = self.suite.parse(message, start)
        open_header = self.suite.open_header
        receiving = self.receiving
        if receiving is not None:
            header = open_header(receiving.header_key, frame)
            if header is not None:
                return self._open_current(receiving, header, frame, context, now_ms, limits)
        if not self.suite.past_first:
            header = open_header(self.next_receiving, frame)
            if header is not None:
                return self._open_turn(header, frame, context, now_ms, limits)
        for past in reversed(self.past):
            header = open_header(past.header_key, frame)
            if header is not None:
                if header.n >= past.length:
                    raise ContradictoryHeader
                return self._open_skipped(past.serial, past.start, header, frame, context, now_ms, limits)
        if self.suite.past_first:
            header = open_header(self.next_receiving, frame)
            if header is not None:
                return self._open_turn(header, frame, context, now_ms, limits)
        raise DecryptionFailed

    def _open_current(
        self, chain: ReceivingChain, header: RatchetHeader, frame: Any, context: bytes, now_ms: int, limits: Limits
    ) -> Opened:
        key, previous_length, n = header
        if key != chain.peer_key or previous_length != chain.previous_length or n >= COUNTER_MAX:
            raise ContradictoryHeader
        if n < chain.n:
            return self._open_skipped(chain.serial, chain.start, header, frame, context, now_ms, limits)
        chain_key = chain.key
        skipped: Sequence[tuple[SkippedAt, MessageKey]] = _NOTHING
        if n > chain.n:
            if n - chain.n > limits.skipped_keys_per_step:
                raise GapTooLarge(None, n - chain.n, limits.skipped_keys_per_step)
            chain_key, skipped = self._skip(chain_key, chain.serial, chain.n, n)
        chain_key, message_key = self.suite.kdf_chain(chain_key)
        plaintext = self.suite.open_body(message_key, frame, context)
        after = ReceivingChain(chain_key, chain.header_key, key, n + 1, previous_length, chain.start, chain.serial)
        evicted = self._evictions(len(skipped), now_ms, limits) if self.skipped else _NOTHING
        delta = OpenDelta(after, None, skipped, None, evicted, now_ms)
        return Opened(plaintext, header, chain.start + n, message_key, delta)

    def _open_turn(self, header: RatchetHeader, frame: Any, context: bytes, now_ms: int, limits: Limits) -> Opened:
        old = self.receiving
        received = 0 if old is None else old.n
        if header.previous_length < received or header.n >= COUNTER_MAX or (old is None and header.previous_length):
            raise ContradictoryHeader
        gap = header.previous_length - received + header.n
        if gap > limits.skipped_keys_per_step:
            raise GapTooLarge(None, gap, limits.skipped_keys_per_step)
        root, chain_key, next_receiving = self.suite.kdf_root(self.root, self.suite.dh(self.secret, header.key))
        serial = 0 if old is None else old.serial + 1
        start = 0 if old is None else old.start + header.previous_length
        chain_key, skipped = self._skip(chain_key, serial, 0, header.n)
        chain_key, message_key = self.suite.kdf_chain(chain_key)
        plaintext = self.suite.open_body(message_key, frame, context)

        def finish(entropy: Entropy) -> OpenDelta:
            name = self.suite.chain_name(self.next_receiving, header.key)
            receiving = ReceivingChain(chain_key, name, header.key, header.n + 1, header.previous_length, start, serial)
            past, added = self.past, skipped
            if old is not None:
                past = (*past, PastChain(old.header_key, header.previous_length, old.start, old.serial))[-KEPT_CHAINS:]
                _, rest = self._skip(old.key, old.serial, old.n, header.previous_length)
                added = [*rest, *skipped]
            secret, public = self.suite.key_pair(entropy)
            next_root, sending_key, next_sending = self.suite.kdf_root(root, self.suite.dh(secret, header.key))
            sent = self.sending
            length, sent_before = (0, 0) if sent is None else (sent.n, sent.start + sent.n)
            sending = SendingChain(sending_key, self.next_sending, 0, length, sent_before)
            turn = Turn(next_root, secret, public, sending, next_sending, next_receiving, past)
            oldest_kept = past[0].serial if past else serial
            evicted = self._evictions(len(added), now_ms, limits, oldest_kept)
            return OpenDelta(receiving, turn, added, None, evicted, now_ms)

        return Opened(plaintext, header, start + header.n, message_key, finish)

    def _open_skipped(
        self, serial: int, start: int, header: RatchetHeader, frame: Any, context: bytes, now_ms: int, limits: Limits
    ) -> Opened:
        at = (serial, header.n)
        kept = self.skipped.get(at)
        if kept is None or kept[1] < now_ms - limits.skipped_key_lifetime_seconds * 1000:
            raise DuplicateMessage
        message_key = kept[0]
        plaintext = self.suite.open_body(message_key, frame, context)
        delta = OpenDelta(None, None, _NOTHING, at, _NOTHING, now_ms)
        return Opened(plaintext, header, start + header.n, message_key, delta)

    def _skip(
        self, chain_key: ChainKey, serial: int, n: int, until: int
    ) -> tuple[ChainKey, list[tuple[SkippedAt, MessageKey]]]:
        """Return the chain key at number `until`, and the message keys of n .. until - 1."""
        skipped: list[tuple[SkippedAt, MessageKey]] = []
        kdf_chain = self.suite.kdf_chain
        for number in range(n, until):
            chain_key, message_key = kdf_chain(chain_key)
            skipped.append(((serial, number), message_key))
        return chain_key, skipped

    def _evictions(self, adding: int, now_ms: int, limits: Limits, oldest_kept: int = -1) -> Sequence[SkippedAt]:
        """Return which kept keys go: too old, of a chain that is no longer kept, or over the number, oldest first."""
        if not self.skipped:
            return _NOTHING
        horizon = now_ms - limits.skipped_key_lifetime_seconds * 1000
        evicted: list[SkippedAt] = []
        for at, (_, kept_at_ms) in self.skipped.items():
            # Oldest first, and chains in their order: behind the first that stays, all stay.
            if (
                kept_at_ms >= horizon
                and at[0] >= oldest_kept
                and (len(self.skipped) - len(evicted) + adding <= limits.skipped_keys_per_session)
            ):
                break
            evicted.append(at)
        return evicted

    def expired_keys(self, now_ms: int, limits: Limits) -> OpenDelta | None:
        """Return the delta that removes the skipped keys past their lifetime, or `None` if there are none."""
        evicted = self._evictions(0, now_ms, limits)
        return OpenDelta(None, None, _NOTHING, None, evicted, now_ms) if evicted else None

    def apply(self, delta: OpenDelta) -> None:
        """Commit what `Opened.delta` returned. Once more changes nothing."""
        skipped = self.skipped
        if delta.taken is not None:
            skipped.pop(delta.taken, None)
        for at in delta.evicted:
            skipped.pop(at, None)
        for at, message_key in delta.added:
            skipped[at] = (message_key, delta.at_ms)
        if delta.receiving is not None:
            self.receiving = delta.receiving
        turn = delta.turn
        if turn is not None:
            self.root = turn.root
            self.secret = turn.secret
            self.public = turn.public
            self.sending = turn.sending
            self.next_sending = turn.next_sending
            self.next_receiving = turn.next_receiving
            self.past = turn.past

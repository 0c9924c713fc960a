"""The Double Ratchet with header encryption (docs/protocol.md, section 6; Signal's specification, section 4).

Theory of operation. Each side has a sending chain and a receiving chain; every message has a key of its own from its
chain. With each turn of the conversation the side that answers brings a fresh ratchet key, and a Diffie-Hellman mixes
it into the root key, from which the next chains come. The header (ratchet key, length of the previous chain, number) is
sealed under a header key that the previous turn agreed on, so opening it says which chain a message belongs to:

    current receiving header key -> the current chain;   next receiving header key -> the peer has taken a turn;
    header key of a past chain   -> a late message, whose key was skipped and kept.

Now and then a secret of ML-KEM is mixed into the root key too; `agentmesh.session.epochs` says when, and how the two
sides come to share it.

Three rules make it hold under attack. *Opening changes nothing*: `Ratchet.open` returns what it would change as a
value, which the owner applies as its last statement, after everything about the message has been checked. *Work is
bounded before it is done*: a gap is measured before a key is derived, and the costly half of a turn (a new key pair, a
second Diffie-Hellman) is computed only for a message that has been authenticated. *Every number answers for itself*: a
header that contradicts its chain is refused even though it is authentic.

This module calls no primitive. A `Suite` gives them, and says how a header names its chain.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from struct import Struct
from typing import Any, Final, final

from agentmesh.errors import ChainExhausted, ContradictoryHeader, DecryptionFailed, DuplicateMessage, GapTooLarge
from agentmesh.limits import COUNTER_MAX, Limits
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import HeaderKey, MessageKey, Redacted, RootKey, X25519PublicKey, X25519Secret
from agentmesh.session.chains import (
    Delta,
    OpenDelta,
    PastChain,
    ReceivingChain,
    SendingChain,
    SkippedAt,
    Turn,
    fields_of,
    packed,
    unpacked,
)
from agentmesh.session.epochs import Answering, Half, Item, Offering
from agentmesh.session.kept import NO_KEYS, NOTHING, Skipped, evictions, kept_after, skip, staying
from agentmesh.session.needs import RatchetHeader, Suite
from agentmesh.session.turns import turn_of

_TURN_KEYS: Final = Struct("32s32s32s32s")  # root, secret, next sending, next receiving


@final
class Opened(Redacted):
    """An authenticated message, not yet accepted: the owner checks its content, then asks for the `delta`.

    Attributes:
        plaintext: What was sealed.
        header: The authentic header.
        number: The running number in this direction: the chain's start + n.
        message_key: For a disclosure that was asked for.
    """

    __slots__ = ("_delta", "_epochs", "header", "message_key", "number", "plaintext")

    def __init__(
        self,
        plaintext: bytes,
        header: RatchetHeader,
        number: int,
        message_key: MessageKey,
        delta: Delta | Callable[[Entropy, Item | None], OpenDelta],
        epochs: Half,
    ) -> None:
        self.plaintext: bytes = plaintext
        self.header: RatchetHeader = header
        self.number: int = number
        self.message_key: MessageKey = message_key
        self._delta = delta
        self._epochs = epochs

    def delta(self, entropy: Entropy, item: Item | None = None) -> Delta:
        """Return what accepting this message changes.

        Args:
            entropy: For a turn's fresh key pair, and for the answer to an offer.
            item: The offer or answer that the plaintext carries, by `parse_item`. One that is late, repeated, not asked
                for or false is left aside.
        """
        delta = self._delta
        if isinstance(delta, ReceivingChain):
            if item is None:
                return delta
            return OpenDelta(delta, None, NOTHING, None, NOTHING, NOTHING, 0, self._epochs.take(item, entropy))
        if not isinstance(delta, OpenDelta):
            return delta(entropy, item)
        if item is None:
            return delta
        half = self._epochs.take(item, entropy)
        return OpenDelta(delta.receiving, None, delta.added, delta.taken, delta.evicted, delta.lost, delta.at_ms, half)


@final
class Ratchet(Redacted):
    """The state of one side: made by `initiator` or `responder`, changed by `apply_sealed` and `apply` alone.

    Data or a signal is sealed so: `item_out`, if it `begins_chain`; the item into the plaintext; `seal`; `apply_sealed`
    with both results. A message is opened so: `open`; the checks of its content, with `parse_item` for its item;
    `Opened.delta` with the item; `apply`.
    """

    # What a turn alone uses, its keys and the past chains, lies packed: a hub has thousands that rest.
    __slots__ = ("_past", "_turn_keys", "epochs", "public", "receiving", "sending", "skipped", "suite")

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
        epochs: Half,
        past: tuple[PastChain, ...] = (),
        skipped: Skipped = NO_KEYS,
    ) -> None:
        self.suite: Suite = suite
        self.public: X25519PublicKey = public
        self.sending: SendingChain | None = sending
        self.receiving: ReceivingChain | None = receiving
        self._turn_keys: bytes = root + secret + next_sending + next_receiving
        self.epochs: Half = epochs
        self._past: bytes = packed(past)
        self.skipped: Skipped = skipped  # oldest first

    @property
    def root(self) -> RootKey:
        """The root key."""
        return RootKey(self._turn_keys[:32])

    @property
    def secret(self) -> X25519Secret:
        """The secret of this side's ratchet key."""
        return X25519Secret(self._turn_keys[32:64])

    @property
    def next_sending(self) -> HeaderKey:
        """The header key of this side's next chain."""
        return HeaderKey(self._turn_keys[64:96])

    @property
    def next_receiving(self) -> HeaderKey:
        """The header key of the peer's next chain."""
        return HeaderKey(self._turn_keys[96:])

    def packed_fields(self) -> tuple[tuple[RootKey, X25519Secret, HeaderKey, HeaderKey], list[list[Any]]]:
        """Return root, secret and the next header keys, sending first; and the fields of each past chain."""
        return _TURN_KEYS.unpack(self._turn_keys), fields_of(self._past)

    @property
    def past(self) -> tuple[PastChain, ...]:
        """The chains that the peer has left, oldest first."""
        return unpacked(self._past)

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
        return cls(suite, root, secret, public, None, None, header_key_ab, header_key_ba, Offering())

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
        return cls(suite, root, secret, public, sending, None, next_sending, header_key_ab, Answering())

    def copy(self) -> Ratchet:
        """Return a ratchet of the same state that can be changed apart."""
        twin = Ratchet.__new__(Ratchet)
        for name in Ratchet.__slots__:
            setattr(twin, name, getattr(self, name))
        if self.skipped:
            twin.skipped = dict(self.skipped)
        return twin

    # --- sealing ---------------------------------------------------------------------------------------------------

    @property
    def begins_chain(self) -> bool:
        """The next message that this side seals is the first of its chain: it carries what is out."""
        return self.sending is not None and self.sending.n == 0

    def item_out(self, now_ms: int, entropy: Entropy, limits: Limits) -> tuple[bytes, Half | None]:
        """Return (the item of the next message, empty for none; the half after it, or `None` if it stays). Section 6.3.

        Ask before data or a signal is sealed, not before an ACCEPT or a close: those carry none. The half is committed
        with the message, by `apply_sealed`.

        Args:
            now_ms: This side's clock.
            entropy: For a key to offer, 64 bytes.
            limits: `epoch_turns` and `epoch_seconds` say when an offer is due.
        """
        if not self.begins_chain:
            return b"", None
        item, half = self.epochs.item_out(now_ms, entropy, limits)
        return item, None if half is self.epochs else half

    def seal(
        self, plaintext: bytes, context: bytes, nonce: bytes, turn: Turn | None = None
    ) -> tuple[tuple[bytes, ...], MessageKey, SendingChain]:
        """Return (message in parts, its key, the sending chain after it). Nothing changes until `apply_sealed`.

        The parts are joined by the caller, once, with what it puts before them.

        With `turn`, seal over the state after that turn, which is to be applied first.

        Raises:
            ChainExhausted: the chain has reached its last number, or there is none yet.
        """
        if turn is None:
            chain, public, epoch = self.sending, self.public, self.epochs.epoch
        else:
            chain, public, epoch = turn.sending, turn.public, turn.epochs.epoch
        # The length of a chain travels as pn and must fit it too, so the last number is never used.
        if chain is None or chain.n >= COUNTER_MAX:
            raise ChainExhausted
        chain_key, message_key = self.suite.kdf_chain(chain.key)
        header = (public, epoch, chain.previous_length, chain.n)
        message = self.suite.seal(chain.header_key, message_key, header, context, plaintext, nonce)
        after = SendingChain(chain_key, chain.header_key, chain.n + 1, chain.previous_length, chain.start)
        return message, message_key, after

    def apply_sealed(self, chain: SendingChain, epochs: Half | None = None) -> None:
        """Commit what `seal` returned, and `item_out` before it. Do so before the message leaves."""
        self.sending = chain
        if epochs is not None:
            self.epochs = epochs

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
            ContradictoryHeader: an authentic header that contradicts its chain, or an epoch that cannot be.
            BadPoint: an authentic header with a ratchet key of small order.
        """
        frame = self.suite.parse(message, start)
        open_header, past_first = self.suite.open_header, self.suite.past_first
        receiving, sending = self.receiving, self.sending
        # Whoever has sealed in its chain awaits the peer's next one: tried first, a turn takes one opening and not two.
        turn_first = sending is not None and sending.n > 0 and not past_first
        if turn_first:
            header = open_header(self.next_receiving, frame)
            if header is not None:
                return self._open_turn(header, frame, context, now_ms, limits)
        if receiving is not None:
            header = open_header(receiving.header_key, frame)
            if header is not None:
                return self._open_current(receiving, header, frame, context, now_ms, limits)
        if not turn_first and not past_first:
            header = open_header(self.next_receiving, frame)
            if header is not None:
                return self._open_turn(header, frame, context, now_ms, limits)
        for past in reversed(self.past):
            header = open_header(past.header_key, frame)
            if header is not None:
                _, _, _, n = header
                if n >= past.length:
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
        key, epoch, previous_length, n = header
        if (
            key != chain.peer_key
            or epoch != chain.epoch
            or previous_length != chain.previous_length
            or n >= COUNTER_MAX
        ):
            raise ContradictoryHeader
        if n < chain.n:
            return self._open_skipped(chain.serial, chain.start, header, frame, context, now_ms, limits)
        chain_key = chain.key
        skipped: Sequence[tuple[SkippedAt, MessageKey]] = NOTHING
        if n > chain.n:
            if n - chain.n > limits.skipped_keys_per_step:
                raise GapTooLarge(None, n - chain.n, limits.skipped_keys_per_step)
            chain_key, skipped = skip(self.suite.kdf_chain, chain_key, chain.serial, chain.n, n)
        chain_key, message_key = self.suite.kdf_chain(chain_key)
        plaintext = self.suite.open_body(message_key, frame, context)
        after = ReceivingChain(
            chain_key, chain.header_key, key, epoch, n + 1, previous_length, chain.start, chain.serial
        )
        delta: Delta = after
        if skipped or self.skipped:
            evicted = evictions(self.skipped, len(skipped), now_ms, limits)
            delta = OpenDelta(after, None, skipped, None, evicted, self.numbers(evicted), now_ms)
        return Opened(plaintext, header, chain.start + n, message_key, delta, self.epochs)

    def _open_turn(self, header: RatchetHeader, frame: Any, context: bytes, now_ms: int, limits: Limits) -> Opened:
        key, epoch, previous_length, n = header
        old = self.receiving
        received = 0 if old is None else old.n
        if previous_length < received or n >= COUNTER_MAX or (old is None and previous_length):
            raise ContradictoryHeader
        following = self.epochs.followed(epoch)
        if following is None:
            raise ContradictoryHeader
        gap = previous_length - received + n
        if gap > limits.skipped_keys_per_step:
            raise GapTooLarge(None, gap, limits.skipped_keys_per_step)
        half, mixed = following
        kdf_chain = self.suite.kdf_chain
        shared = self.suite.dh(self.secret, key)
        root, chain_key, next_receiving = self.suite.kdf_root(self.root, shared + mixed)
        serial = 0 if old is None else old.serial + 1
        start = 0 if old is None else old.start + previous_length
        chain_key, skipped = skip(kdf_chain, chain_key, serial, 0, n)
        chain_key, message_key = kdf_chain(chain_key)
        plaintext = self.suite.open_body(message_key, frame, context)

        def finish(entropy: Entropy, item: Item | None) -> OpenDelta:
            name = self.suite.chain_name(self.next_receiving, key)
            receiving = ReceivingChain(chain_key, name, key, epoch, n + 1, previous_length, start, serial)
            past, added = self.past, skipped
            if old is not None:
                past = (*past, PastChain(old.header_key, previous_length, old.start, old.serial))
                _, rest = skip(kdf_chain, old.key, old.serial, old.n, previous_length)
                added = [*rest, *skipped]
            past, evicted = staying(past, self.skipped, evictions(self.skipped, len(added), now_ms, limits))
            turn = turn_of(
                self.suite,
                entropy,
                now_ms,
                root=root,
                peer_key=key,
                half=half if item is None else half.take(item, entropy),
                sent=self.sending,
                header_key=self.next_sending,
                next_receiving=next_receiving,
                past=past,
            )
            return OpenDelta(receiving, turn, added, None, evicted, self.numbers(evicted), now_ms)

        return Opened(plaintext, header, start + n, message_key, finish, half)

    def _open_skipped(
        self, serial: int, start: int, header: RatchetHeader, frame: Any, context: bytes, now_ms: int, limits: Limits
    ) -> Opened:
        _, _, _, n = header
        at = (serial, n)
        kept = self.skipped.get(at)
        if kept is None or kept[1] < now_ms - limits.skipped_key_lifetime_seconds * 1000:
            raise DuplicateMessage
        message_key = kept[0]
        plaintext = self.suite.open_body(message_key, frame, context)
        evicted = [gone for gone in evictions(self.skipped, 0, now_ms, limits) if gone != at]
        delta = OpenDelta(None, None, NOTHING, at, evicted, self.numbers(evicted), now_ms)
        return Opened(plaintext, header, start + n, message_key, delta, self.epochs)

    def numbers(self, kept: Collection[SkippedAt]) -> Sequence[int]:
        """Return the running numbers of messages that keys are kept for."""
        if not kept:
            return NOTHING
        starts = {chain.serial: chain.start for chain in self.past}
        if self.receiving is not None:
            starts[self.receiving.serial] = self.receiving.start
        return tuple(starts[serial] + n for serial, n in kept)

    def expired_keys(self, now_ms: int, limits: Limits) -> OpenDelta | None:
        """Return the delta that removes the skipped keys past their lifetime, or `None` if there are none."""
        evicted = evictions(self.skipped, 0, now_ms, limits)
        return OpenDelta(None, None, NOTHING, None, evicted, self.numbers(evicted), now_ms) if evicted else None

    def apply(self, delta: Delta) -> None:
        """Commit what `Opened.delta` returned. Once more changes nothing."""
        if isinstance(delta, ReceivingChain):
            self.receiving = delta
            return
        if delta.added or self.skipped:
            self.skipped = kept_after(self.skipped, delta)
        if delta.receiving is not None:
            self.receiving = delta.receiving
        turn = delta.turn
        if turn is not None:
            self._turn_keys = turn.root + turn.secret + turn.next_sending + turn.next_receiving
            self.public = turn.public
            self.sending = turn.sending
            self._past = packed(turn.past)
            self.epochs = turn.epochs
        elif delta.epochs is not None:
            self.epochs = delta.epochs

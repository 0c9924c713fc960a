"""Between an agent's rows and what a store sees of them (docs/protocol.md, section 7.2).

Theory of operation. Each row is sealed under a key of the agent's own, with its kind, its hidden key and the number of
the commit that wrote it as context: so no row passes for another, nor for one of another agent. The *head*, written
with every commit, binds them together: the commit's number, how many rows there are, and a hash of the set of them. So
an older copy of one row, a row taken out and one put back are found when the agent is opened; only an older copy of
everything is not.

The hash of the set is MSet-XOR-Hash (Clarke, Devadas, van Dijk, Gassend, Suh, ASIACRYPT 2003): the exclusive or of one
keyed hash a row, so that a commit costs what it touches. Its sum is sealed, where that paper adds a nonce.

Rows of the log are numbered, and no part of the set: the head has the number of the first and the one that follows the
last, and what they say is chained by the log itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from struct import Struct
from typing import Any, Final, Self, final

from attrs import frozen

from agentmesh.errors import ArgumentInvalid, DecryptionFailed, RemoteError, StoreBroken
from agentmesh.limits import UINT_MAX
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives._labels import STATE, STORE_KEY, STORE_NAME, STORE_SET
from agentmesh.primitives.aead import OVERHEAD_BYTES, Sealing
from agentmesh.primitives.arguments import frameless
from agentmesh.primitives.entropy import CheckedEntropy, Entropy
from agentmesh.primitives.keys import Redacted
from agentmesh.store.data_key import VERSION, StoreKey, unwrap, wrap_new
from agentmesh.store.rows import HEAD_NAME, LOG, NUMBER_BYTES, Name, log_number

KEY: Final = "key"
HEAD: Final = HEAD_NAME[0]
KINDS: Final = frozenset(  # the engine's, those of AGT's protocol, the audit trail's, then that of trust
    (
        "agent bundle inbox kept knock outbox peer session agt agt-knock agt-prekey agt-session "
        + LOG
        + " milestone records tail trust"
    ).split()
)
_PLAIN: Final = {kind: kind for kind in KINDS}  # found by the members of an enum too
HIDDEN_BYTES: Final = 16
_COMMITTED: Final = slice(NUMBER_BYTES + _crypto.NONCE_BYTES, NUMBER_BYTES + OVERHEAD_BYTES)  # commitment and tag
_HASH_BYTES: Final = 32
_NONCES: Final = Struct(f"{_crypto.NONCE_BYTES}s")
_HEAD: Final = _wire.array(
    _wire.Uint(), _wire.Uint(), _wire.Uint(), _wire.Bin(_HASH_BYTES), _wire.Uint(), _wire.Uint()
)  # fmt: skip
_HEAD_MAX_BYTES: Final = 128
Sealed = dict[Name, bytes]
Opened = dict[Name, bytes]


@frozen
class _Pending:
    """What is to hold once a write is durable."""

    elements: dict[Name, int | None]
    total: int
    log: range


@final
class Sealer(Redacted):
    """Seals and opens the rows of one agent. It holds the agent's keys; whoever calls it holds the agent's lock."""

    __slots__ = (
        "_durable", "_elements", "_encode", "_entropy", "_hide", "_key_row", "_log", "_name", "_pending", "_rows",
        "_share", "_total",
    )  # fmt: skip

    @frameless
    def __init__(self, name: str, data_key: bytes, key_row: bytes | None, entropy: CheckedEntropy) -> None:
        """Take a data key apart; use `new` or `open`."""
        self._name = name
        self._encode = _wire.public_encoder()  # of contexts and of rows' keys alone, which are no secrets
        self._entropy = entropy
        row_key, name_key, set_key = (
            _crypto.kdf(data_key, STORE_KEY, purpose, _crypto.KEY_BYTES) for purpose in (b"rows", b"names", b"set")
        )
        self._rows = Sealing(row_key, STATE)
        self._hide = _crypto.keyed_kdf(name_key, STORE_NAME, HIDDEN_BYTES)
        self._share = _crypto.keyed_kdf(set_key, STORE_SET, _HASH_BYTES)
        self._key_row = key_row  # until it is written
        self._elements: dict[Name, int] = {}
        self._total = 0
        self._log = range(0)  # the numbers of its rows
        self._pending: _Pending | None = None
        self._durable: _Pending | None = None

    @classmethod
    @frameless
    def new(cls, name: str, key: StoreKey, *, entropy: Entropy) -> Self:
        """Return a sealer for an agent that has no rows yet, with a new data key: the first rows bring it along.

        Raises:
            ArgumentInvalid, StoreFailed, RandomnessFailed: as `wrap_new`.
        """
        checked = CheckedEntropy(entropy)
        return cls(name, *wrap_new(name, key, entropy=checked), checked)

    @classmethod
    @frameless
    def open(
        cls, name: str, key: StoreKey, rows: Iterable[tuple[str, bytes, bytes]], commit_number: int, *, entropy: Entropy
    ) -> tuple[Self, Opened, int]:
        """Return (a sealer, the rows by kind and key, the agent's generation) of an agent that has rows.

        Args:
            name: The agent's name in the store.
            key: The store's key.
            rows: As `Rows.read` gives them, without those of the log.
            commit_number: The number of the last write, as the store says.
            entropy: Where the nonces of later rows come from.

        Raises:
            ArgumentInvalid, StoreFailed, StateVersionUnknown, StoreKeyWrong: as `unwrap`.
            StoreBroken: the rows are not what was written last: `key`, `head`, `rows`, or the kind of one.
        """
        before: list[tuple[str, bytes, bytes]] = []
        following = iter(rows)
        for row in following:
            if row[0] == KEY:
                sealer = cls(name, unwrap(name, key, row[2]), None, CheckedEntropy(entropy))
                opened, generation = sealer._open_rows(before, following, commit_number)
                return sealer, opened, generation
            before.append(row)
        raise StoreBroken(KEY)

    # --- opening -----------------------------------------------------------------------------------------------------

    @frameless
    def open_log(self, rows: Iterable[tuple[str, bytes, bytes]], first: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield (number, bytes) of the rows of the log, as `Rows.read(log=True, first=first)` gives them.

        Raises:
            StoreBroken: one is missing or is not what was written (`log`).
        """
        return self._opened_log(rows, range(max(first, self._log.start), self._log.stop))

    def _opened_log(self, rows: Iterable[tuple[str, bytes, bytes]], numbers: range) -> Iterator[tuple[int, bytes]]:
        left = iter(numbers)
        for kind, key, stored in rows:
            found, data = self._open_row(kind, key, stored, UINT_MAX) if kind == LOG else (b"", b"")
            number = next(left, None)
            if number is None or not key == found == number.to_bytes(NUMBER_BYTES, "big"):
                raise StoreBroken(LOG)
            yield number, data
        if next(left, None) is not None:
            raise StoreBroken(LOG)

    def _open_rows(
        self,
        before: list[tuple[str, bytes, bytes]],
        following: Iterator[tuple[str, bytes, bytes]],
        commit_number: int,
    ) -> tuple[Opened, int]:
        opened: Opened = {}
        elements, total = self._elements, 0
        head: list[Any] | None = None
        for rows in (before, following):
            for kind, hidden, stored in rows:
                if kind == HEAD and head is None:
                    head = self._open_head(hidden, stored, commit_number)
                    continue
                name = kind, (row := self._open_row(kind, hidden, stored, commit_number))[0]
                if name in opened or kind == LOG:
                    raise StoreBroken(kind)
                opened[name] = row[1]
                elements[name] = element = self._element(stored)
                total ^= element
        if head is None:
            raise StoreBroken(HEAD)
        _, generation, count, sum_of_set, first, following_last = head
        if count != len(opened) or not _crypto.constant_time_equal(sum_of_set, _sum_bytes(total)):
            raise StoreBroken("rows")
        self._total, self._log = total, range(first, following_last)
        return opened, generation

    def _open_head(self, hidden: bytes, stored: bytes, commit_number: int) -> list[Any]:
        key, data = self._open_row(HEAD, hidden, stored, commit_number)
        try:
            head = _wire.decode(data, _HEAD, _HEAD_MAX_BYTES)
            if key == hidden == b"" and head[0] == commit_number == int.from_bytes(stored[:NUMBER_BYTES], "big"):
                return head
        except RemoteError:
            pass
        raise StoreBroken(HEAD)

    def _open_row(self, kind: str, hidden: bytes, stored: bytes, newest: int) -> tuple[bytes, bytes]:
        """Return (key, bytes) of a row."""
        if kind not in KINDS and kind != HEAD:
            raise StoreBroken("rows")
        if type(hidden) is bytes and type(stored) is bytes:
            number = int.from_bytes(stored[:NUMBER_BYTES], "big")
            if number <= newest:
                encode = _wire.encode if kind == LOG else self._encode  # other threads may read the log meanwhile
                context = encode([VERSION, self._name, kind, hidden, number])
                try:
                    data = self._rows.open(context, stored[NUMBER_BYTES:])
                    return _wire.decode_pair(data, len(data))
                except (DecryptionFailed, RemoteError):
                    pass
        raise StoreBroken(kind)

    # --- sealing -----------------------------------------------------------------------------------------------------

    @frameless
    def seal_rows(
        self, rows: Mapping[Name, bytes | None], commit_number: int, generation: int
    ) -> tuple[Sealed, list[Name]]:
        """Return (what to put, what to remove) of a write, the new head included. Nothing counts before `written`.

        Args:
            rows: By kind and key, each with its new bytes, `None` to remove it. The key of a row of the log is its
                number, 8 bytes.
            commit_number: The number of this write.
            generation: The agent's, after it.

        Raises:
            ArgumentInvalid: a kind that is none of an agent's, a key or bytes that are none, or rows of the log that do
                not follow its last, or are removed from its midst.
            RandomnessFailed: the source of randomness broke its contract.
        """
        self._adopt()
        nonces = _NONCES.iter_unpack(self._entropy.token(_crypto.NONCE_BYTES * (len(rows) + 1)))
        # First, because whoever opens the rows needs it before any other.
        put: Sealed = {} if self._key_row is None else {(KEY, b""): self._key_row}
        removed: list[Name] = []
        log_put: list[Name] = []
        log_removed: list[Name] = []
        elements: dict[Name, int | None] = {}
        old, count, total = self._elements, len(self._elements), self._total
        for (name, data), (nonce,) in zip(rows.items(), nonces, strict=False):
            hidden = self._hidden(name)
            if name in old:
                count -= 1
                total ^= old[name]
            if data is None:
                removed.append(hidden)
            else:
                put[hidden] = stored = self._seal_row(hidden, name[1], data, commit_number, nonce)
            if hidden[0] == LOG:
                (log_removed if data is None else log_put).append(hidden)
            elif data is None:
                elements[name] = None
            else:
                elements[name] = element = self._element(stored)
                count += 1
                total ^= element
        log = self._log_after(log_put, log_removed)
        head = _wire.encode([commit_number, generation, count, _sum_bytes(total), log.start, log.stop])
        [(nonce,)] = nonces  # that is left
        put[HEAD_NAME] = self._seal_row(HEAD_NAME, b"", head, commit_number, nonce)
        self._pending = _Pending(elements, total, log)
        return put, removed

    def _log_after(self, put: list[Name], removed: list[Name]) -> range:
        """Return the numbers of the rows of the log after a write: it grows at its end, and is cut at its beginning."""
        if not put and not removed:
            return self._log
        added = sorted(map(log_number, put))
        taken = sorted(map(log_number, removed))
        first, end = self._log.start, self._log.stop
        if added:
            first, end = (first, end) if self._log else (max(end, added[0]),) * 2
            if added != list(range(end, end + len(added))):
                raise ArgumentInvalid("rows", "not the next rows of the log")
            end += len(added)
        if taken and (taken != list(range(first, first + len(taken))) or first + len(taken) > end):
            raise ArgumentInvalid("rows", "not the first rows of the log")
        return range(first + len(taken), end)

    def written(self) -> None:
        """Let what `seal_rows` gave last be what stands in the store: it is durable."""
        self._durable = self._pending
        self._adopt()

    def _adopt(self) -> None:
        """Finish what `written` began: a signal may break it off between any two steps."""
        durable = self._durable
        if durable is None:
            return
        for name, element in durable.elements.items():
            if element is None:
                self._elements.pop(name, None)
            else:
                self._elements[name] = element
        self._total, self._log = durable.total, durable.log
        self._key_row = self._pending = None
        self._durable = None

    @frameless
    def rekey(
        self, key: StoreKey, rows: Mapping[Name, bytes], commit_number: int, generation: int
    ) -> tuple[Self, Sealed, list[Name]]:
        """Return (a sealer with a new data key, what to put, what to remove): every row, sealed anew, in one write.

        Call `written` of the new one once that is durable, and use it from then on; this one stays as it is.

        Args:
            key: The store's new key.
            rows: All of the agent's rows, those of the log included.
            commit_number: The number of this write.
            generation: The agent's.

        Raises:
            ArgumentInvalid: not all of the rows; otherwise as `new` and `seal_rows`.
        """
        self._adopt()
        if len(rows) != len(self._elements) + len(self._log) or not self._elements.keys() <= rows.keys():
            raise ArgumentInvalid("rows", "not all of them")
        following = type(self)(self._name, *wrap_new(self._name, key, entropy=self._entropy), self._entropy)
        following._log = range(self._log.start, self._log.start)
        put, _ = following.seal_rows(rows, commit_number, generation)
        return following, put, [self._hidden(name) for name in self._elements]

    def _hidden(self, name: Name) -> Name:
        """Return how the store knows a row: by its kind, and a key that says nothing to whoever has the file."""
        kind, key = _PLAIN.get(name[0]), name[1]
        if kind is None or type(key) is not bytes:
            raise ArgumentInvalid("rows", "not the kind and key of a row")
        if kind != LOG:
            return kind, self._hide(self._encode([kind, key]))
        if log_number(name) == UINT_MAX:
            raise ArgumentInvalid("rows", "not the number of a row of the log")
        return kind, key

    def _seal_row(self, hidden: Name, key: bytes, data: bytes, number: int, nonce: bytes) -> bytes:
        if type(data) is not bytes:
            raise ArgumentInvalid("rows", "not bytes")
        context = self._encode([VERSION, self._name, *hidden, number])
        sealed = self._rows.seal(context, _wire.encode_pair(key, data), nonce)
        return number.to_bytes(NUMBER_BYTES, "big") + sealed

    def _element(self, stored: bytes) -> int:
        """Return a row's share of the hash of the set: keyed, over what commits to all that the row is."""
        return int.from_bytes(self._share(stored[_COMMITTED]), "big")


def _sum_bytes(total: int) -> bytes:
    return total.to_bytes(_HASH_BYTES, "big")

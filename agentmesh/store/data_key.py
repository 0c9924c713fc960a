"""The data key of one agent in a store, wrapped under the store's key (docs/protocol.md, section 7.2).

An agent's rows are sealed under a random key of its own. That is wrapped under what the caller has: a key, a passphrase
by Argon2id, or a callable that fetches a key. So the caller's key seals a hundred bytes and no more, and another may
take its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from agentmesh.errors import (
    ArgumentInvalid,
    DecryptionFailed,
    RemoteError,
    StateVersionUnknown,
    StoreBroken,
    StoreFailed,
    StoreKeyWrong,
)
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives._labels import STORE_WRAP
from agentmesh.primitives.aead import OVERHEAD_BYTES, open_sealed, seal
from agentmesh.primitives.arguments import bytes_argument, frameless, text_argument
from agentmesh.primitives.entropy import CheckedEntropy
from agentmesh.trust.sealing import StateKey

StoreKey = bytes | StateKey | str | Callable[[], bytes]

VERSION: Final = 1
KEY_ROW_MAX_BYTES: Final = 256
PASSPHRASE_MAX_BYTES: Final = 1024
ARGON2_MEMORY_MIN_KIB: Final = 8  # what Argon2id itself asks for
ARGON2_MEMORY_MAX_KIB: Final = 512 << 10  # a file that somebody altered must not ask for all memory,
ARGON2_PASSES_MAX: Final = 16  # nor for minutes: both at their most take some five seconds
_RAW: Final = 0
_ARGON2ID: Final = 1
_SALT_BYTES: Final = 16
# RFC 9106, section 4, the second of its recommended options, but with one lane, which is what libsodium has.
_PASSES: Final = 3
_MEMORY_KIB: Final = 64 << 10
_LAYOUT: Final = _wire.array(
    _wire.Uint(), _wire.Uint(_ARGON2ID), _wire.Bin(0, _SALT_BYTES), _wire.Uint(), _wire.Uint(),
    _wire.Bin(OVERHEAD_BYTES + _crypto.KEY_BYTES),
)  # fmt: skip


@frameless
def wrap_new(
    name: str, key: StoreKey, *, entropy: CheckedEntropy, passes: int = _PASSES, memory_kib: int = _MEMORY_KIB
) -> tuple[bytes, bytes]:
    """Return (a new data key, 32 bytes; the row that holds it, wrapped under the store's key).

    Raises:
        ArgumentInvalid: neither 32 bytes, a `StateKey`, a passphrase of 1 to 1024 bytes, nor a callable that returns
            such a key.
        StoreFailed: the callable failed, or there is not enough memory.
        RandomnessFailed: the source of randomness broke its contract.
    """
    head: list[Any] = [VERSION, _RAW, b"", 0, 0]
    if isinstance(key, str):
        head = [VERSION, _ARGON2ID, entropy.token(_SALT_BYTES), passes, memory_kib]
    data_key = entropy.token(_crypto.KEY_BYTES)
    wrapping = _wrapping_key(key, head)
    wrapped = seal(wrapping, STORE_WRAP, _context(name, head), data_key, entropy.token(_crypto.NONCE_BYTES))
    return data_key, _wire.encode([*head, wrapped])


@frameless
def unwrap(name: str, key: StoreKey, row: bytes) -> bytes:
    """Return the data key in a row that `wrap_new` made. What the row asks of Argon2id is bounded first.

    Raises:
        ArgumentInvalid, StoreFailed: as `wrap_new`.
        StoreBroken: not such a row (`key`).
        StateVersionUnknown: it has a version that this release does not read.
        StoreKeyWrong: another key; or the row was altered.
    """
    *head, wrapped = _decoded(row)
    if (head[1] == _ARGON2ID) != isinstance(key, str):
        raise StoreKeyWrong
    wrapping = _wrapping_key(key, head)
    try:
        return open_sealed(wrapping, STORE_WRAP, _context(name, head), wrapped)
    except DecryptionFailed:
        pass
    raise StoreKeyWrong


@frameless
def key_argument(key: StoreKey) -> StoreKey:
    """Return a store's key, if it can be one: what a callable returns is looked at when it is called.

    Raises:
        ArgumentInvalid: neither 32 bytes, a `StateKey`, a passphrase of 1 to 1024 bytes, nor callable.
    """
    if isinstance(key, str):
        return text_argument("key", key, 1, PASSPHRASE_MAX_BYTES)
    if type(key) is StateKey or callable(key):
        return key
    return bytes_argument("key", key, _crypto.KEY_BYTES, _crypto.KEY_BYTES)


def passphrase_costs(row: bytes) -> tuple[int, int] | None:
    """Return (passes, KiB) that Argon2id takes where the row is sealed under a passphrase; `None` under a key.

    Raises:
        StoreBroken, StateVersionUnknown: as `unwrap`.
    """
    _, how, _, passes, memory_kib, _ = _decoded(row)
    return (passes, memory_kib) if how == _ARGON2ID else None


def _decoded(row: bytes) -> list[Any]:
    if type(row) is bytes and (version := _wire.peek_version(row)) is not None and version != VERSION:
        raise StateVersionUnknown
    try:
        fields = _wire.decode(row, _LAYOUT, KEY_ROW_MAX_BYTES)
        _, how, salt, passes, memory_kib, _ = fields
        if how == _RAW and not (salt or passes or memory_kib):
            return fields
        if (
            how == _ARGON2ID
            and len(salt) == _SALT_BYTES
            and 1 <= passes <= ARGON2_PASSES_MAX
            and ARGON2_MEMORY_MIN_KIB <= memory_kib <= ARGON2_MEMORY_MAX_KIB
        ):
            return fields
    except RemoteError:
        pass
    raise StoreBroken("key")


def _context(name: str, head: list[Any]) -> bytes:
    return _wire.encode([name, *head])


def _wrapping_key(key: StoreKey, head: list[Any]) -> bytes:
    """Return the 32 bytes that the caller's key stands for."""
    failure: Exception | None = None
    try:
        if isinstance(key, str):
            passphrase = text_argument("key", key, 1, PASSPHRASE_MAX_BYTES).encode()
            return _crypto.argon2id(passphrase, *head[2:])
        fetched: object = key() if callable(key) else key
    except ArgumentInvalid:
        raise
    except Exception as error:  # whatever a callable of the caller's raises, it is a store that does not answer
        failure = error
    if failure is not None:
        raise StoreFailed from failure
    if type(fetched) is StateKey:
        return fetched.reveal()
    return bytes_argument("key", fetched, _crypto.KEY_BYTES, _crypto.KEY_BYTES)

"""Sealing an exported state under a key (docs/protocol.md, section 1.2, label am1-state)."""

from __future__ import annotations

from typing import Final, final

from agentmesh.errors import ArgumentInvalid, DecryptionFailed, StateMalformed
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import STATE
from agentmesh.primitives.aead import open_sealed, seal
from agentmesh.primitives.arguments import bytes_argument, frameless
from agentmesh.primitives.entropy import CheckedEntropy, Entropy
from agentmesh.primitives.keys import Secret


@final
class StateKey(Secret):
    """A 32-byte key that seals exported states. Keep it apart from them."""

    __slots__ = ()


_SEALED_CONTEXT: Final = b"admission"


@frameless
def seal_state(exported: bytes, key: StateKey, *, entropy: Entropy) -> bytes:
    """Return an exported state sealed under a key (docs/protocol.md, section 1.2, label am1-state).

    Raises:
        ArgumentInvalid: not bytes, or not a `StateKey`. Its traceback holds neither.
        RandomnessFailed: the source of randomness broke its contract.
    """
    if type(key) is not StateKey:
        raise ArgumentInvalid("key", "not a StateKey")
    exported = bytes_argument("exported", exported)
    return seal(key.reveal(), STATE, _SEALED_CONTEXT, exported, CheckedEntropy(entropy).token(_crypto.NONCE_BYTES))


@frameless
def open_state(sealed: bytes, key: StateKey) -> bytes:
    """Return what `seal_state` sealed.

    Raises:
        ArgumentInvalid: not bytes, or not a `StateKey`. Its traceback holds neither.
        StateMalformed: damaged, altered, or sealed under another key.
    """
    if type(key) is not StateKey:
        raise ArgumentInvalid("key", "not a StateKey")
    sealed = bytes_argument("sealed", sealed)
    try:
        return open_sealed(key.reveal(), STATE, _SEALED_CONTEXT, sealed)
    except DecryptionFailed:
        pass
    raise StateMalformed

"""Which build runs: the pure one, or the compiled calls of `_fast`, where they are installed, wanted and alike.

The compiled calls are the same calls into the same libsodium, without an interpreter in between. They are used only
where PyNaCl's handle says that each function is what they take it for, and where what they answer here, on fixed and on
random inputs, is what the pure ones answer. Else the pure ones are used, which are always there: `BUILD` says why.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, Literal

from agentmesh.primitives import _sodium
from agentmesh.primitives._labels import EXTRACT, KdfLabel

try:
    from agentmesh.primitives import _fast
except ImportError:
    _fast = None  # type: ignore[assignment]

SWITCH: Final = "AGENTMESH_PURE"
"""The variable of the environment that, set to anything but the empty string and 0, keeps the compiled calls out."""

_HASH: Final = "crypto_generichash_blake2b_salt_personal"
_CHARS: Final = "unsigned char *"
_SHAPES: Final = {
    **_sodium.SHAPES,
    _HASH: f"int(*)({_CHARS}, size_t, {_CHARS}, unsigned long long, {_CHARS}, size_t, {_CHARS}, {_CHARS})",
}

FUNCTIONS: Final = " ".join(_SHAPES)
"""Whose addresses the compiled calls are told. They were compiled for the same, or are not bound."""

# The key of RFC 8032's first test: seed || public key.
_SIGNING: Final = bytes.fromhex(
    "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
)

Kdf = Callable[[bytes, KdfLabel, bytes, int], bytes]
Build = Literal[
    "compiled", "pure", "pure, as the environment asks", "pure, because PyNaCl has no such handle",
    "pure, because the compiled calls cannot be bound", "pure, because the compiled calls answer otherwise",
]  # fmt: skip
BUILD: Build = "pure"
"""Which build runs in this process, and why it is not another."""


def chosen(sodium: _sodium.Calls, kdf: Kdf) -> tuple[_sodium.Calls, Kdf]:
    """Return the calls that are to be used, the compiled ones or those given; `BUILD` says which."""
    global BUILD
    if _fast is None:
        return sodium, kdf
    if os.environ.get(SWITCH, "") not in ("", "0"):
        BUILD = "pure, as the environment asks"
        return sodium, kdf
    if not _sodium.fits(_sodium.HANDLE, _SHAPES):
        BUILD = "pure, because PyNaCl has no such handle"
        return sodium, kdf
    try:
        compiled, compiled_kdf = bound(_fast, sodium, kdf), _fast.kdf
    except Exception:  # built for another release, or bound already where this module is imported once more
        BUILD = "pure, because the compiled calls cannot be bound"
        return sodium, kdf
    if not alike((*compiled, compiled_kdf), (*sodium, kdf)):
        BUILD = "pure, because the compiled calls answer otherwise"
        return sodium, kdf
    BUILD = "compiled"
    return compiled, compiled_kdf


def bound(module: Any, sodium: _sodium.Calls, kdf: Kdf) -> _sodium.Calls:
    """Tell a compiled module where libsodium's functions are, and what answers in its place; return its calls."""
    ffi, lib = _sodium.HANDLE.ffi, _sodium.HANDLE.lib
    addresses = tuple(int(ffi.cast("size_t", ffi.addressof(lib, name))) for name in _SHAPES)
    module.bind(FUNCTIONS, addresses, (*sodium, kdf))
    return _sodium.Calls(*(getattr(module, name) for name in _sodium.Calls._fields))


def alike(ours: tuple[Callable[..., Any], ...], theirs: tuple[Callable[..., Any], ...]) -> bool:
    """Say whether both answer the same to fixed and to random inputs: right ones, altered ones, and short ones."""
    try:
        return all(
            _answers(ours, drawn, size) == _answers(theirs, drawn, size)
            for drawn, size in ((bytes(range(64)), 0), (bytes(64), 255), (os.urandom(64), 77))
        )
    except Exception:  # whatever it is, these calls are not to be used
        return False


def _answers(calls: tuple[Callable[..., Any], ...], drawn: bytes, size: int) -> list[object]:
    secretbox, secretbox_open, scalarmult, scalarmult_base, sign, sign_open, kdf = calls
    key, nonce, data = drawn[:32], drawn[32:56], (drawn * 4)[:size]
    box, public = secretbox(data, nonce, key), scalarmult_base(key)
    signed = sign(data, _SIGNING) + data
    answers = [
        box, public, signed,
        secretbox_open(box, nonce, key), secretbox_open(box + b"\0", nonce, key), secretbox_open(box, nonce, public),
        secretbox_open(data + box, nonce, key, size), secretbox_open(box, nonce, key, len(box)),
        secretbox_open(box[:15], nonce, key), secretbox_open(box, nonce[1:], key), secretbox_open(box, nonce, key[1:]),
        scalarmult(key, public), scalarmult(key, bytes(32)), scalarmult(key[1:], public), scalarmult_base(key[1:]),
        sign(data, key), sign_open(signed, _SIGNING[32:]), sign_open(signed, public), sign_open(signed, key[1:]),
        sign_open(signed[:-1], _SIGNING[32:]), sign_open(signed + b"\0", _SIGNING[32:]),
        kdf(drawn, EXTRACT, data, 64), kdf(key, EXTRACT, data, 32), kdf(b"", KdfLabel(b""), data, 16),
    ]  # fmt: skip
    return [(type(answer), answer) for answer in answers]

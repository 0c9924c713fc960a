"""The calls into libsodium that are made for every message: through PyNaCl's own handle on it, or its bindings.

`nacl.bindings` measures, allocates and maps results with calls of its own, which take longer than a small box does. So
these go through the handle below them, `nacl._sodium`, where it is of the shape that is used here; else through the
bindings, which are slower and answer the same. cffi takes bytes for a pointer without asking for their length: each
function here measures what libsodium is to read before it calls.

A call that libsodium refuses returns `None`: whoever calls has an error that says what was refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import nacl.exceptions
from nacl import bindings

try:
    from nacl import _sodium as _handle
except ImportError:  # a PyNaCl that keeps it elsewhere
    _handle = None
HANDLE: Final[Any] = _handle

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
TAG_BYTES: Final = 16
SIGNATURE_BYTES: Final = 64
SIGNING_KEY_BYTES: Final = 64

# What each function of the handle must be, as cffi writes it.
_CHARS: Final = "unsigned char *"
_SIZE: Final = "unsigned long long"
SHAPES: Final = {
    "crypto_secretbox_easy": f"int(*)({_CHARS}, {_CHARS}, {_SIZE}, {_CHARS}, {_CHARS})",
    "crypto_secretbox_open_easy": f"int(*)({_CHARS}, {_CHARS}, {_SIZE}, {_CHARS}, {_CHARS})",
    "crypto_scalarmult": f"int(*)({_CHARS}, {_CHARS}, {_CHARS})",
    "crypto_scalarmult_base": f"int(*)({_CHARS}, {_CHARS})",
    "crypto_sign": f"int(*)({_CHARS}, {_SIZE} *, {_CHARS}, {_SIZE}, {_CHARS})",
    "crypto_sign_open": f"int(*)({_CHARS}, {_SIZE} *, {_CHARS}, {_SIZE}, {_CHARS})",
}


class Opening(Protocol):
    """The type of `Calls.secretbox_open`."""

    def __call__(self, box: bytes, nonce: bytes, key: bytes, start: int = 0, /) -> bytes | None:
        """Return the plaintext of what is in `box` from `start` on, or `None`."""
        ...


class Calls(NamedTuple):
    """What is called for every message or every pair; each way to libsodium has all of it."""

    secretbox: Callable[[bytes, bytes, bytes], bytes]
    """Return tag || ciphertext of (plaintext, 24-byte nonce, 32-byte key)."""
    secretbox_open: Opening
    """Return the plaintext of (box, nonce, key), or `None`: the tag does not verify, or a length is wrong.

    The box may be the end of something longer, from the number on that comes last, 0 or more and 0 by default."""
    scalarmult: Callable[[bytes, bytes], bytes | None]
    """Return the product of (secret, public key), or `None` where it is all zero or a length is wrong."""
    scalarmult_base: Callable[[bytes], bytes | None]
    """Return the public key of a secret, or `None` where its length is wrong."""
    sign: Callable[[bytes, bytes], bytes | None]
    """Return the 64-byte signature of (message, 64-byte signing key), or `None` where the key's length is wrong."""
    sign_open: Callable[[bytes, bytes], bytes | None]
    """Return the first of (signature || message, public key) as it is, or `None` where it does not verify."""


def fits(handle: Any, shapes: dict[str, str] = SHAPES) -> bool:
    """Say whether this module is PyNaCl's handle, and its functions are those that are called here."""
    try:
        return all(handle.ffi.typeof(getattr(handle.lib, name)).cname == shape for name, shape in shapes.items())
    except (AttributeError, TypeError):
        return False


def by_handle(handle: Any) -> Calls:
    """Return the calls through PyNaCl's own handle, which `fits`."""
    ffi, lib = handle.ffi, handle.lib
    new, buffer, null, chars = ffi.new, ffi.buffer, ffi.NULL, ffi.typeof("unsigned char[]")
    seal, unseal = lib.crypto_secretbox_easy, lib.crypto_secretbox_open_easy
    multiply, multiply_base = lib.crypto_scalarmult, lib.crypto_scalarmult_base
    signing, opening = lib.crypto_sign, lib.crypto_sign_open
    by_binding: Callable[[bytes, bytes, bytes], bytes] = bindings.crypto_secretbox_easy

    def secretbox(message: bytes, nonce: bytes, key: bytes) -> bytes:
        size = len(message)
        box = new(chars, size + 16)
        if len(nonce) != 24 or len(key) != 32 or seal(box, message, size, nonce, key) != 0:
            return by_binding(message, nonce, key)  # which says what is wrong with them
        sealed: bytes = buffer(box)[:]
        return sealed

    def secretbox_open(box: bytes, nonce: bytes, key: bytes, start: int = 0, /) -> bytes | None:
        if start:
            box = box[start:]
        size = len(box) - 16
        if size < 0 or len(nonce) != 24 or len(key) != 32:
            return None
        message = new(chars, size)
        if unseal(message, box, size + 16, nonce, key) != 0:
            return None
        opened: bytes = buffer(message, size)[:]
        return opened

    def scalarmult(secret: bytes, public: bytes) -> bytes | None:
        product = new(chars, 32)
        if len(secret) != 32 or len(public) != 32 or multiply(product, secret, public) != 0:
            return None
        shared: bytes = buffer(product)[:]
        return shared

    def scalarmult_base(secret: bytes) -> bytes | None:
        product = new(chars, 32)
        if len(secret) != 32 or multiply_base(product, secret) != 0:
            return None
        public: bytes = buffer(product)[:]
        return public

    def sign(message: bytes, signing_key: bytes) -> bytes | None:
        size = len(message)
        signed = new(chars, size + 64)
        if len(signing_key) != 64 or signing(signed, null, message, size, signing_key) != 0:
            return None
        signature: bytes = buffer(signed, 64)[:]
        return signature

    def sign_open(signed: bytes, public_key: bytes) -> bytes | None:
        # libsodium writes no message where it is given no place for it, and verifies all the same.
        if len(public_key) != 32 or opening(null, null, signed, len(signed), public_key) != 0:
            return None
        return signed

    return Calls(secretbox, secretbox_open, scalarmult, scalarmult_base, sign, sign_open)


def by_bindings() -> Calls:
    """Return the calls through `nacl.bindings`, which every PyNaCl has."""
    return Calls(bindings.crypto_secretbox_easy, _secretbox_open, _scalarmult, _scalarmult_base, _sign, _sign_open)


def _secretbox_open(box: bytes, nonce: bytes, key: bytes, start: int = 0, /) -> bytes | None:
    if start:
        box = box[start:]
    try:
        message: bytes = bindings.crypto_secretbox_open_easy(box, nonce, key)
    except nacl.exceptions.CryptoError:
        return None
    return message


def _scalarmult(secret: bytes, public: bytes) -> bytes | None:
    if len(secret) != KEY_BYTES or len(public) != KEY_BYTES:  # the binding would read behind the end of a shorter one
        return None
    try:
        shared: bytes = bindings.crypto_scalarmult(secret, public)
    except nacl.exceptions.CryptoError:
        return None
    return shared


def _scalarmult_base(secret: bytes) -> bytes | None:
    if len(secret) != KEY_BYTES:
        return None
    public: bytes = bindings.crypto_scalarmult_base(secret)
    return public


def _sign(message: bytes, signing_key: bytes) -> bytes | None:
    if len(signing_key) != SIGNING_KEY_BYTES:
        return None
    signed: bytes = bindings.crypto_sign(message, signing_key)
    return signed[:SIGNATURE_BYTES]


def _sign_open(signed: bytes, public_key: bytes) -> bytes | None:
    if len(public_key) != KEY_BYTES:
        return None
    try:
        bindings.crypto_sign_open(signed, public_key)
    except nacl.exceptions.CryptoError:
        return None
    return signed


SODIUM: Final = by_handle(HANDLE) if fits(HANDLE) else by_bindings()

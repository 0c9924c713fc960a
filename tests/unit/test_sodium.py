"""The two ways to libsodium answer alike: the same bytes, the same refusals, and nothing is read behind an end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import nacl.exceptions
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl import _sodium as pynacl
from nacl.bindings import crypto_sign_seed_keypair

from agentmesh.primitives import _crypto, _sodium, build

HANDLE, BINDINGS = _sodium.by_handle(pynacl), _sodium.by_bindings()
PUBLIC, SIGNING = crypto_sign_seed_keypair(bytes(32))

# What each call takes, as lengths of which only the first is free; and a number of bytes that is wrong for the others.
TAKES = {
    "secretbox": (None, 24, 32),
    "secretbox_open": (None, 24, 32),
    "scalarmult": (32, 32),
    "scalarmult_base": (32,),
    "sign": (None, 64),
    "sign_open": (None, 32),
}
LOW_ORDER = (bytes(32), b"\x01" + bytes(31), b"\xff" * 32)


def both(name: str, *args: Any) -> Any:
    """Return what both ways answer, which is one: a value, `None`, or a class of errors with its text."""
    answers = []
    for calls in (HANDLE, BINDINGS):
        try:
            answers.append(getattr(calls, name)(*args))
        except Exception as error:
            answers.append((type(error), str(error)))
    assert answers[0] == answers[1]
    assert type(answers[0]) is type(answers[1])
    return answers[0]


def test_pynacl_has_the_handle_that_is_used_here() -> None:
    assert _sodium.fits(pynacl)
    assert tuple(TAKES) == _sodium.Calls._fields


@given(st.binary(max_size=300), st.binary(min_size=24, max_size=24), st.binary(min_size=32, max_size=32), st.data())
def test_boxes_are_the_same_and_open_the_same(message: bytes, nonce: bytes, key: bytes, data: st.DataObject) -> None:
    box = both("secretbox", message, nonce, key)
    assert type(box) is bytes
    assert both("secretbox_open", box, nonce, key) == message
    assert both("secretbox_open", message + box, nonce, key, len(message)) == message
    assert both("secretbox_open", box, nonce, key, len(box) - 15) is None
    at = data.draw(st.integers(0, 8 * len(box) - 1))
    flipped = bytearray(box)
    flipped[at // 8] ^= 1 << at % 8
    assert both("secretbox_open", bytes(flipped), nonce, key) is None
    assert both("secretbox_open", box[: at // 8], nonce, key) is None


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32) | st.sampled_from(LOW_ORDER))
def test_products_are_the_same(secret: bytes, point: bytes) -> None:
    public = both("scalarmult_base", secret)
    assert both("scalarmult", secret, public) is not None
    both("scalarmult", secret, point)
    assert both("scalarmult", secret, bytes(32)) is None


@given(st.binary(max_size=300), st.integers(0, 511))
def test_signatures_are_the_same_and_verify_the_same(message: bytes, at: int) -> None:
    signature = both("sign", message, SIGNING)
    assert (type(signature), len(signature)) == (bytes, 64)
    assert both("sign_open", signature + message, PUBLIC) == signature + message
    assert both("sign_open", signature + message, PUBLIC + b"\x00") is None
    flipped = bytearray(signature)
    flipped[at // 8] ^= 1 << at % 8
    assert both("sign_open", bytes(flipped) + message, PUBLIC) is None
    assert both("sign_open", (signature + message)[: at // 8], PUBLIC) is None


@pytest.mark.parametrize("name", TAKES)
def test_what_is_of_another_length_reaches_no_pointer(name: str) -> None:
    # A pointer knows no length: libsodium would read what lies behind a short one, and answer with something.
    sizes = TAKES[name]
    right = [bytes(100 if size is None else size) for size in sizes]
    for place, size in enumerate(sizes):
        for wrong in (0, 1, 16, 23, 25, 31, 33, 63, 65) if size is not None else ():
            args = [*right[:place], bytes(wrong), *right[place + 1 :]] if wrong != size else None
            if args is None:
                continue
            answer = both(name, *args)
            if name == "secretbox":
                assert answer[0] is nacl.exceptions.ValueError
            else:
                assert answer is None


@pytest.mark.parametrize("name", TAKES)
@pytest.mark.parametrize("wrong", [None, 1, "x" * 32, 1.5, [b"x"] * 32, object()], ids=type)
def test_what_is_no_bytes_is_refused_alike(name: str, wrong: Any) -> None:
    right = [bytes(100 if size is None else size) for size in TAKES[name]]
    for place in range(len(right)):
        answer = both(name, *right[:place], wrong, *right[place + 1 :])
        assert answer is None or issubclass(answer[0], (TypeError, nacl.exceptions.CryptoError))


class _Named:
    """What stands for a type of cffi's."""

    def __init__(self, cname: str) -> None:
        self.cname = cname


def _handle(**changed: Any) -> Any:
    shapes = {**_sodium.SHAPES, **changed}
    lib = SimpleNamespace(**{name: name for name, shape in shapes.items() if shape is not None})
    return SimpleNamespace(lib=lib, ffi=SimpleNamespace(typeof=lambda name: _Named(shapes[name])))


@pytest.mark.parametrize("name", _sodium.SHAPES)
def test_a_handle_of_another_shape_is_left_alone(name: str) -> None:
    assert _sodium.fits(_handle())
    assert not _sodium.fits(_handle(**{name: "int(*)(unsigned char *)"}))
    assert not _sodium.fits(_handle(**{name: None}))


@pytest.mark.parametrize("handle", [None, object(), SimpleNamespace(ffi=pynacl.ffi), SimpleNamespace(lib=pynacl.lib)])
def test_a_pynacl_without_the_handle_is_served_by_its_bindings(handle: Any) -> None:
    assert not _sodium.fits(handle)


def test_the_primitives_call_what_was_chosen() -> None:
    serving: Any = build._fast if build.BUILD == "compiled" else _sodium.SODIUM
    assert _crypto.secretbox is serving.secretbox
    assert _crypto.secretbox_try_open is serving.secretbox_open

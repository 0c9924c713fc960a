"""The compiled calls: right values, and nothing but plain bytes of the right lengths ever reaches libsodium.

What reaches libsodium is seen by functions that stand in its place: they read and write all that it would. `.ci/run`
has them run under AddressSanitizer and UndefinedBehaviorSanitizer too, where a byte beside an object is an error.
"""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.primitives import _crypto, _labels, _sodium, build

if build._fast is None and not os.environ.get("AGENTMESH_COMPILED"):
    pytest.skip("the compiled calls are not installed: docs/how-to/speed.md", allow_module_level=True)

NAMES = (*_sodium.Calls._fields, "kdf")
PURE = dict(zip(NAMES, (*_sodium.SODIUM, _crypto._kdf), strict=True))
PUBLIC, SIGNING = _crypto.ed25519_keypair(bytes(32))
LARGE = 65536  # from here on a call lets other threads run

# What each call takes: the lengths that it hands on, as the least and the most; a number is the size of a digest.
TAKES: dict[str, tuple[tuple[int, int], ...]] = {
    "secretbox": ((0, 300), (24, 24), (32, 32)),
    "secretbox_open": ((0, 600), (24, 24), (32, 32)),
    "scalarmult": ((32, 32), (32, 32)),
    "scalarmult_base": ((32, 32),),
    "sign": ((0, 300), (64, 64)),
    "sign_open": ((0, 300), (32, 32)),
    "kdf": ((0, 64), (0, 16), (0, 300)),
}


def unbound() -> Any:
    """Return the compiled module once more, with a state of its own, which is bound to nothing."""
    assert build._fast is not None
    name, path = build._fast.__name__, build._fast.__file__
    spec = spec_from_file_location(name, path, loader=ExtensionFileLoader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compiled() -> dict[str, Any]:
    module = unbound()
    calls = build.bound(module, _sodium.SODIUM, _crypto._kdf)
    return {**calls._asdict(), "kdf": module.kdf}


FAST = compiled()


def answer(call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Return what a call answers, with its type; or the class and the text of what it raises."""
    try:
        value = call(*args)
    except Exception as error:
        return type(error), str(error)
    return type(value), value


def both(name: str, *args: Any) -> Any:
    ours, theirs = answer(FAST[name], args), answer(PURE[name], args)
    assert ours == theirs
    return ours[1]


# --- the same answers ------------------------------------------------------------------------------------------------

keys = st.binary(min_size=32, max_size=32)


@given(st.binary(max_size=300), st.binary(min_size=24, max_size=24), keys, st.data())
def test_boxes_are_the_same_and_open_the_same(message: bytes, nonce: bytes, key: bytes, data: st.DataObject) -> None:
    box = both("secretbox", message, nonce, key)
    assert both("secretbox_open", box, nonce, key) == message
    at = data.draw(st.integers(0, 8 * len(box) - 1))
    flipped = bytearray(box)
    flipped[at // 8] ^= 1 << at % 8
    assert both("secretbox_open", bytes(flipped), nonce, key) is None
    assert both("secretbox_open", box[: at // 8], nonce, key) is None


@given(keys, keys | st.sampled_from((bytes(32), b"\x01" + bytes(31), b"\xff" * 32)))
def test_products_are_the_same(secret: bytes, point: bytes) -> None:
    both("scalarmult", secret, both("scalarmult_base", secret))
    both("scalarmult", secret, point)
    assert both("scalarmult", secret, bytes(32)) is None


@given(st.binary(max_size=300), st.integers(0, 511))
def test_signatures_are_the_same_and_verify_the_same(message: bytes, at: int) -> None:
    signature = both("sign", message, SIGNING)
    signed = signature + message
    assert FAST["sign_open"](signed, PUBLIC) is signed
    assert both("sign_open", signed, PUBLIC) == signed
    flipped = bytearray(signature)
    flipped[at // 8] ^= 1 << at % 8
    assert both("sign_open", bytes(flipped) + message, PUBLIC) is None
    assert both("sign_open", signed[: at // 8], PUBLIC) is None


@given(st.binary(max_size=64), st.binary(max_size=16), st.binary(max_size=300), st.integers(1, 64))
def test_keys_are_derived_the_same(key: bytes, label: bytes, data: bytes, size: int) -> None:
    assert len(both("kdf", key, _labels.KdfLabel(label), data, size)) == size


@pytest.mark.parametrize("size", [LARGE - 17, LARGE - 16, LARGE - 1, LARGE, LARGE + 1, (1 << 20) + 3, 9 << 20])
def test_large_ones_are_the_same(size: int) -> None:
    data, nonce, key = os.urandom(size), os.urandom(24), os.urandom(32)
    box = both("secretbox", data, nonce, key)
    assert both("secretbox_open", box, nonce, key) == data
    assert both("secretbox_open", box[:-1], nonce, key) is None
    both("kdf", key, _labels.MESSAGE, data, 64)
    assert both("sign_open", both("sign", data, SIGNING) + data, PUBLIC) is not None


# --- whatever else comes ---------------------------------------------------------------------------------------------


class Bytes(bytes):
    """Bytes that say another length than they have."""

    def __len__(self) -> int:
        return 32


class Sly:
    """What is bytes and a number to whoever asks it."""

    def __bytes__(self) -> bytes:
        return bytes(32)

    def __len__(self) -> int:
        return 32

    def __index__(self) -> int:
        return 32


class Number(int):
    pass


lengths = st.sampled_from([0, 1, 12, 15, 16, 17, 23, 24, 25, 31, 32, 33, 63, 64, 65, 128])
plain = lengths.flatmap(lambda size: st.binary(min_size=size, max_size=size))
buffers = st.one_of(
    plain.map(bytearray), plain.map(memoryview), plain.map(lambda data: memoryview(data + data)[::2]),
    plain.map(lambda data: memoryview(bytearray(data))), plain.map(lambda data: memoryview(data)[::-1]),
)  # fmt: skip
numbers = st.one_of(
    st.sampled_from([0, 1, 16, 32, 64, 65, -1, 1 << 31, 1 << 32, (1 << 32) + 32, 1 << 63, 1 << 64, (1 << 64) + 32]),
    st.booleans(), st.integers(1, 64).map(Number), st.floats(), st.none(),
)  # fmt: skip
# Never bytes that lie about their length to a pure call, which believes them as cffi does.
anything = st.one_of(plain, plain, buffers, numbers, st.text(max_size=40), st.lists(plain, max_size=2), st.just(Sly()))


@pytest.mark.parametrize("name", NAMES)
@given(args=st.lists(anything, max_size=6))
def test_whatever_comes_is_answered_as_the_pure_calls_do(name: str, args: list[Any]) -> None:
    both(name, *args)


@pytest.mark.parametrize("name", NAMES)
def test_another_number_of_arguments_is_refused(name: str) -> None:
    for count in (*range(8), 300):
        if count != len(TAKES[name]) + (name == "kdf"):  # with a start, bytes are none
            with pytest.raises(TypeError):
                FAST[name](*[bytes(32)] * count)
    with pytest.raises(TypeError):
        FAST[name](key=bytes(32))


# --- what reaches libsodium ------------------------------------------------------------------------------------------

CHARS, SIZE = ctypes.c_void_p, ctypes.c_ulonglong
BOX = ctypes.CFUNCTYPE(ctypes.c_int, CHARS, CHARS, SIZE, CHARS, CHARS)
TYPES: dict[str, Any] = {
    "secretbox": BOX,
    "secretbox_open": BOX,
    "scalarmult": ctypes.CFUNCTYPE(ctypes.c_int, CHARS, CHARS, CHARS),
    "scalarmult_base": ctypes.CFUNCTYPE(ctypes.c_int, CHARS, CHARS),
    "sign": ctypes.CFUNCTYPE(ctypes.c_int, CHARS, CHARS, CHARS, SIZE, CHARS),
    "sign_open": ctypes.CFUNCTYPE(ctypes.c_int, CHARS, CHARS, CHARS, SIZE, CHARS),
    "kdf": ctypes.CFUNCTYPE(
        ctypes.c_int, CHARS, ctypes.c_size_t, CHARS, SIZE, CHARS, ctypes.c_size_t, CHARS, CHARS
    ),
}  # fmt: skip
# How many bytes libsodium writes to the first address, by the lengths that it is told.
WRITES: dict[str, Any] = {
    "secretbox": lambda args: args[2] + 16,
    "secretbox_open": lambda args: args[2] - 16,
    "scalarmult": lambda args: 32,
    "scalarmult_base": lambda args: 32,
    "sign": lambda args: args[3] + 64,
    "sign_open": None,
    "kdf": lambda args: args[1],
}


class Seen:
    """The compiled calls, bound to functions that note what reaches them, and to pure ones that note what is left."""

    def __init__(self, status: int) -> None:
        self.reached: list[tuple[str, tuple[Any, ...]]] = []
        self.left: list[tuple[str, tuple[Any, ...]]] = []
        self._status = status
        self._stand_ins = [TYPES[name](self._noting(name)) for name in NAMES]
        self.module = unbound()
        addresses = tuple(ctypes.cast(function, ctypes.c_void_p).value for function in self._stand_ins)
        self.module.bind(build.FUNCTIONS, addresses, tuple(self._leaving(name) for name in NAMES))

    def _noting(self, name: str) -> Callable[..., int]:
        def stand_in(*args: Any) -> int:
            self.reached.append((name, args))
            if WRITES[name] is not None:
                ctypes.memset(args[0], 0xA5, WRITES[name](args))  # all that libsodium would write there
            return self._status

        return stand_in

    def _leaving(self, name: str) -> Callable[..., object]:
        def pure(*args: Any) -> object:
            self.left.append((name, args))
            return ("left", *args)

        return pure


TAKING, REFUSING = (Seen(0), Seen(-1)) if build._fast is not None else (None, None)


def _has_start(name: str, args: list[Any]) -> bool:
    return name == "secretbox_open" and len(args) == 4 and type(args[3]) is int and 0 <= args[3] < 1 << 63


def _is_right(name: str, args: list[Any]) -> bool:
    lengths = TAKES[name]
    if _has_start(name, args):
        args = args[:3]
    *data, size = args if name == "kdf" and args else [*args, 1]
    return (
        len(data) == len(lengths)
        and all(type(one) is bytes for one in data)
        and all(least <= len(one) <= most for one, (least, most) in zip(data, lengths, strict=True))
        and type(size) is int
        and 1 <= size <= 64
    )


def reach(name: str, args: list[Any]) -> None:
    """Assert that these arguments reach libsodium as they lie, where they are right, and else the pure call alone."""
    for seen in (TAKING, REFUSING):
        assert seen is not None
        seen.reached.clear()
        seen.left.clear()
        answered = getattr(seen.module, name)(*args)
        if not _is_right(name, args):
            assert (seen.reached, seen.left) == ([], [(name, tuple(args))])
            assert answered == ("left", *args)
        elif name == "secretbox_open" and len(args[0]) < 16 + (args[3] if len(args) == 4 else 0):
            assert (seen.reached, seen.left, answered) == ([], [], None)
        else:
            [(reached, told)] = seen.reached
            assert reached == name
            _measured(name, args, told)
            if seen is REFUSING:
                assert answered is None or (answered == ("left", *args) and name in ("secretbox", "kdf"))
            elif name == "sign_open":
                assert answered is args[0]
            else:
                assert type(answered) is bytes
                assert answered == b"\xa5" * (64 if name == "sign" else WRITES[name](told))


ODD: tuple[Any, ...] = (
    *(kind(bytes(size)) for size in (0, 16, 24, 32, 64) for kind in (bytearray, memoryview, Bytes)),
    memoryview(bytes(64))[::2], memoryview(bytearray(32)), None, "x" * 32, [bytes(32)], Sly(), 1.0,
    True, Number(32), 0, 1, 16, 32, 64, 65, 128, -1, 1 << 31, (1 << 32) + 32, 1 << 63, 1 << 64, (1 << 64) + 32,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_one_wrong_argument_in_any_place_is_left_to_the_pure_call(name: str) -> None:
    for fill in (min, max):
        right = [bytes(fill(bounds)) for bounds in TAKES[name]] + [32] * (name == "kdf")
        reach(name, right)
        for at in range(len(right)):
            for wrong in (*map(bytes, range(131)), *ODD):
                reach(name, [*right[:at], wrong, *right[at + 1 :]])


def test_a_box_is_opened_where_it_lies_and_nowhere_beside_it() -> None:
    for size in (*range(40), 300):
        for start in (*range(45), 299, 300, 301, *ODD):
            reach("secretbox_open", [bytes(range(256)) + bytes(size), bytes(24), bytes(32), start])
            reach("secretbox_open", [bytes(size), bytes(24), bytes(32), start])


@given(st.binary(max_size=100), st.binary(max_size=100), st.integers(-150, 300) | numbers)
def test_a_box_behind_something_opens_the_same(before: bytes, message: bytes, start: Any) -> None:
    box = PURE["secretbox"](message, bytes(24), bytes(32))
    assert both("secretbox_open", before + box, bytes(24), bytes(32), len(before)) == message
    both("secretbox_open", before + box, bytes(24), bytes(32), start)


@pytest.mark.parametrize("name", NAMES)
@given(args=st.lists(anything | plain.map(Bytes), max_size=6))
def test_only_plain_bytes_of_the_right_lengths_reach_libsodium(name: str, args: list[Any]) -> None:
    reach(name, args)


def _measured(name: str, args: list[Any], told: tuple[Any, ...]) -> None:
    """Assert that libsodium is told the lengths that are there, and that what it reads lies where the bytes lie."""

    def lies(address: int | None, data: bytes) -> bool:
        return (b"" if address is None else ctypes.string_at(address, len(data))) == data

    match name:
        case "secretbox" | "secretbox_open":
            out, data, size, nonce, key = told
            box = args[0][args[3] :] if len(args) == 4 else args[0]
            assert size == len(box)
            assert all(map(lies, (data, nonce, key), (box, *args[1:])))
        case "scalarmult" | "scalarmult_base":
            out = told[0]
            assert all(map(lies, told[1:], args))
        case "sign":
            out, length, data, size, key = told
            assert (length, size) == (None, len(args[0]))
            assert all(map(lies, (data, key), args))
        case "sign_open":
            out, length, data, size, key = told
            assert (out, length, size) == (None, None, len(args[0]))
            assert all(map(lies, (data, key), args))
            return
        case _:
            out, wanted, data, size, key, key_size, salt, _ = told
            assert (wanted, size, key_size, salt) == (args[3], len(args[2]), len(args[0]), None)
            assert lies(data, args[2])
            assert lies(key, args[0])
            assert (key is None) is (args[0] == b"")
    assert out is not None


def test_a_label_is_filled_with_zeros() -> None:
    # What the stand-in is given lies on the stack of the call, and is gone behind it: so by what it answers.
    for size in range(17):
        both("kdf", bytes(32), b"\x01" * size, b"data", 64)


# --- binding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_bound_calls_nothing(name: str) -> None:
    right = [bytes(least) for least, _ in TAKES[name]] + [32] * (name == "kdf")
    with pytest.raises(RuntimeError, match="not bound"):
        getattr(unbound(), name)(*right)


def test_calls_are_bound_once_and_whole_or_not_at_all() -> None:
    module = unbound()
    addresses, pure = tuple(range(1, 8)), tuple(PURE.values())
    names = build.FUNCTIONS
    swapped = " ".join(reversed(names.split()))
    for args in (
        (), (names,), (addresses, pure), (names, addresses), (names, addresses, pure, 1),
        (swapped, addresses, pure), (names[:-1], addresses, pure), (names + " ", addresses, pure),
        (names + "\0", addresses, pure), ("", addresses, pure), ("\ud800", addresses, pure),
        (names.encode(), addresses, pure), (None, addresses, pure),
        (names, list(addresses), pure), (names, addresses, list(pure)),
        (names, addresses[1:], pure), (names, addresses, pure[1:]), (names, (*addresses, 1), pure),
        (names, addresses, (*pure, print)), (names, (0, *addresses[1:]), pure), (names, (None, *addresses[1:]), pure),
        (names, (True, *addresses[1:]), pure), (names, (*addresses[:6], 1 << 70), pure),
        (names, (*addresses[:6], 1.0), pure), (names, addresses, (*pure[:6], None)), (names, None, None),
    ):  # fmt: skip
        with pytest.raises((TypeError, OverflowError)):
            module.bind(*args)
        with pytest.raises(RuntimeError, match="not bound"):
            module.scalarmult_base(bytes(32))
    build.bound(module, _sodium.SODIUM, _crypto._kdf)
    with pytest.raises(RuntimeError, match="bound already"):
        build.bound(module, _sodium.SODIUM, _crypto._kdf)
    assert module.scalarmult_base(bytes(32)) == PURE["scalarmult_base"](bytes(32))


def test_what_is_bound_goes_with_its_module() -> None:
    class Pure:
        def __call__(self, *args: Any) -> None:
            alive.append(args)

    alive: list[Any] = []
    gone: list[int] = []
    module, pure = unbound(), Pure()
    pure.module = module  # type: ignore[attr-defined] # a circle, which only the collector can undo
    pure.end = type("End", (), {"__del__": lambda _: gone.append(1)})()  # type: ignore[attr-defined]
    module.bind(build.FUNCTIONS, (1,) * 7, (pure,) * 7)
    module.scalarmult_base(b"short")
    assert alive == [(b"short",)]
    del module, pure
    gc.collect()
    assert gone == [1]


# --- memory, threads, interpreters -----------------------------------------------------------------------------------


def test_no_call_keeps_memory() -> None:
    box = FAST["secretbox"](bytes(100), bytes(24), bytes(32))
    signed = FAST["sign"](bytes(100), SIGNING) + bytes(100)

    def all_calls() -> None:
        for _ in range(200):
            FAST["secretbox"](bytes(100), bytes(24), bytes(32))
            FAST["secretbox_open"](box, bytes(24), bytes(32))
            FAST["secretbox_open"](box, bytes(24), b"\x01" * 32)
            FAST["secretbox_open"](box[:3], bytes(24), bytes(32))
            FAST["scalarmult"](bytes(32), PUBLIC)
            FAST["scalarmult"](bytes(32), bytes(32))
            FAST["scalarmult_base"](bytes(32))
            FAST["sign"](bytes(100), SIGNING)
            FAST["sign"](bytes(100), b"")
            FAST["sign_open"](signed, PUBLIC)
            FAST["sign_open"](signed, bytes(32))
            FAST["kdf"](bytes(32), b"label", bytes(100), 64)
            for wrong in ((1,), (bytes(32), b"label", bytes(100), 65), (bytes(65), b"", b"", 1)):
                with pytest.raises((TypeError, ValueError)):
                    FAST["kdf"](*wrong)

    all_calls()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        all_calls()
        gc.collect()
        # One object that is kept by each of 200 calls would be 33 bytes or more each.
        assert tracemalloc.get_traced_memory()[0] - before < 200 * 33
    finally:
        tracemalloc.stop()
    assert sys.getrefcount(signed) == sys.getrefcount(box)


def test_threads_share_inputs_and_get_answers_of_their_own() -> None:
    key, nonce = os.urandom(32), os.urandom(24)
    small, large = os.urandom(100), os.urandom(3 * LARGE)
    boxes = {data: PURE["secretbox"](data, nonce, key) for data in (small, large)}
    derived = PURE["kdf"](key, _labels.MESSAGE, large, 64)
    wrong: list[str] = []

    def work() -> None:
        for _ in range(30):
            for data, box in boxes.items():
                if FAST["secretbox"](data, nonce, key) != box or FAST["secretbox_open"](box, nonce, key) != data:
                    wrong.append("a box")
            if FAST["kdf"](key, _labels.MESSAGE, large, 64) != derived:
                wrong.append("a key")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


IN_ANOTHER = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
from agentmesh.primitives import _crypto, build
code = '''
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
loader = ExtensionFileLoader("agentmesh.primitives._fast", %r)
spec = spec_from_file_location("agentmesh.primitives._fast", loader.path, loader=loader)
try:
    module = module_from_spec(spec)
    loader.exec_module(module)
except ImportError:
    pass  # refused, which is as good
else:
    try:
        module.scalarmult_base(bytes(32))
    except RuntimeError:
        pass
    else:
        raise AssertionError("one interpreter's binding serves another")
''' % build._fast.__file__
for _ in range(3):
    other = interpreters.create()
    failed = interpreters.run_string(other, code)
    assert failed is None, failed
    interpreters.destroy(other)
assert build.BUILD == "compiled"
print(_crypto.x25519_public(bytes(32)).hex())
"""


def test_another_interpreter_has_calls_of_its_own_or_none() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", IN_ANOTHER],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, PURE["scalarmult_base"](bytes(32)).hex()), done.stderr

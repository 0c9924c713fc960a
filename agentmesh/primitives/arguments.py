"""What public calls take: numbers, texts, bytes and limits, held to their range; and how they leave when refused.

What may be a secret is let go before anything is raised: a traceback keeps the locals of every frame that it passed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final, ParamSpec, TypeVar

from attrs import Attribute

from agentmesh.errors import AgentMeshError, ArgumentInvalid, StoreError, TooLarge
from agentmesh.limits import UINT_MAX, Limits

BytesLike = bytes | bytearray | memoryview
_P = ParamSpec("_P")
_R = TypeVar("_R")

TEXTS_MAX: Final = 1 << 16  # what an endless iterator is stopped at; the limits proper are far below
_DEFAULT_LIMITS: Final = Limits()


# --- how a refused call leaves ---------------------------------------------------------------------------------------


def frameless(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let an error of ours leave a call without the frames it came through: their locals may hold a secret."""

    @functools.wraps(call)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return call(*args, **kwargs)
        except AgentMeshError as error:
            left = error
        del args, kwargs  # this frame stays in the traceback
        raise bare(left)

    return guarded


def bare(error: AgentMeshError) -> AgentMeshError:
    """Return an error without the frames it came through, and without what it came from."""
    error.__context__ = None
    if not isinstance(error, StoreError):  # a store is the caller's own, and so is its error
        error.__cause__ = None
    return error.with_traceback(None)


def frameless_init(kind: type[_R]) -> type[_R]:
    """Make the constructor of an attrs class `frameless`."""
    setattr(kind, "__init__", frameless(kind.__init__))  # noqa: B010 - an assignment is one that mypy refuses
    return kind


# --- texts and bytes -------------------------------------------------------------------------------------------------


def plain_text(value: object) -> Any:
    """Return a `str` for a `str` or a subclass of it (an enum's member, say); anything else as it is.

    What the subclass says of itself is not asked: the result is the text that it holds.
    """
    return str.__str__(value) if isinstance(value, str) and type(value) is not str else value


def text_argument(name: str, value: object, minimum: int, maximum: int) -> str:
    """Return `value` as a plain `str`, if it is text of `minimum` to `maximum` bytes of UTF-8.

    Raises:
        ArgumentInvalid: another type or length, or text that UTF-8 cannot carry.
    """
    text = plain_text(value)
    size = _text_size(text, maximum)
    if minimum <= size <= maximum:
        return str(text)
    is_text, is_bytes = type(text) is str, isinstance(value, BytesLike)
    del text, value
    if size >= 0:
        raise _out_of_range(name, size, minimum, maximum)
    if is_text:
        raise ArgumentInvalid(name, "text that UTF-8 cannot carry")
    raise ArgumentInvalid(name, "bytes, not text: decode it" if is_bytes else "not text")


@frameless
def texts_argument(name: str, values: object, minimum: int, maximum: int, *, most: int = TEXTS_MAX) -> tuple[str, ...]:
    """Return `values` as a tuple of plain `str`, if they are at most so many and each as `text_argument` takes it.

    Raises:
        ArgumentInvalid: one text instead of several, no iterable, too many, or a text that does not fit.
    """
    if isinstance(values, str | BytesLike) or not isinstance(values, Iterable):
        raise ArgumentInvalid(name, "not several texts")
    texts = tuple(text_argument(name, value, minimum, maximum) for value in islice(values, most + 1))
    if len(texts) > most:  # one more than may be, and no further: an iterator need not end
        raise ArgumentInvalid(name, "too many", allowed=most)
    return texts


def _text_size(text: object, maximum: int) -> int:
    """Return the bytes that a text has in UTF-8; of one that is too long in characters, those. -1 for what has none."""
    if type(text) is not str:
        return -1
    if len(text) > maximum:  # a character is a byte at least: nothing of its size is made
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return -1


def bytes_argument(name: str, value: object, minimum: int = 0, maximum: int = UINT_MAX) -> bytes:
    """Return `value` as plain `bytes`, if it is bytes-like and `minimum` to `maximum` bytes long.

    A `bytearray` or `memoryview` is copied, once, so that its owner may write into it again.

    Raises:
        ArgumentInvalid: another type or length.
    """
    size = _bytes_size(value)
    if minimum <= size <= maximum:
        # What is there, whatever a subclass says of itself.
        return value if type(value) is bytes else memoryview(value).tobytes()  # type: ignore[arg-type]
    is_text = isinstance(value, str)
    del value
    if size >= 0:
        raise _out_of_range(name, size, minimum, maximum)
    raise ArgumentInvalid(name, "text, not bytes: encode it" if is_text else "not bytes")


def received_argument(name: str, value: object, maximum: int) -> bytes:
    """Return `value` as plain `bytes`, if it is bytes-like: bytes from elsewhere, which are the caller's to pass on.

    Raises:
        ArgumentInvalid: another type.
        TooLarge: more than `maximum` bytes; nothing was copied.
    """
    if type(value) is bytes and len(value) <= maximum:
        return value
    if (size := _bytes_size(value)) > maximum:
        raise TooLarge(size, maximum)
    return bytes_argument(name, value)


def _bytes_size(value: object) -> int:
    """Return how many bytes there are; -1 for what is not bytes-like, a view that was released included."""
    if type(value) is bytes:
        return len(value)
    try:
        return memoryview(value).nbytes if isinstance(value, BytesLike) else -1
    except ValueError:
        return -1


# --- numbers ---------------------------------------------------------------------------------------------------------


def uint_argument(name: str, value: object, maximum: int = UINT_MAX, minimum: int = 0) -> int:
    """Return `value`. No bool, float, NaN or text is a number here.

    Raises:
        ArgumentInvalid: not an int from `minimum` to `maximum`.
    """
    if type(value) is not int:
        raise ArgumentInvalid(name, "not an int")
    if not minimum <= value <= maximum:
        raise _out_of_range(name, value, minimum, maximum)
    return value


def positive(_instance: object, attribute: Attribute[Any], value: Any) -> None:
    """Hold a field to an int from 1 up, as an attrs validator.

    Raises:
        ArgumentInvalid: it is none.
    """
    uint_argument(attribute.name, value, minimum=1)


def maybe_uint(_instance: object, attribute: Attribute[Any], value: Any) -> None:
    """Hold a field to an int from 0 up, or `None`, as an attrs validator.

    Raises:
        ArgumentInvalid: it is neither.
    """
    if value is not None:
        uint_argument(attribute.name, value)


def _out_of_range(name: str, got: int, minimum: int, maximum: int) -> ArgumentInvalid:
    shown = got if abs(got) <= 2 * UINT_MAX else None  # what is longer is no number that anybody meant
    if got < minimum:
        return ArgumentInvalid(name, "under the least", shown, minimum)
    return ArgumentInvalid(name, "over the limit", shown, maximum)


# --- limits ----------------------------------------------------------------------------------------------------------


def limits_argument(limits: Limits | None) -> Limits:
    """Return `limits`, the defaults if `None`.

    Raises:
        ArgumentInvalid: not `Limits`.
    """
    if limits is None:
        return _DEFAULT_LIMITS
    if not isinstance(limits, Limits):
        raise ArgumentInvalid("limits", "not Limits")
    return limits

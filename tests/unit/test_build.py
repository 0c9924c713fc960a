"""Which build runs: the compiled calls only where they are there, wanted, of the right shape, and answer alike."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import agentmesh
from agentmesh.primitives import _crypto, _sodium, build

NAMES = (*_sodium.Calls._fields, "kdf")
SODIUM = _sodium.by_bindings()
PURE = dict(zip(NAMES, (*SODIUM, _crypto._kdf), strict=True))


class Compiled:
    """What stands for the compiled module: it answers as the pure calls do, but for what is changed."""

    def __init__(self, **changed: Callable[..., Any]) -> None:
        self.told: list[Any] = []
        for name, call in {**PURE, **changed}.items():
            # Each a function of its own, so that it can be told from the pure one.
            setattr(self, name, lambda *args, call=call: call(*args))

    def bind(self, *args: Any) -> None:
        self.told.append(args)


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "BUILD", "pure")
    monkeypatch.delenv(build.SWITCH, raising=False)


def chosen(monkeypatch: pytest.MonkeyPatch, module: Any) -> tuple[Any, ...]:
    monkeypatch.setattr(build, "_fast", module)
    calls, kdf = build.chosen(SODIUM, _crypto._kdf)
    return (*calls, kdf)


def is_pure(calls: tuple[Any, ...]) -> bool:
    return all(call is PURE[name] for name, call in zip(NAMES, calls, strict=True))


def test_where_nothing_is_compiled_the_pure_calls_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_pure(chosen(monkeypatch, None))
    assert build.BUILD == "pure"


@pytest.mark.parametrize("value", [None, "", "0"])
def test_compiled_calls_that_answer_alike_are_used(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is not None:
        monkeypatch.setenv(build.SWITCH, value)
    compiled = Compiled()
    assert chosen(monkeypatch, compiled) == tuple(getattr(compiled, name) for name in NAMES)
    assert build.BUILD == "compiled"
    [(names, addresses, pure)] = compiled.told
    assert is_pure(pure)
    ffi, lib = _sodium.HANDLE.ffi, _sodium.HANDLE.lib
    functions = [*_sodium.SHAPES, "crypto_generichash_blake2b_salt_personal"]
    assert names.split() == functions
    assert [ffi.cast("void *", address) for address in addresses] == [ffi.addressof(lib, name) for name in functions]


@pytest.mark.parametrize("value", ["1", "yes", "no", "00", " "])
def test_the_switch_keeps_them_out(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(build.SWITCH, value)
    compiled = Compiled()
    assert is_pure(chosen(monkeypatch, compiled))
    assert build.BUILD == "pure, as the environment asks"
    assert compiled.told == []


@pytest.mark.parametrize("handle", [None, SimpleNamespace(ffi=_sodium.HANDLE.ffi, lib=SimpleNamespace())])
def test_no_address_is_taken_from_a_handle_of_another_shape(monkeypatch: pytest.MonkeyPatch, handle: Any) -> None:
    monkeypatch.setattr(_sodium, "HANDLE", handle)
    compiled = Compiled()
    assert is_pure(chosen(monkeypatch, compiled))
    assert build.BUILD == "pure, because PyNaCl has no such handle"
    assert compiled.told == []


@pytest.mark.parametrize("how", ["bind", "kdf", *_sodium.Calls._fields, "refuses", "bound already"])
def test_compiled_calls_of_another_release_are_left_alone(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    compiled: Any = Compiled()
    if how in NAMES:
        delattr(compiled, how)
    else:
        error = {"bind": AttributeError, "refuses": TypeError, "bound already": RuntimeError}[how]

        def bind(*_: Any) -> None:
            raise error("bind")

        compiled.bind = bind
    assert is_pure(chosen(monkeypatch, compiled))
    assert build.BUILD == "pure, because the compiled calls cannot be bound"


def _flipped(value: Any) -> Any:
    return bytes([value[0] ^ 1]) + value[1:] if type(value) is bytes and value else value


def _gone(*_: Any) -> Any:
    raise AttributeError


OTHERWISE: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "another answer": lambda real: lambda *args: _flipped(real(*args)),
    "it raises": lambda _: _gone,
    "nothing is refused": lambda real: lambda *args: bytes(16) if (answer := real(*args)) is None else answer,
    "another type": lambda real: lambda *args: None if (answer := real(*args)) is None else bytearray(answer),
    "all is refused": lambda real: lambda *args: None,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", OTHERWISE)
def test_calls_that_answer_otherwise_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str, how: str) -> None:
    if how == "nothing is refused" and name in ("secretbox", "kdf"):
        return  # they return no None
    compiled = Compiled(**{name: OTHERWISE[how](PURE[name])})
    assert is_pure(chosen(monkeypatch, compiled))
    assert build.BUILD == "pure, because the compiled calls answer otherwise"


def _version(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "agentmesh", "--version"],
        env={**{name: value for name, value in os.environ.items() if name != build.SWITCH}, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.strip()


def test_the_command_line_says_which_build_runs() -> None:
    is_there = build._fast is not None
    name = f"agentmesh {agentmesh.__version__}"
    assert _version() == f"{name} ({'compiled' if is_there else 'pure'})"
    assert _version(**{build.SWITCH: "1"}) == f"{name} ({'pure, as the environment asks' if is_there else 'pure'})"

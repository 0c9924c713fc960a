"""The store in memory passes the kit; and the kit finds stores that break a promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentmesh.errors import ArgumentInvalid
from agentmesh.store import MemoryBackend
from agentmesh.store.memory import MemoryRows
from agentmesh.testing.store_kit import BACKEND_CHECKS, Check, Open, check_backend


def new_place() -> Open:
    kept = MemoryBackend()
    return lambda: MemoryBackend(kept)


@pytest.mark.parametrize("check", BACKEND_CHECKS, ids=lambda check: check.__name__)
def test_it_passes_the_kit(check: Check) -> None:
    check(new_place())


def test_the_kit_is_one_call_too() -> None:
    check_backend(new_place)


def test_a_backend_is_made_over_another_backend_only() -> None:
    with pytest.raises(ArgumentInvalid):
        MemoryBackend({})  # type: ignore[arg-type]


# --- the kit itself --------------------------------------------------------------------------------------------------

_write = MemoryRows.write
_read = MemoryRows.read


def _forgets_removals(self: MemoryRows, number: int, put: Any, removed: Any) -> None:
    _write(self, number, put, ())


def _removes_after_it_puts(self: MemoryRows, number: int, put: Any, removed: Any) -> None:
    _write(self, number, {name: data for name, data in put.items() if name not in removed}, removed)


def _takes_any_number(self: MemoryRows, number: int, put: Any, removed: Any) -> None:
    _write(self, self.commit_number + 1, put, removed)


def _writes_before_it_refuses(self: MemoryRows, number: int, put: Any, removed: Any) -> None:
    if number != self.commit_number + 1:
        self._agent.rows.update(put)
    _write(self, number, put, removed)


def _cuts_keys(self: MemoryRows, number: int, put: Any, removed: Any) -> None:
    put = {(kind, key.rstrip(b"\x00") if kind != "log" else key): data for (kind, key), data in put.items()}
    _write(self, number, put, removed)


def _log_out_of_order(self: MemoryRows, *, log: bool = False) -> Any:
    return iter(list(_read(self, log=log))[:: -1 if log else 1])


def _log_among_others(self: MemoryRows, *, log: bool = False) -> Any:
    return iter([*_read(self, log=log), *(() if log else _read(self, log=True))])


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        ("write", _forgets_removals),
        ("write", _removes_after_it_puts),
        ("write", _takes_any_number),
        ("write", _writes_before_it_refuses),
        ("write", _cuts_keys),
        ("read", _log_out_of_order),
        ("read", _log_among_others),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_kit_finds(method: str, fault: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryRows, method, fault)
    with pytest.raises(AssertionError):
        check_backend(new_place)

"""Scenes as tables: a row is a name, a comment, the steps, and what it ends with; one function plays every row.

Rows are laid out by hand under `# fmt: skip`, name and comment first: a table is read as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from attrs import frozen

from generator import wire
from generator.world import Files


@frozen
class Step:
    """A call that waits for the scene in which it is played."""

    call: Callable[[Any], Any]


@frozen
class Row:
    """A scene: its steps (a list among them is played in its order), what it ends with, what it begins with."""

    name: str
    comment: str
    steps: list[Any]
    ends: tuple[Any, ...]
    given: dict[str, Any]


def row(name: str, comment: str, steps: list[Any], *ends: Any, **given: Any) -> Row:
    """Return a row; `ends` goes to the scene's `finish`, `given` to what makes the scene."""
    return Row(name, comment, steps, ends, given)


def step(method: Callable[..., Any]) -> Callable[..., Step]:
    """Return what stands for a scene's method in a table. An argument that is a step is what that step gives."""

    def written(*arguments: Any, **fields: Any) -> Step:
        return Step(
            lambda scene: method(
                scene,
                *(_played(scene, value) for value in arguments),
                **{name: _played(scene, value) for name, value in fields.items()},
            )
        )

    return written


def keep(name: Any, value: Step) -> Step:
    """Give what a step gives, and keep it under a name for later steps."""

    def call(scene: Any) -> Any:
        scene.kept[name] = _played(scene, value)
        return scene.kept[name]

    return Step(call)


def kept(name: Any) -> Step:
    """Give what was kept under this name."""
    return Step(lambda scene: scene.kept[name])


def _played(scene: Any, value: Any) -> Any:
    if isinstance(value, Step):
        return value.call(scene)
    return [_played(scene, each) for each in value] if isinstance(value, list) else value


def play(make: Callable[..., Any], files: Files, rows: Iterable[Row], **common: Any) -> None:
    """Play each row in a scene of its own, which writes its file; what a row gives goes before what is common."""
    for each in rows:
        scene = make(files, each.name, each.comment, **{**common, **each.given})
        scene.kept = {}
        _played(scene, each.steps)
        scene.finish(*each.ends)


# --- bytes that a scene gave, as somebody else changed them -----------------------------------------------------------

flipped = step(lambda _, data, at: wire.flipped(data, at))
cut = step(lambda _, data, size: data[:size])
cut_off = step(lambda _, data, size: data[size:])
joined = step(lambda _, *parts: b"".join(parts))

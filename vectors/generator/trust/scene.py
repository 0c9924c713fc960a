"""Scenarios of signed statements: each step says what must come of it, and the library is held to that."""

from __future__ import annotations

import hashlib
from typing import Any

import runner

from generator import wire
from generator.codes import BAD_SIGNATURE, MALFORMED, UNFIT
from generator.trust.statements import ISSUER, KINDS, body_of, statement
from generator.world import MALLORY, MESH, Files, identity

Json = dict[str, Any]


class Scene:
    """One file with steps, which draw nothing: they are written first, and run together at the end."""

    def __init__(self, files: Files, name: str, operation: str, comment: str, *, spec: str, given: Json) -> None:
        self.name = f"{files.family}/{name}"
        self._files = files
        self._short = name
        self._operation = operation
        self._comment = comment
        self._spec = spec
        self._given: Json = {"mesh": MESH, **given, "steps": []}
        self._expected: list[tuple[str, Json]] = []
        self._noted: list[Json] = []

    def step(self, do: str, expect: str, output: Json, noted: Json | None = None, **fields: Any) -> None:
        """Add a step that must give this output, or be refused with this code."""
        self._given["steps"].append(
            {"do": do, **{name: value.hex() if isinstance(value, bytes) else value for name, value in fields.items()}}
        )
        self._expected.append((expect, output if expect == "ok" else {}))
        self._noted.append(noted or {})

    def finish(self) -> None:
        """Run the file and write it."""
        code, found = runner.run(self._operation, self._given)
        for number, ((expect, output), step) in enumerate(zip(self._expected, found["steps"], strict=True)):
            if step != {"expect": expect, **output}:
                raise ValueError(f"{self.name}, step {number}: {step} and not {expect}, {output}")
        if code != "ok":
            # What genuine steps derive stands in the valid files: here only the refused ones are shown.
            pairs = zip(self._expected, self._noted, strict=True)
            self._noted = [{} if expect == "ok" else noted for (expect, _), noted in pairs]
        self._files.write(
            self._short,
            self._operation,
            self._comment,
            spec=self._spec,
            expect=code,
            given=self._given,
            intermediate={"steps": self._noted},
            output=found,
        )


def digest_of(data: bytes) -> bytes:
    """Return the digest of a statement."""
    return hashlib.sha256(body_of(data)).digest()


def foreign_statements(name: str, now_ms: int) -> list[tuple[str, str, bytes, str]]:
    """Return (name, comment, bytes, code): what no taker of statements of this kind takes, whoever is believed."""
    [kind] = [kind for kind in KINDS if kind.name == name]
    good = statement(kind, ISSUER, identity("subject"), time_ms=now_ms)
    body = wire.binary(body_of(good))
    forged = wire.array(body, wire.binary(MALLORY.sign(kind.label, body_of(good))))
    return [
        ("forged", "signed by somebody else", forged, BAD_SIGNATURE),
        ("altered", "with a bit of its signature flipped", wire.flipped(good, -1), BAD_SIGNATURE),
        ("other-mesh", "of another mesh", statement(kind, mesh="example/other", time_ms=now_ms), UNFIT),
        ("truncated", "cut short", good[:-1], MALFORMED),
        *(
            (f"replayed-{other.name}", f"a genuine {other.name} of the same issuer", statement(other), MALFORMED)
            for other in KINDS
            if other is not kind
        ),
    ]

"""Scenarios with steps: the runner takes each step as it is written, and what it gave is written beside it."""

from __future__ import annotations

from typing import Any

import runner

from generator import trace
from generator.world import Files

Json = dict[str, Any]


class Scenario:
    """One file with steps, as it comes about."""

    def __init__(self, files: Files, name: str, operation: str, comment: str, *, spec: str, given: Json) -> None:
        self._files = files
        self._name = name
        self._operation = operation
        self._comment = comment
        self._spec = spec
        self.given = {**given, "steps": []}
        self._outputs: list[Json] = []
        self._traces: list[Json] = []
        trace.begin()
        recorder = trace.Recorder(f"{files.family}/{name}")
        traced = {"suite": trace.TRACED} if operation == "ratchet.run" else {}
        self.runner = runner.RUNNERS[operation](self.given, recorder, **traced)
        self._start = trace.events()

    def step(self, do: str, expect: str = "ok", *, intermediate: Json | None = None, **fields: Any) -> Json:
        """Take a step; `fields` are its input, bytes as bytes. Return what it gave."""
        step = {
            "do": do,
            **{name: value.hex() if isinstance(value, bytes) else value for name, value in fields.items()},
        }
        trace.begin()
        output = runner.take(self.runner, step)
        if output["expect"] != expect:
            raise ValueError(f"{self._files.family}/{self._name}: {output['expect']} and not {expect}")
        self.given["steps"].append(step)
        self._outputs.append(output)
        self._traces.append({**(intermediate or {}), **trace.events()})
        return output

    def finish(self) -> Json:
        """Write the file, which expects what its last refused step did. It must run from its own input alone."""
        output = runner.output_of(self.runner, self._outputs)
        expect = runner.expect_of(output)
        if expect != "ok":
            # The keys of genuine steps stand in the files of the valid ones: here only the refused ones are shown.
            pairs = zip(self._outputs, self._traces, strict=True)
            self._traces = [{} if given["expect"] == "ok" else noted for given, noted in pairs]
        if runner.run(self._operation, self.given) != (expect, output):
            raise ValueError(f"{self._files.family}/{self._name}: another result from the file alone")
        start = {"start": self._start} if self._start and expect == "ok" else {}
        return self._files.write(
            self._name,
            self._operation,
            self._comment,
            spec=self._spec,
            expect=expect,
            given=self.given,
            intermediate={**start, "steps": self._traces},
            output=output,
        )

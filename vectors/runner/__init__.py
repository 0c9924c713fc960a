"""How this library runs a vector: from its `operation` and `input` to what must come out of them.

`run` goes through the public functions of the layers, and through `Agent` where a scenario has steps. The generator
fills in results with it, and the tests hold every file to it. What each operation means is said in README.md, for
implementers in other languages; nothing here is needed to understand a vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from agentmesh.errors import AgentMeshError, ChunkBroken, LogBroken
from runner.agents import KnockRunner, PairRunner, SessionRunner
from runner.attachments import CALLS as ATTACHMENT_CALLS
from runner.audit import CALLS as AUDIT_CALLS
from runner.calls import CALLS
from runner.ratchets import RatchetRunner
from runner.trust import CALLS as TRUST_CALLS
from runner.trust import RUNNERS as TRUST_RUNNERS
from runner.values import Json


def run(operation: str, given: Json) -> tuple[str, Json]:
    """Return (`expect`, `output`) of a vector with this operation and input.

    What an operation refuses has no output, but for the fault of a broken log, and for which chunk is broken. Scenarios
    with steps go on after a refusal, and `expect` is the last one's.
    """
    try:
        output = OPERATIONS[operation](given)
    except LogBroken as error:
        return error.code, {"fault": error.fault, "number": error.sequence}
    except ChunkBroken as error:
        return error.code, {"number": error.number}
    except AgentMeshError as error:
        return error.code, {}
    return expect_of(output), output


def expect_of(output: Json) -> str:
    """Return `ok`, or the code of the last step that was refused."""
    refused = [step["expect"] for step in output.get("steps", ()) if step["expect"] != "ok"]
    return refused[-1] if refused else "ok"


class Runner(Protocol):
    """One side of a scenario: it takes steps, and says where it stands at the end."""

    def step(self, step: Json, /) -> Json:
        """Take a step and return what it gave, without `expect`."""
        ...

    def state(self) -> Json:
        """Return what `output` says beside the steps."""
        ...

    def export(self) -> Any:
        """Return something that is equal before and after a refusal."""
        ...


def take(runner: Runner, step: Json) -> Json:
    """Take a step and return its output: what it gave, or its refusal, which must have changed nothing."""
    before = runner.export()
    try:
        return {"expect": "ok", **runner.step(step)}
    except AgentMeshError as error:
        if runner.export() != before:
            raise AssertionError(f"a refusal ({error.code}) changed the state") from error
        return {"expect": error.code}


def output_of(runner: Runner, steps: list[Json]) -> Json:
    """Return the output of a scenario whose steps gave this.

    Behind a refusal the keys are not repeated: that it changed nothing shows in what is opened after it.
    """
    output = {"steps": steps, **runner.state()}
    if expect_of(output) != "ok":
        output.pop("state", None)
    return output


def _steps(make: Callable[..., Runner]) -> Callable[[Json], Json]:
    """Return the operation that takes every step in a runner of its own."""

    def run_steps(given: Json) -> Json:
        runner = make(given)
        return output_of(runner, [take(runner, step) for step in given["steps"]])

    return run_steps


RUNNERS: dict[str, Callable[..., Runner]] = {
    "knock.run": KnockRunner,
    "session.run": SessionRunner,
    "agent.run": PairRunner,
    "ratchet.run": RatchetRunner,
    **TRUST_RUNNERS,
}
OPERATIONS: dict[str, Callable[[Json], Json]] = {
    **CALLS,
    **ATTACHMENT_CALLS,
    **AUDIT_CALLS,
    **TRUST_CALLS,
    **{operation: _steps(make) for operation, make in RUNNERS.items()},
}

"""What a reader of the workflows relies on: each action is one commit, and no job may do more than its list says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*")


def loose(workflow: str) -> list[str]:
    """Return what is not pinned, not limited, or keeps a password."""
    found = [used for used in re.findall(r"uses: *(.*)", workflow) if not PINNED.fullmatch(used)]
    if not re.search(r"^permissions: \{\}$", workflow, re.MULTILINE):
        found.append("permissions of the whole workflow")
    jobs = re.split(r"^  (?=[\w-]+:$)", workflow.split("\njobs:\n")[1], flags=re.MULTILINE)[1:]
    for job in jobs:
        name = job.partition(":")[0]
        found += [f"{name}: {key}" for key in ("permissions", "timeout-minutes") if f"\n    {key}:" not in job]
    if workflow.count("actions/checkout@") != workflow.count("persist-credentials: false"):
        found.append("a checkout that leaves its token")
    if "secrets." in workflow:
        found.append("a password")
    # What is put into a script before a shell reads it can be chosen by whoever opens a pull request.
    found += re.findall(r"run: .*\$\{\{.*", workflow)
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_pinned_and_limited(path: Path) -> None:
    assert loose(path.read_text(encoding="utf-8")) == []


def test_there_are_a_gate_and_a_release() -> None:
    assert {path.stem for path in WORKFLOWS} >= {"ci", "release"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("@11bd71901bbe5b1630ceea73d27597364c9af683 # v4.2.2", "@v4"),
        ("permissions: {}", "permissions: write-all"),
        ("    timeout-minutes: 90\n", ""),
        ("    permissions:\n      contents: read\n", ""),
        ("          persist-credentials: false\n", ""),
        ("run: .ci/run", "run: echo ${{ github.head_ref }}"),
        ("run: .ci/run", "run: .ci/run ${{ secrets.TOKEN }}"),
    ],
)
def test_what_is_loose_is_seen(before: str, after: str) -> None:
    [workflow] = [path.read_text(encoding="utf-8") for path in WORKFLOWS if path.stem == "ci"]
    assert before in workflow
    assert loose(workflow.replace(before, after, 1)) != []

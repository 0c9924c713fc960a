"""Another package under our name: told once, in one sentence, and nothing fails of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from agentmesh import Agent, namesake
from agentmesh.agt import AgtAgent
from agentmesh.cli.main import main
from agentmesh.errors import NameShared


@pytest.fixture(autouse=True)
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has not asked yet."""
    monkeypatch.setattr(namesake, "_once", iter((True,)))


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, files: str | None) -> None:
    info = folder / f"{name.replace('-', '_')}-3.7.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 3.7.0\n")
    if files is not None:
        (info / "RECORD").write_text(f"{files},,\n")
        (folder / files).parent.mkdir(exist_ok=True)
        (folder / files).write_text("")
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize("name", ["agentmesh-platform", "agentmesh"])
@pytest.mark.parametrize("make", [lambda: Agent.create("example/test"), lambda: AgtAgent.create("example/test")])
def test_a_namesake_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[[], object]
) -> None:
    installed(tmp_path, monkeypatch, name, "agentmesh/governance.py")
    with pytest.warns(NameShared) as told:
        make()
    make()
    [warning] = told
    assert str(warning.message).startswith(f"{name} is installed beside agentmesh-e2ee, and both are imported as ")


def test_nobody_is_told_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, "agentmesh-platform", "another_package/module.py")
    Agent.create("example/test")
    assert namesake.namesakes() == ()


def test_files_that_are_not_listed_may_be_ours_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, "agentmesh-platform", None)
    with pytest.warns(NameShared):
        Agent.create("example/test")


def test_a_damaged_environment_fails_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(_name: str) -> None:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "damaged")

    monkeypatch.setattr(metadata, "files", damaged)
    Agent.create("example/test")


def test_where_warnings_are_errors_the_first_call_alone_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, "agentmesh-platform", "agentmesh/governance.py")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NameShared):
            Agent.create("example/test")
        Agent.create("example/test")


def test_every_distribution_that_has_our_name_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, "somebody-else", "agentmesh/governance.py")
    assert namesake.namesakes() == ("somebody-else",)
    Agent.create("example/test")  # not one of those that are looked up by name


def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(tmp_path, monkeypatch, "agentmesh-platform", "agentmesh/governance.py")
    with pytest.raises(SystemExit):
        main(["inspect", str(tmp_path)])
    err = capsys.readouterr().err
    assert err.count("agentmesh-platform is installed beside agentmesh-e2ee") == 1

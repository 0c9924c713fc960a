"""Another package under our name: told once, in one sentence, and nothing fails of it."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

import agentmesh
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


def test_a_damaged_environment_fails_no_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, "agentmesh-platform", "agentmesh/governance.py")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "none"), "\0", *sys.path])
    Agent.create("example/test")  # a folder that is not there, and no name of one
    monkeypatch.setattr(namesake, "_once", iter((True,)))
    monkeypatch.setattr(sys, "path", sys.path[2:])

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


def test_files_of_another_package_among_ours_are_named_where_the_import_fails(tmp_path: Path) -> None:
    """The usual case: both were installed into one folder, and a folder of theirs stands before a module of ours."""
    package = tmp_path / "agentmesh"
    package.mkdir()
    for entry in Path(agentmesh.__file__).parent.iterdir():
        (package / entry.name).symlink_to(entry)
    (package / "events").mkdir()
    (package / "events" / "__init__.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def ends(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        return done.returncode, done.stderr

    status, err = ends("-c", "import agentmesh")
    assert status == 1
    assert "ImportError: cannot import name" in err.splitlines()[-1]  # nobody else is installed: as it is
    info = tmp_path / "agentmesh_platform-3.7.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: agentmesh-platform\nVersion: 3.7.0\n")
    status, err = ends("-c", "import agentmesh")
    assert status == 1
    assert err.splitlines()[-1].startswith("ImportError: agentmesh-platform is installed beside agentmesh-e2ee, and ")
    status, err = ends("-m", "agentmesh", "--version")
    assert status == 1
    assert err.startswith("agentmesh: agentmesh-platform is installed beside agentmesh-e2ee, and ")
    assert err.count("\n") == 1

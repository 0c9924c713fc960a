"""The benchmarks run, at sizes as small as can be, and give what they promise. Nothing here looks at a time."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SIZES = (64, 256, 1024, 16_384, 1_048_576)
ROW = {
    "handshake_pair", "pingpong", "reverse100", "mem_session_bytes", "serialise", "restore",
    *(f"audit_append_{size}" for size in ("1k", "10k", "100k")),
    *(f"{kind}_{size}" for size in SIZES for kind in ("enc", "dec")),
    *(f"{kind}_{half}_{size}" for size in SIZES for kind in ("frame", "frameaudit") for half in ("out", "in")),
}  # fmt: skip
SLOW = """
import runpy, sys
sys.path.insert(0, {root!r})
import agentmesh
genuine = agentmesh.Agent.send
def slow(self, *arguments, **named):
    for _ in range(20_000):
        pass
    return genuine(self, *arguments, **named)
agentmesh.Agent.send = slow
runpy.run_module("benchmarks.ours", run_name="__main__")
"""
COUNTED = """
import itertools, sys
sys.path.insert(0, {root!r})
from benchmarks.instructions import counted
from benchmarks.peers.serve import Workload
def work(turns):
    def call():
        for _ in itertools.repeat(None, turns):
            pass
    while True:
        yield call
counted({{"work": Workload(lambda: work({turns})), "bare:work": Workload(lambda: work(1000))}}, sys.argv[1:])
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch):
    """Import a module of the benchmarks, which are not installed with the package."""
    monkeypatch.syspath_prepend(str(ROOT))

    def load(name: str) -> ModuleType:
        return importlib.import_module(f"benchmarks.{name}")

    return load


# --- the commands ----------------------------------------------------------------------------------------------------


def test_the_row_is_one_json_object_with_every_key() -> None:
    found = json.loads(run("benchmarks/row.py", "--tiny").stdout)
    assert set(found) == ROW
    assert all(type(value) in (int, float) and value >= 0 for value in found.values())


def test_a_run_gives_every_target_and_names_every_peer_that_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    done = run("-m", "benchmarks.run", "--tiny", "--no-peers", "--json", str(out))
    found = json.loads(out.read_text("utf-8"))
    assert set(found["missing"]) - {"compiled"} == {"agt", "vodozemac", "omemo"}  # compiled, where it is installed
    assert found["failed"] == {}
    assert {row["ours"].partition(":")[0] for row in found["compiled"]} == {"compiled"}
    for row in (*found["targets"], *found["compiled"], *found["stores"]):
        needs = {str(row[side]).partition(":")[0] for side in ("ours", "versus")}
        assert (row["ratio"] is None) is bool(needs & set(found["missing"])), row
        assert (row["met"] is None) is (row["ratio"] is None)
        assert row["says"] in done.stdout
    assert "left out by --no-peers" in done.stdout
    told = set(re.findall(r"\] (\w+)$", done.stderr, re.MULTILINE))
    assert {"establishment", "messages", "audit", "trust", "stores", "figures"} <= told
    assert {"store_batches.1.full", "store_opening.seconds"} <= {key.removeprefix("ours:") for key in found["medians"]}


def test_a_part_alone_is_merged_with_what_another_run_found(tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    tiny = ("-m", "benchmarks.run", "--tiny", "--no-peers")
    run(*tiny, "--only", "state", "establishment", "--json", str(before))
    earlier = json.loads(before.read_text("utf-8"))
    assert {"ours:restore", "bare:handshake_pair"} <= set(earlier["medians"])
    assert not any(key.startswith(("ours:audit", "ours:store_")) for key in earlier["medians"])
    earlier["measured"] |= {"ours:restore": [1.5], "ours:pingpong": [2.5], "agt:pingpong": [5.0]}
    earlier["facts"]["agt"], earlier["instructions"] = {"agentmesh_platform": "1"}, {"ours:pingpong": 7}
    before.write_text(json.dumps(earlier), "utf-8")
    run(*tiny, "--only", "state", "--merge", str(before), "--json", str(after))
    found = json.loads(after.read_text("utf-8"))
    assert found["merged"] is True
    assert found["measured"]["ours:pingpong"] == [2.5]
    assert found["measured"]["ours:restore"] != [1.5]
    assert found["instructions"] == {"ours:pingpong": 7}
    assert "agt" in found["facts"]
    assert "agt" not in found["missing"]
    assert [
        row["ratio"] for row in found["targets"] if (row["ours"], row["versus"]) == ("ours:pingpong", "agt:pingpong")
    ] == [0.5]


def test_a_part_alone_does_not_write_the_page(module, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        module("run").main(["--tiny", "--no-peers", "--only", "logs", "--page"])
    assert "--page needs --merge" in capsys.readouterr().err


def test_a_peer_that_cannot_be_installed_says_why(module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = module("workers")

    def quietly(*command: str) -> None:
        if "pip" in command:
            run_it(sys.executable, "-c", "import sys; sys.exit('one line\\nno such distribution')")

    run_it = workers._quietly
    monkeypatch.setattr(workers, "_quietly", quietly)
    with pytest.raises(workers.WorkerFailed, match=r"\Ano such distribution\Z"):
        workers.peer_command(workers.PEERS[0], tmp_path)
    assert not list(tmp_path.glob("*/complete"))
    with pytest.raises(workers.WorkerFailed, match="No such file"):
        run_it(str(tmp_path / "no-python"))


# --- the parts -------------------------------------------------------------------------------------------------------


def test_every_workload_of_every_group_is_ours_or_the_floors(module) -> None:
    measure, ours = module("measure"), module("ours")
    named = {job for jobs in (*measure.GROUPS.values(), *measure.HEAVY.values()) for job in jobs}
    assert named == set(ours.WORKLOADS) | {"box_and_hash_1048576"}
    assert {name.removeprefix("bare:") for name in ours.BARE} <= named


def test_every_target_names_what_is_measured(module) -> None:
    measure, ours, targets = module("measure"), module("ours"), module("targets")
    for target in (*targets.TARGETS, *targets.COMPILED, *targets.STORES):
        assert target.says
        for quantity in (target.ours, target.versus):
            if isinstance(quantity, str):
                party, name = quantity.split(":")
                figure = name.partition(".")[0]
                assert party in {"ours", "compiled", "bare", "agt", "vodozemac"}
                assert party != "compiled" or name in measure.COMPILED_JOBS
                known = {*ours.WORKLOADS, *ours.FIGURES, "audit_hashes", "attach_threads"}
                assert name in known or figure in known or f"bare:{name}" in ours.BARE, quantity
    assert measure.FULL.growth[-1] == 1_000_000


def test_instructions_of_each_build_stand_beside_the_floors(module, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = module("measure")
    run_of_none = measure.Run({}, lambda _: None)
    run_of_none.commands = {"ours": (), "agt": ()}
    asked = []

    def count(batches, *, prefix=()):
        asked.append(tuple(prefix))
        return {name: len(asked) for batch in batches for name in batch}

    monkeypatch.setattr(measure.instructions, "count", count)
    run_of_none.take_instructions()
    assert asked == [()]
    run_of_none.commands["compiled"] = ()
    run_of_none.take_instructions()
    found = run_of_none.instructions
    assert (found["ours:frame_256"], found["bare:frame_256"], found["compiled:frame_256"]) == (2, 2, 3)
    assert "agt:frame_256" not in found
    assert not any(name.startswith("compiled:bare") for name in found)
    assert asked[1:] == [(), measure.MAYBE_COMPILED]

    def refuse(batches, *, prefix=()):
        raise measure.NotCounted("there is no valgrind")

    monkeypatch.setattr(measure.instructions, "count", refuse)
    run_of_none.take_instructions()
    assert run_of_none.failed["instructions"] == "there is no valgrind"


def test_a_curve_is_kept_by_its_sessions(module, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = module("measure")
    run_of_none = measure.Run({}, lambda _: None)
    curve = {"1": {"message_us": 40.0}, "2": {"message_us": 50.0, "gc_ms": 3}}
    found = {"hub_curve": curve, "two_processes": 1.9}
    monkeypatch.setattr(run_of_none, "_take", lambda party, name, _: run_of_none._keep(f"{party}:{name}", found[name]))
    run_of_none.take_hubs(measure.TINY)
    assert run_of_none.measured["ours:hub_curve.2.gc_ms"] == [3.0]
    assert run_of_none.measured["ours:hub_curve.of_one"] == [1.25]


def test_a_ratio_is_that_of_the_medians(module) -> None:
    targets = module("targets")
    target = targets.Target("ours:a", "agt:a", 0.5, "a")
    found = targets.outcome(target, {"ours:a": [1.0, 2.0, 9.0], "agt:a": [4.0, 4.0, 3.0]}, {})
    assert (found.ratio, found.met) == (0.5, True)
    assert targets.outcome(target, {"ours:a": [2.1], "agt:a": [4.0]}, {}).met is False
    failed = targets.outcome(target, {"ours:a": [2.1]}, {"agt:a": "it broke"})
    assert (failed.met, failed.missing) == (None, "it broke")
    gone = targets.outcome(target, {"ours:a": [2.1]}, {"agt": "no network"})
    assert (gone.ratio, gone.met, gone.missing) == (None, None, "no network")


@pytest.mark.parametrize(("direction", "kept"), [("_send", "outbox"), ("_receive", "inbox")])
def test_bare_writes_as_many_rows_as_a_store(module, tmp_path: Path, direction: str, kept: str) -> None:
    storing = module("storing")
    rows = storing._rows(getattr(storing, direction), 3)
    assert sorted(kind for kind, _, _ in rows) == sorted(["generation", "session", kept, kept, kept])
    with contextlib.closing(storing.BareFile(tmp_path / "bare", rows)) as file:
        file.write()
        file.write()
        with contextlib.closing(sqlite3.connect(tmp_path / "bare")) as connection:
            sealed = connection.execute("SELECT length(sealed) FROM rows ORDER BY id").fetchall()
        assert sealed == [(len(data) + 40,) for _, _, data in rows]  # nonce and tag
        file.let_go()
        with contextlib.closing(sqlite3.connect(tmp_path / "bare")) as connection:
            assert connection.execute("SELECT kind FROM rows ORDER BY kind").fetchall() == [
                ("generation",),
                ("session",),
            ]


def test_agents_that_share_a_database_are_measured_where_there_is_one(module, monkeypatch: pytest.MonkeyPatch) -> None:
    sharing = module("sharing")
    monkeypatch.delenv(sharing.SERVER, raising=False)
    assert sharing.store_shared(2, 0.1) == {}


def test_hashes_are_counted() -> None:
    found = json.loads(run("-m", "benchmarks.hashing", "64").stdout)
    assert found["size"] == 64
    assert found["most"] >= 7  # the 64th leaf closes six subtrees
    assert 0 < found["of_allowed"] <= 1


def test_a_worker_answers_an_error_and_goes_on(module) -> None:
    workers = module("workers")
    with workers.Worker(workers.OURS) as worker:
        with pytest.raises(workers.WorkerFailed, match="KeyError"):
            worker.run("no such workload", 1)
        assert len(worker.run("serialise", 3)) == 3


# --- the guard -------------------------------------------------------------------------------------------------------


def test_the_guard_fails_for_a_slowed_library(module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guard = module("guard")
    slowed = tmp_path / "slow.py"
    slowed.write_text(SLOW.format(root=str(ROOT)), "utf-8")
    limits = [limit for limit in guard.CLOCK if limit.ours == "frame_256"]
    scale = guard.SCALE._replace(rounds=2, block_ms=1)
    assert guard.main(["--clock"], command=[sys.executable, str(slowed)], clock=limits, scale=scale) == 1
    said = capsys.readouterr()
    assert "measured once more" in said.out
    assert "too slow: 256 bytes to the wire and back" in said.err


def test_the_guard_passes_what_is_within_its_limits(module) -> None:
    guard = module("guard")
    limits = [guard.ClockLimit("frame_256", "bare:frame_256", 1000.0, "anything")]
    assert guard.main(["--clock"], clock=limits, scale=guard.SCALE._replace(rounds=1, block_ms=0.1)) == 0


@pytest.fixture
def counting(module, tmp_path: Path):
    """Return a command that serves a floor and a workload of 1.5 times its work, slowed by so many hundredths."""
    if module("instructions").why_not():
        pytest.skip("counting needs valgrind")

    def command(slowed: int) -> list[str]:
        script = tmp_path / f"counted{slowed}.py"
        script.write_text(COUNTED.format(root=str(ROOT), turns=1500 + 15 * slowed), "utf-8")
        return [sys.executable, str(script)]

    return command


def test_the_guard_sees_a_library_that_is_five_in_a_hundred_slower(
    module, counting, capsys: pytest.CaptureFixture[str]
) -> None:
    guard = module("guard")
    wide = [guard.Limit("work", "bare:work", 9.0, None, "some work")]
    assert guard.main(["--measure"], counted=counting(0), limits=wide) == 0
    printed = capsys.readouterr().out
    table: dict[str, object] = {"Final": object, "Limit": guard.Limit}
    exec(printed.replace(": Final", ""), table)  # it is to be put into the module as it is
    limits = table["LIMITS"]
    assert table["LIMITS_ARE_OF"] == guard.interpreter()
    assert limits[0].pure == pytest.approx(1.5 * guard.MARGIN, rel=0.01)
    assert guard.over(limits, guard.count(limits, counting(0)), "pure", 1.0) == []
    assert guard.over(limits, guard.count(limits, counting(5)), "pure", 1.0) != []
    # Another interpreter than the table's: wider, and it says so; and a slow-down beyond that is still seen.
    capsys.readouterr()
    assert guard.main([], counted=counting(20), limits=limits, large=[]) == 1
    said = capsys.readouterr()
    assert ("times as wide" in said.out) is (guard.interpreter() != guard.LIMITS_ARE_OF)
    assert "too slow: some work, pure" in said.err


def test_the_guard_judges_the_compiled_build_by_its_own_limits(module) -> None:
    guard = module("guard")
    limits = [guard.Limit("work", "bare:work", 2.0, 1.0, "some work"), guard.Limit("work", "bare:work", 9.0, None, "b")]
    counts = {"work": 1.5, "bare:work": 1.0}
    assert guard.over(limits, counts, "pure", 1.0) == []
    assert guard.over(limits, counts, "compiled", 1.0) == ["some work, compiled: 1.500 times, at most 1.000"]
    assert guard.over(limits, counts, "compiled", 1.6) == []


def test_without_valgrind_the_guard_goes_by_the_clock_and_says_so(
    module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guard = module("guard")
    monkeypatch.setenv("PATH", "")
    limits = [guard.ClockLimit("frame_256", "bare:frame_256", 1000.0, "anything")]
    assert guard.main([], clock=limits, scale=guard.SCALE._replace(rounds=1, block_ms=0.1)) == 0
    assert "valgrind is not installed: by the clock" in capsys.readouterr().out
    assert guard.main(["--measure"]) == 1


def test_a_counted_process_that_fails_is_no_count(module, counting) -> None:
    instructions = module("instructions")
    with pytest.raises(instructions.NotCounted, match="KeyError: 'nothing'"):
        instructions.count([["nothing"]], command=counting(0))


def test_the_guards_limits_are_of_workloads_that_there_are(module) -> None:
    guard, ours = module("guard"), module("ours")
    for limit in (*guard.LIMITS, *guard.CLOCK):
        assert {limit.ours, limit.versus} <= {*ours.WORKLOADS, *ours.BARE}
    assert [limit.ours for limit in guard.LARGE] == ["frameaudit_1048576"]


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_holds_the_targets_of_the_table(module) -> None:
    targets = module("targets")
    text = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    for target in (*targets.TARGETS, *targets.COMPILED, *targets.STORES):
        assert target.says in text
    for name in re.findall(r"\]\((benchmarks/\w+\.svg)\)", text):
        assert (ROOT / "docs" / name).read_text("utf-8").startswith("<?xml")
    assert not re.search(r"/(work|tmp|home|root)/", text)


def test_the_page_is_written_between_its_markers(module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = module("page")
    plots = ModuleType("benchmarks.plots")
    plots.draw = lambda _result, _folder: ["targets.svg"]  # because matplotlib is not among the tests' needs
    monkeypatch.setitem(sys.modules, "benchmarks.plots", plots)
    out = tmp_path / "page.md"
    out.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n", "utf-8")
    result = {
        "machine": {"processor": "p", "cores": "2", "load before": "0.1"},
        "facts": {"ours": {"machine": "m", "Python": "CPython 3"}},
        "control": {}, "rounds": 1, "quick": True, "failed": {}, "stores": [], "merged": True,
        "missing": {"agt": "no network", "compiled": "it is not installed"},
        "compiled": [{"says": "that", "ratio": None, "at_most": 1, "met": None, "missing": "it is not installed"}],
        "instructions": {"ours:pingpong": 1_200_000, "bare:pingpong": 1_000_000, "ours:restore": 300_000},
        "targets": [{"says": "this", "ratio": None, "at_most": 1, "met": None, "missing": "no network"}],
        "medians": {
            "ours:pingpong": 12.345, "ours:audit_growth.1000.append": 3.0, "ours:restore": 26.0,
            "ours:hub_curve.10.message_us": 40.0, "ours:hub_curve.10.gc_ms": 3.0,
        },
    }  # fmt: skip
    page.write_page(result, out)
    text = out.read_text("utf-8")
    assert text.startswith(f"before\n{page.BEGIN}\n")
    assert text.endswith(f"{page.END}\nafter\n")
    assert "old" not in text
    assert "Missing: AGT Python: no network" in text
    assert "| `pingpong` | 12.3 |" in text
    assert "## Compiled build" in text
    assert "Missing: AgentMesh, compiled: it is not installed" in text
    assert "| `pingpong` | 1,200 | 1,000 | 1.20 | 12.3 |  |  |" in text
    assert "| `restore` | 300 |  |  | 26 |  |  |" in text
    assert "| 10 | 40 |  | 3 |  |" in text
    assert "in more than one run" in text
    page.write_page(result, out)
    assert out.read_text("utf-8") == text


def test_a_run_of_stores_writes_its_own_part_alone(module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = module("page")
    plots = ModuleType("benchmarks.plots")
    plots.stores = lambda _medians, _folder: "stores.svg"
    monkeypatch.setitem(sys.modules, "benchmarks.plots", plots)
    monkeypatch.setattr(sys.modules["benchmarks"], "plots", plots, raising=False)
    out = tmp_path / "page.md"
    whole = f"before\n{page.BEGIN}\nold\n{page.END}\nbetween\n{page.BEGIN_STORES}\nold\n{page.END_STORES}\nafter\n"
    out.write_text(whole, "utf-8")
    row = {"says": "this", "ratio": 1.2, "low": 1.1, "high": 1.3, "at_most": 1, "met": False, "note": "why"}
    result = {
        "machine": {"processor": "p", "cores": "2", "load before": "0.1"}, "rounds": 1, "quick": False,
        "targets": [], "stores": [row], "medians": {"ours:store_out_1": 12.345, "bare:store_out_1": 3.0},
    }  # fmt: skip
    page.write_page(result, out)
    text = out.read_text("utf-8")
    assert text.startswith(f"before\n{page.BEGIN}\nold\n{page.END}\nbetween\n{page.BEGIN_STORES}\n")
    assert text.endswith(f"{page.END_STORES}\nafter\n")
    assert "| 1 | this | 1.20 | 1.10 to 1.30 | 1 | **not met**: why |" in text
    assert "| 12.3 | 3 |" in text
    assert "PostgreSQL was not measured" in text


def test_plots_are_the_same_bytes_for_the_same_numbers(module, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib: pip install '.[bench]'")
    plots = module("plots")
    result = {
        "targets": [{"ratio": 0.5, "at_most": 1, "low": 0.4, "high": 0.6, "met": True}],
        "medians": {
            "ours:handshake_pair": 1.0, "ours:pingpong": 2.0, "ours:frame_64": 3.0, "ours:frame_256": 4.0,
            "ours:audit_growth.1000.append": 3.0, "ours:audit_growth.1000.longest": 3.0,
            "ours:store_batches.alone": 1.0, "ours:hub_curve.1.message_us": 1.0, "ours:hub_curve.1.gc_ms": 1.0,
            **{f"ours:store_batches.{count}.{mode}": 9.0 / count for count in (1, 10) for mode in ("full", "normal")},
        },
    }  # fmt: skip
    first, second = (
        [
            (tmp_path / folder / name).read_bytes()
            for name in (*plots.draw(result, tmp_path / folder), plots.stores(result["medians"], tmp_path / folder))
        ]
        for folder in "ab"
    )
    assert first == second
    assert len(first) == 6

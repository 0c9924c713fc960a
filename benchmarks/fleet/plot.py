"""What a run of a fleet shows, as a picture. Needs matplotlib, from the extra `bench`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

# The same report gives the same bytes, and text stays text.
pyplot.rcParams.update({"svg.hashsalt": "agentmesh", "svg.fonttype": "none"})

_MIB = 1 << 20


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw a report."""
    samples = report["samples"]
    days = [sample["day"] for sample in samples]
    figure, axes = pyplot.subplots(2, 3, figsize=(15, 8), layout="constrained")
    figure.suptitle(
        f"{report['settings']['agents']:,} agents: {report['check']['payloads handed over']:,} payloads, "
        f"{report['check']['payloads delivered exactly once']:,} delivered exactly once"
    )
    first, second, third = axes[0]
    first.plot([sample["seconds"] for sample in samples], [sample["payloads"] for sample in samples], label="payloads")
    first.plot([sample["seconds"] for sample in samples], [sample["sessions"] for sample in samples], label="sessions")
    first.set(title="delivered, established", xlabel="seconds of the run")
    first.legend()
    second.plot(days, [sample["resident_bytes"] / _MIB for sample in samples])
    second.set(title="resident memory", xlabel="days of the manual clock", ylabel="MiB", ylim=(0, None))
    third.plot([sample["payloads"] for sample in samples], [sample["log_bytes"] / _MIB for sample in samples])
    third.set(title="audit logs", xlabel="payloads delivered", ylabel="MiB", ylim=(0, None))
    fourth, fifth, sixth = axes[1]
    state = {name: size for name, size in report["state"].items() if name not in ("total", "mean")}
    fourth.bar(list(state), list(state.values()))
    fourth.set(title="exported state of an agent", ylabel="bytes", yscale="log")
    fourth.tick_params(axis="x", rotation=30)
    codes: Counter[str] = Counter()
    for one in report["refusals"]:
        codes[one["code"]] += one["count"]
    fifth.barh(
        [code for code, _ in reversed(codes.most_common())], [count for _, count in reversed(codes.most_common())]
    )
    fifth.set(title="refusals", xscale="log")
    calls = sorted(report["calls"].items(), key=lambda call: call[1]["mean_us"])
    sixth.barh([name for name, _ in calls], [call["mean_us"] for _, call in calls])
    sixth.set(title="mean time of a call", xlabel="microseconds", xscale="log")
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)

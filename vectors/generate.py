"""Write the vectors anew, or check that they are what this library would write.

python vectors/generate.py                          write every file
python vectors/generate.py --check                  write nothing; exit 1 and say which files differ
python vectors/generate.py --record-encapsulations  draw ML-KEM encapsulations that are missing, then write all
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
OUTPUT = FOLDER / "v1"
README = FOLDER / "README.md"
TABLE_BEGIN, TABLE_END = "<!-- counts: begin -->\n", "<!-- counts: end -->\n"


def families() -> dict[str, dict[str, dict[str, Any]]]:
    """Return every vector, by family and name."""
    from generator import (
        accepts,
        attachments,
        bundles,
        envelopes,
        epochs,
        handshakes,
        identities,
        knocks,
        messages,
        pairs,
        rejects,
        sealing,
        trace,
    )
    from generator.audit import checkpoints, disclosures, logs, records, trees
    from generator.trust.families import families as trust_families

    trace.install()
    made = [
        identities.did(),
        identities.keys(),
        sealing.kdf(),
        sealing.aead(),
        sealing.padding(),
        bundles.bundle(),
        handshakes.handshake(),
        envelopes.envelope(),
        envelopes.receipt(),
        knocks.knock_family(),
        accepts.accept_family(),
        rejects.reject_family(),
        epochs.ratchet(),
        messages.message(),
        pairs.pair(),
        attachments.attachment(),
        records.record_family(),
        trees.merkle(),
        checkpoints.checkpoint(),
        logs.log(),
        disclosures.disclosure(),
        *trust_families(),
    ]
    return {files.family: files.by_name for files in made}


def files_of(vectors: dict[str, dict[str, dict[str, Any]]]) -> dict[Path, str]:
    """Return the text of each file, by its path."""
    return {
        OUTPUT / family / f"{name}.json": json.dumps(vector, indent=1) + "\n"
        for family, by_name in vectors.items()
        for name, vector in by_name.items()
    }


def table(vectors: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the README's table of counts."""
    lines = ["| family | valid | invalid | files |", "|---|---:|---:|---:|"]
    rows = {
        family: (sum(vector["expect"] == "ok" for vector in by_name.values()), len(by_name))
        for family, by_name in vectors.items()
    }
    lines += [
        f"| [{family}](v1/{family}) | {valid} | {total - valid} | {total} |" for family, (valid, total) in rows.items()
    ]
    valid, total = (sum(row[index] for row in rows.values()) for index in (0, 1))
    lines.append(f"| all | {valid} | {total - valid} | {total} |")
    return "\n".join(lines) + "\n"


def with_table(readme: str, counts: str) -> str:
    """Return the README with this table of counts."""
    before, rest = readme.split(TABLE_BEGIN)
    _, after = rest.split(TABLE_END)
    return before + TABLE_BEGIN + counts + TABLE_END + after


def main() -> int:
    """Generate, and write or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    parser.add_argument("--record-encapsulations", action="store_true", help="draw missing ML-KEM encapsulations first")
    arguments = parser.parse_args()
    if arguments.record_encapsulations:
        from generator import world

        world.record_encapsulations()
    vectors = families()
    wanted = files_of(vectors)
    wanted[README] = with_table(README.read_text(encoding="utf-8"), table(vectors))
    found = {path: path.read_text(encoding="utf-8") for path in (*OUTPUT.glob("*/*"), README)}
    differing = sorted(path for path in {*wanted, *found} if wanted.get(path) != found.get(path))
    for path in differing:
        print(("missing" if path not in found else "surplus" if path not in wanted else "other"), path)
        if not arguments.check:
            if path in wanted:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(wanted[path], encoding="utf-8")
            else:
                path.unlink()
    print(f"{len(wanted) - 1} vectors, {len(differing)} {'differ' if arguments.check else 'written'}")
    return 1 if arguments.check and differing else 0


if __name__ == "__main__":
    sys.exit(main())

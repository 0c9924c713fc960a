"""How many hashes one append to an audit log makes, counted: `python -m benchmarks.hashing 100000`.

SHA-256 is replaced before the library is loaded, so the count is what is really called, not what the code says.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any, Self

_real = hashlib.sha256
digests = 0


class Counted:
    """SHA-256 that counts how often a digest is taken."""

    def __init__(self, data: bytes = b"", **options: Any) -> None:
        self._state = _real(data, **options)

    def update(self, data: bytes) -> None:
        """Take more data."""
        self._state.update(data)

    def copy(self) -> Self:
        """Return a copy of the state."""
        other = type(self)()
        other._state = self._state.copy()
        return other

    def digest(self) -> bytes:
        """Return the digest, and count it."""
        global digests
        digests += 1
        return self._state.digest()


def count(size: int) -> dict[str, Any]:
    """Grow a log to `size`; return the most hashes of one append over log2(n) + 3, and the mean."""
    if "agentmesh" in sys.modules:
        raise RuntimeError("the library was loaded before SHA-256 was replaced")
    hashlib.sha256 = Counted  # type: ignore[assignment]
    from agentmesh.audit import AuditLog, MemorySink
    from benchmarks.auditing import RECORD

    log, most, worst, begun = AuditLog(MemorySink()), 0, 0.0, digests
    for n in range(1, size + 1):
        before = digests
        log.append((RECORD,))
        made = digests - before
        most, worst = max(most, made), max(worst, made / (n.bit_length() - 1 + 3))
    return {"size": size, "most": most, "of_allowed": worst, "mean": (digests - begun) / size}


if __name__ == "__main__":
    print(json.dumps(count(int(sys.argv[1]))))

"""`python -m agentmesh`, and the script `agentmesh`: see `agentmesh.cli.main`."""

from __future__ import annotations

import sys


def run() -> int:
    """Run the command line and return its exit status, also where it is interrupted while its modules are read.

    Raises:
        SystemExit: see `agentmesh.cli.main.main`.
    """
    try:
        from agentmesh.cli.main import main

        return main()
    except KeyboardInterrupt:
        return 130  # as `main` ends where it is interrupted


if __name__ == "__main__":
    sys.exit(run())

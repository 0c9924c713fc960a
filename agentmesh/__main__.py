"""`python -m agentmesh`: see `agentmesh.cli.main`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    try:
        from agentmesh.cli.main import main

        status: int = main()
    except KeyboardInterrupt:
        status = 130  # as `main` ends where it is interrupted
    sys.exit(status)

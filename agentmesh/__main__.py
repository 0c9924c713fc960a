"""`python -m agentmesh`: see `agentmesh.cli.main`."""

from __future__ import annotations

import sys

from agentmesh.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

"""The families of signed statements: trust, ledger, edge, graph, revocation and continuity."""

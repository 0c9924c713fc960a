"""How a session begins: bundles, key agreement, the KNOCK and its verdict (docs/protocol.md, sections 3 and 5)."""

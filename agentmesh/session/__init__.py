"""One conversation, in each of its phases (docs/protocol.md, sections 6 and 7)."""

"""The audit trail's values (docs/protocol.md, section 8)."""

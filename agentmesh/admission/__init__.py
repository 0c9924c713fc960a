"""Who gets in: policy on KNOCKs and rate limits (docs/protocol.md, sections 5.1 and 9)."""

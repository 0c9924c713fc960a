"""The families of the audit trail: record, merkle, checkpoint, log and disclosure."""

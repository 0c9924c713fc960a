"""Pictures of audit logs: who talked to whom, and when. No content is in a log, so none is in them."""

"""The audit log in a store: entries as rows that are written with the step which they record (section 8.3)."""

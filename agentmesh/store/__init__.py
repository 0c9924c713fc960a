"""All that touches a file: the audit log's file sink."""

from agentmesh.store.log_file import LogFile, read_log_file

__all__ = ["LogFile", "read_log_file"]

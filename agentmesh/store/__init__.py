"""All that touches a file: the audit log's file sink."""

from agentmesh.store.frames import read_log_file, read_log_parts
from agentmesh.store.log_file import LogFile

__all__ = ["LogFile", "read_log_file", "read_log_parts"]

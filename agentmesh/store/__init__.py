"""All that touches a file: the audit log's file sink."""

from agentmesh.store.frames import read_log_file, read_log_parts
from agentmesh.store.log_export import export_log
from agentmesh.store.log_file import LogFile

__all__ = ["LogFile", "export_log", "read_log_file", "read_log_parts"]

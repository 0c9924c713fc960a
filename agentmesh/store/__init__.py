"""All that touches a file: the audit log's file sink, and the stores that keep agents."""

from agentmesh.store.data_key import StoreKey
from agentmesh.store.frames import read_log_file, read_log_parts
from agentmesh.store.log_file import LogFile
from agentmesh.store.memory import MemoryBackend
from agentmesh.store.postgres import PostgresBackend
from agentmesh.store.rows import Backend, Rows
from agentmesh.store.sqlite import SQLiteBackend

__all__ = [
    "Backend",
    "LogFile",
    "MemoryBackend",
    "PostgresBackend",
    "Rows",
    "SQLiteBackend",
    "StoreKey",
    "read_log_file",
    "read_log_parts",
]

"""All that touches a file or a database: the stores that keep agents, the audit log's file, files of attachments."""

from agentmesh.store.attachment_file import AttachmentFile, open_file
from agentmesh.store.attachment_saving import save_file
from agentmesh.store.attachment_sealing import seal_file
from agentmesh.store.care import AgentInfo
from agentmesh.store.counter import Counter, FileCounter
from agentmesh.store.data_key import StoreKey
from agentmesh.store.frames import read_log_file, read_log_parts
from agentmesh.store.log_export import export_log
from agentmesh.store.log_file import LogFile
from agentmesh.store.memory import MemoryBackend
from agentmesh.store.postgres import PostgresBackend
from agentmesh.store.rows import Backend, Rows
from agentmesh.store.sqlite import SQLiteBackend
from agentmesh.store.states import States
from agentmesh.store.store import Store
from agentmesh.store.stores import MemoryStore, PostgresStore, SQLiteStore

__all__ = [
    "AgentInfo",
    "AttachmentFile",
    "Backend",
    "Counter",
    "FileCounter",
    "LogFile",
    "MemoryBackend",
    "MemoryStore",
    "PostgresBackend",
    "PostgresStore",
    "Rows",
    "SQLiteBackend",
    "SQLiteStore",
    "States",
    "Store",
    "StoreKey",
    "export_log",
    "open_file",
    "read_log_file",
    "read_log_parts",
    "save_file",
    "seal_file",
]

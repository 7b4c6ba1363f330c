"""Files and directories that are either the old ones or the new ones, whole, after any crash.

Everything is written beside its place, fsynced, renamed into place, and the directory fsynced. A
directory carries `manifest.json` with size and SHA-256 of every member and a seal over itself, so a
reader gets bytes only after every digest agrees. Standard library only; POSIX only.
"""

from bb_wm.durable.directories import (
    MANIFEST,
    Manifest,
    Member,
    read_files,
    read_manifest,
    write_files,
)
from bb_wm.durable.files import (
    MAX_BYTES,
    clean_temporaries,
    make_directory,
    read_file,
    save_error,
    sync_directory,
    write_file,
)
from bb_wm.durable.lock import RunLock
from bb_wm.durable.plain import (
    MAX_JSON_BYTES,
    check_name,
    dump_json,
    load_json,
    seal_json,
    unseal_json,
)

__all__ = [
    "MANIFEST",
    "MAX_BYTES",
    "MAX_JSON_BYTES",
    "Manifest",
    "Member",
    "RunLock",
    "check_name",
    "clean_temporaries",
    "dump_json",
    "load_json",
    "make_directory",
    "read_file",
    "read_files",
    "read_manifest",
    "save_error",
    "seal_json",
    "sync_directory",
    "unseal_json",
    "write_file",
    "write_files",
]

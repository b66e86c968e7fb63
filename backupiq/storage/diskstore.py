"""The blocking half of the local provider: a folder as a store of objects, for use from worker threads.

Layout and modes are those of restic's local backend: keys are paths below the root, folders 0700, files 0400, with the
group's bits added when the repository's ``config`` lets the group read (facts: repository format, section 1).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backupiq.errors import RestoreConflictError, StorageError, StorageNotFoundError, ValidationError
from backupiq.storage import disk
from backupiq.storage.oserrors import destination_errors, machine_errors
from backupiq.storage.provider import FileInfo, StorageInfo, check_key, is_temporary_key
from backupiq.telemetry.text import printable

MAX_UNSYNCED = 1024  # files written without sync that are remembered; the next one then pays for all
MAX_DEPTH = 32  # folders below each other in a listing


@dataclass(frozen=True, slots=True)
class Upload:
    """What is stored where, and how."""

    source: Path | bytes | memoryview
    key: str
    create_only: bool
    durable: bool
    move: bool


class DiskStore:
    """Objects below one folder. Thread-safe.

    The root itself is made by `create` only: when it is gone (an unplugged disk), uploads fail and make nothing, and
    listings fail instead of being empty.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.location = printable(root)
        self._unsynced_files: dict[str, None] = {}
        self._unsynced_folders: dict[str, None] = {}
        self._unsynced_lock = threading.Lock()

    # --- the destination itself ------------------------------------------------------------------------------------

    def authenticate(self) -> StorageInfo:
        """Prove that the root is a folder that may be read; its space."""
        self._check_root()
        with destination_errors(f"read the folder {self.root}"), os.scandir(self.root) as entries:
            next(entries, None)
        return self.space()

    def create(self) -> None:
        """Make the root, with the folders above it, when it is missing."""
        if os.path.lexists(self.root):
            self._check_root()
        with destination_errors(f"make the folder {self.root}"):
            os.makedirs(self.root, mode=0o700, exist_ok=True)

    def space(self) -> StorageInfo:
        """Total, used and free bytes of the file system, as far as this user may use them."""
        with destination_errors(f"ask for the space at {self.root}"):
            usage = shutil.disk_usage(self.root)
        return StorageInfo("local", self.location, usage.total, usage.used, usage.free)

    def _check_root(self) -> None:
        with destination_errors(f"use the folder {self.root}"):
            try:
                status = os.stat(self.root)
            except (FileNotFoundError, NotADirectoryError):
                raise StorageNotFoundError(
                    f"There is no folder {self.location}. Check the path and that its disk is mounted.",
                    location=self.location,
                ) from None
        if not stat.S_ISDIR(status.st_mode):
            raise StorageError(f"{self.location} is not a folder. Give a folder.", location=self.location)

    # --- objects ---------------------------------------------------------------------------------------------------

    def upload(self, task: Upload, transfer: disk.Transfer) -> None:
        """Store an object; see `StorageProvider.upload_file`."""
        final = self._path(task.key)
        folder = os.path.dirname(final)
        with destination_errors(f"write {self._at(task.key)}", key=task.key):
            if task.create_only and os.path.lexists(final):
                raise disk.conflict(final)
            mode, folder_mode = self._modes()
            changed = [folder, *self._make_folders(folder, folder_mode)]
            movable = task.source if task.move and isinstance(task.source, Path) else None
            if movable is None or not self._move(movable, task, final, transfer, mode):
                self._copy(task, final, transfer, mode)
            if task.durable:
                for path in changed:
                    disk.sync_folder(path)
            else:
                self._remember(final, changed)
        if movable is not None:
            with contextlib.suppress(OSError):  # it may go, it need not
                os.unlink(movable)

    def _copy(self, task: Upload, final: str, transfer: disk.Transfer, mode: int) -> None:
        with disk.temporary_file(final) as (file, path):
            if isinstance(task.source, Path):
                with machine_errors("open the file to upload"):
                    source = disk.open_for_reading(task.source)
                with source:
                    disk.copy_in(source, file, transfer)
            else:
                disk.write_bytes(file, task.source, transfer)
            disk.make_read_only(file, mode)
            if task.durable:
                disk.sync_file(file.fileno())
            file.close()
            transfer.check()
            disk.put_in_place(path, final, create_only=task.create_only)

    def _move(self, source: Path, task: Upload, final: str, transfer: disk.Transfer, mode: int) -> bool:
        """Put the source itself into place; ``False`` when it must be copied (another disk, not a plain file)."""
        with machine_errors("open the file to upload"):
            status = os.lstat(source)
            if not stat.S_ISREG(status.st_mode) or status.st_dev != os.stat(os.path.dirname(final)).st_dev:
                return False
            file = disk.open_for_reading(source, writable=os.name == "nt")  # which syncs no other files
        with file:
            if transfer.needs_hash:
                with machine_errors("read the file to upload"):
                    transfer.knows(hashlib.file_digest(file, "sha256").hexdigest())
            disk.make_read_only(file, mode)
            if task.durable:
                disk.sync_file(file.fileno())
        transfer.check()
        try:
            disk.put_in_place(os.fspath(source), final, create_only=task.create_only)
        except OSError as error:
            if error.errno != errno.EXDEV:  # one disk mounted twice
                raise
            return False
        transfer.renamed(status.st_size)
        return True

    def download(self, key: str, target: str, transfer: disk.Transfer) -> None:
        """Fetch an object into a file; see `StorageProvider.download_file`."""
        doing = f"read {self._at(key)}"
        with destination_errors(doing, key=key):
            self._check_object(os.stat(self._path(key)), key)
            source = disk.open_for_reading(self._path(key))
        with source:
            if os.path.isdir(target):
                raise RestoreConflictError("The file to download into is a folder. Give a file.")
            with machine_errors("write the downloaded file"), disk.temporary_file(target) as (file, path):
                disk.copy_out(source, file, transfer, doing)
                file.close()
                transfer.check()
                os.replace(path, target)

    def read(self, key: str, offset: int, length: int | None) -> bytes:
        """A range of an object; see `StorageProvider.read`."""
        with destination_errors(f"read {self._at(key)}", key=key):
            return disk.read_range(self._path(key), offset, length)

    def info(self, key: str) -> FileInfo:
        """Size and time of an object."""
        with destination_errors(f"look at {self._at(key)}", key=key):
            status = os.stat(self._path(key))
        self._check_object(status, key)
        return FileInfo(key, status.st_size, status.st_mtime_ns)

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        try:
            self.info(key)
        except StorageNotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        """Remove an object."""
        path = self._path(key)
        with destination_errors(f"delete {self._at(key)}", key=key):
            if stat.S_ISDIR(os.lstat(path).st_mode):
                self._check_object(os.lstat(path), key)
            try:
                os.unlink(path)
            except PermissionError:
                os.chmod(path, 0o600)  # Windows and SMB shares delete no read-only file
                os.unlink(path)

    def _check_object(self, status: os.stat_result, key: str) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise StorageNotFoundError(f"{printable(self._at(key))} is not a file.", key=key)

    # --- folders ---------------------------------------------------------------------------------------------------

    def make_folder(self, key: str) -> None:
        """Make a folder and those above it."""
        path = self._path(key)
        with destination_errors(f"make the folder {self._at(key)}", key=key):
            for folder in self._make_folders(path, self._modes()[1]):
                disk.sync_folder(folder)

    def remove_folder(self, key: str) -> None:
        """Remove an empty folder."""
        with destination_errors(f"remove the folder {self._at(key)}", key=key):
            os.rmdir(self._path(key))

    def _make_folders(self, folder: str, mode: int) -> list[str]:
        """Make what is missing from the root down to ``folder``; the folders that received a new name."""
        if os.path.isdir(folder):
            return []
        if folder == self.root:
            self._check_root()
        parent = os.path.dirname(folder)
        changed = self._make_folders(parent, mode)
        try:
            os.mkdir(folder, mode)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise
            # Another upload was faster; it may not have synced the parent yet.
            return [*changed, parent]
        if mode & stat.S_IRWXG and os.name != "nt":
            os.chmod(folder, mode)  # the umask has taken the group's bits
        return [*changed, parent]

    def _modes(self) -> tuple[int, int]:
        """Modes of new files and folders, derived from ``config`` as restic does."""
        try:
            shared = os.stat(os.path.join(self.root, "config")).st_mode & stat.S_IRGRP
        except OSError:
            shared = 0
        return (0o440, 0o770) if shared else (0o400, 0o700)

    # --- listing ---------------------------------------------------------------------------------------------------

    def walk(self, prefix: str) -> Iterator[FileInfo]:
        """Every object below a folder, folder by folder, sorted by name within each."""
        for folder, entry, status in self._entries(f"{prefix}/" if prefix else ""):
            if _is_key(entry.name):
                yield FileInfo(folder + entry.name, status.st_size, status.st_mtime_ns)

    def sweep(self, before: float) -> int:
        """Remove temporary files last changed before that time (seconds since 1970); their number."""
        removed = 0
        for _, entry, status in self._entries(""):
            if is_temporary_key(entry.name) and status.st_mtime < before:
                with contextlib.suppress(FileNotFoundError), destination_errors("remove a temporary file"):
                    os.unlink(entry.path)
                    removed += 1
        return removed

    def _entries(
        self, prefix: str, above: frozenset[tuple[int, int]] = frozenset()
    ) -> Iterator[tuple[str, os.DirEntry[str], os.stat_result]]:
        """Plain files below a folder, with its folder's prefix and its status; what vanishes meanwhile is left out.

        Folders may be links, as people spread a repository over disks; circles are noticed.
        """
        folder = os.path.join(self.root, prefix.replace("/", os.sep))
        folders: list[str] = []
        try:
            with destination_errors(f"list {folder}"), os.scandir(folder) as found:
                here = os.stat(folder)
                if (here.st_dev, here.st_ino) in above or len(above) > MAX_DEPTH:
                    return
                entries = sorted(found, key=lambda entry: entry.name)
        except StorageNotFoundError:
            self._check_root()
            return
        for entry in entries:
            try:
                status = entry.stat()
            except OSError:  # vanished, or a link to nowhere
                continue
            if stat.S_ISREG(status.st_mode):
                yield prefix, entry, status
            elif stat.S_ISDIR(status.st_mode) and _is_key(entry.name):
                folders.append(f"{prefix}{entry.name}/")
        for below in folders:
            yield from self._entries(below, above | {(here.st_dev, here.st_ino)})

    # --- durability of uploads that did not wait for it ------------------------------------------------------------

    def _remember(self, file: str, folders: list[str]) -> None:
        with self._unsynced_lock:
            self._unsynced_files[file] = None
            self._unsynced_folders.update(dict.fromkeys(folders))
            full = len(self._unsynced_files) >= MAX_UNSYNCED
        if full:
            self.flush()

    def flush(self) -> None:
        """Sync every file and folder written without it; what fails is remembered, so a later call tries again."""
        with self._unsynced_lock:
            files, self._unsynced_files = self._unsynced_files, {}
            folders, self._unsynced_folders = self._unsynced_folders, {}
        try:
            with destination_errors(f"flush what was written to {self.root}"):
                for path in files:
                    with contextlib.suppress(FileNotFoundError), disk.open_for_reading(path) as file:
                        disk.sync_file(file.fileno())
                for path in folders:
                    with contextlib.suppress(FileNotFoundError):
                        disk.sync_folder(path)
        except BaseException:
            with self._unsynced_lock:
                self._unsynced_files.update(files)
                self._unsynced_folders.update(folders)
            raise

    # --- names -----------------------------------------------------------------------------------------------------

    def _path(self, key: str) -> str:
        return os.path.join(self.root, key.replace("/", os.sep))

    def _at(self, key: str) -> str:
        return f"{key} at {self.root}"


def _is_key(name: str) -> bool:
    try:
        return bool(check_key(name))
    except ValidationError:
        return False

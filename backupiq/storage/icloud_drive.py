"""The blocking half of the iCloud Drive provider: a folder of iCloud Drive as a store of objects."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, TypeVar

from backupiq.errors import (
    BackupIQError,
    RestoreConflictError,
    StorageConflictError,
    StorageConnectionError,
    StorageCorruptError,
    StorageNotFoundError,
)
from backupiq.storage import disk
from backupiq.storage.icloud_config import ICloudConfig
from backupiq.storage.icloud_finder import Finder, found_in, insist, named, same, split_key
from backupiq.storage.icloud_folders import Listing, Path
from backupiq.storage.icloud_items import ROOT_ID, Children, Item, Sent, StaleItemError
from backupiq.storage.icloud_names import key_part, retired_name, retired_of
from backupiq.storage.icloud_sending import open_source
from backupiq.storage.names import expected_sha256
from backupiq.storage.oserrors import machine_errors
from backupiq.storage.provider import FileInfo, StorageInfo, is_temporary_key, temporary_name

if TYPE_CHECKING:
    from backupiq.storage.icloud_client import ICloudClient

T = TypeVar("T")

MAX_DEPTH = 32  # folders below each other in a listing


@dataclass(frozen=True, slots=True)
class Upload:
    """What is stored where, and how."""

    source: FilePath | bytes | memoryview
    key: str
    create_only: bool


class DriveStore:
    """Objects below one folder of iCloud Drive. Used by one thread, which holds the account's lock at every call.

    Invariants: content is sent first and given its name afterwards, in one step, so no key is ever half there. iCloud
    replaces nothing: a successor gets a temporary name, the old item steps aside under a name that tells whose it is,
    the successor takes its place, the old item is deleted. A reader that finds no item of a name takes the one that
    stepped aside, so no key is ever missing either, whenever a run is killed.
    """

    def __init__(self, config: ICloudConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._find = Finder(config, clock)

    # --- the destination itself ----------------------------------------------------------------------------------

    def authenticate(self, client: ICloudClient) -> StorageInfo:
        """Prove that the folder is there; the account's space."""
        self._find.begin()
        self._find.root(client, fresh=True)
        return self.space(client)

    def create(self, client: ICloudClient) -> None:
        """Make the folder, with those above it, when it is missing."""
        self._find.begin()

        def make() -> None:
            children = client.children(ROOT_ID)
            for name in self._config.folder.split("/"):
                found = named(children.items, name)
                if found is None:
                    children = Children(client.make_folder(children.folder, name), [])
                elif not found.folder:
                    raise StorageConflictError(f"{self._config.location} is a file. Give another folder.")
                else:
                    children = client.children(found.drivewsid)

        insist(make, self._find.forget_all)

    def space(self, client: ICloudClient) -> StorageInfo:
        """The account's space in bytes."""
        usage = client.usage()
        return StorageInfo("icloud", self._config.location, usage.total, usage.used, max(0, usage.total - usage.used))

    # --- storing -------------------------------------------------------------------------------------------------

    def upload(self, client: ICloudClient, task: Upload, transfer: disk.Transfer) -> None:
        """Store an object; see `StorageProvider.upload_file`."""
        self._find.begin()
        path, name = split_key(task.key)
        with open_source(task.source) as source:
            listing = self._find.make_folders(client, path)
            self._check_place(listing, name, task)
            sent = client.send(listing.item, temporary_name(name), source, transfer)
        transfer.check()
        self._find.cache.add(path, self._store(client, path, name, sent, task))

    def _store(self, client: ICloudClient, path: Path, name: str, sent: Sent, task: Upload) -> Item:
        """Give sent content its name in its folder."""
        try:
            item = insist(lambda: self._place(client, path, name, sent, task), lambda: self._find.cache.forget(path))
        except StorageConnectionError:
            arrived = self._arrived(client, path, sent)
            if arrived is None:
                raise
            item = arrived
        if item.name == name:
            return item
        try:
            return insist(lambda: self._swap(client, path, name, item, task), lambda: self._find.cache.forget(path))
        except BaseException as error:
            current = self._arrived(client, path, sent)
            if current is not None and current.name == name:
                if isinstance(error, StorageConnectionError):
                    return current
            elif current is not None:
                with contextlib.suppress(BackupIQError, StaleItemError):  # swept later; the first error is reported
                    client.delete(current)
            raise

    def _arrived(self, client: ICloudClient, path: Path, sent: Sent) -> Item | None:
        """The item that sent content has become, where iCloud's answer was lost; ``None`` when none is seen."""
        self._find.cache.forget(path)
        with contextlib.suppress(BackupIQError):
            listing = self._find.listing_or_none(client, path)
            items = listing.items.values() if listing else ()
            return next((item for item in items if item.docwsid == sent.document_id), None)
        return None

    def _place(self, client: ICloudClient, path: Path, name: str, sent: Sent, task: Upload) -> Item:
        # A key that must be new is looked for in the newest listing; for the others, the name that iCloud gives them
        # tells when the listing was too old.
        listing = self._find.make_folders(client, path, fresh=task.create_only)
        self._check_place(listing, name, task)
        wanted = temporary_name(name) if found_in(listing, name) else name
        item = client.place(listing.item, sent, wanted)
        if item.name != wanted:  # another machine was faster, and iCloud has put ours beside its item
            self._find.cache.forget(path)
        return item

    def _swap(self, client: ICloudClient, path: Path, name: str, new: Item, task: Upload) -> Item:
        """Put ``new``, which has another name in the same folder, in the place of what has the name."""
        listing = self._find.listing(client, path)
        self._check_place(listing, name, task)
        new = same(listing, new)
        old = listing.items.get(name)
        aside = client.rename(old, retired_name(name)) if old is not None else None
        try:
            stored = client.rename(new, name)
        except BaseException:
            if aside is not None:
                with contextlib.suppress(BackupIQError, StaleItemError):  # readers find it under its name aside, too
                    client.rename(aside, name)
            raise
        leftovers = [item for item in listing.items.values() if retired_of(item.name) == name]
        for item in [aside, *leftovers] if aside is not None else leftovers:
            with contextlib.suppress(BackupIQError, StaleItemError):  # the object is stored; this is swept later
                client.delete(item)
            self._find.cache.drop(path, item.name)
        return stored

    def _check_place(self, listing: Listing, name: str, task: Upload) -> None:
        found = found_in(listing, name)
        if found is not None and found.folder:
            raise StorageConflictError(f"{task.key} at {self._config.location} is a folder.", key=task.key)
        if found is not None and task.create_only:
            raise StorageConflictError(None, key=task.key)

    # --- fetching ------------------------------------------------------------------------------------------------

    def download(self, client: ICloudClient, key: str, target: str, transfer: disk.Transfer) -> None:
        """Fetch an object into a file and compare it with its name; see `StorageProvider.download_file`."""
        self._find.begin()
        if os.path.isdir(target):
            raise RestoreConflictError("The file to download into is a folder. Give a file.")

        def fetch() -> None:
            item = self._find.file(client, key)
            with (
                client.opened(item, 0, None, transfer.piece) as pieces,
                machine_errors("write the downloaded file"),
                disk.temporary_file(target) as (file, path),
            ):
                for piece in pieces:
                    disk.write_all(file, memoryview(piece))
                    transfer.saw(piece)
                self._check_content(key, item, transfer)
                file.close()
                transfer.check()
                os.replace(path, target)

        self._even_if_replaced(key, fetch)

    def _check_content(self, key: str, item: Item, transfer: disk.Transfer) -> None:
        expected = expected_sha256(key)
        if transfer.size != item.size or (expected is not None and transfer.sha256 != expected):
            raise StorageCorruptError(
                f"{key} at {self._config.location} is damaged. {StorageCorruptError.hint}",
                key=key,
                size=transfer.size,
                expected_size=item.size,
                sha256=transfer.sha256,
            )

    def read(self, client: ICloudClient, key: str, offset: int, length: int | None, transfer: disk.Transfer) -> bytes:
        """A range of an object; see `StorageProvider.read`."""
        self._find.begin()

        def fetch() -> bytes:
            wanted = self._range(key, self._find.file(client, key), offset, length)
            if not wanted:
                return b""
            data = bytearray()
            with client.opened(self._find.file(client, key), offset, wanted, transfer.piece) as pieces:
                for piece in pieces:
                    data += piece[: wanted - len(data)]
                    transfer.moved(len(piece))
                    if len(data) == wanted:
                        break
            if len(data) != wanted:
                raise StorageCorruptError(None, key=key, offset=offset, length=wanted, received=len(data))
            return bytes(data)

        return self._even_if_replaced(key, fetch)

    def _even_if_replaced(self, key: str, fetch: Callable[[], T]) -> T:
        """Fetch an item's content; when that is gone, that of the item which another machine has put into its place."""
        try:
            return fetch()
        except StorageNotFoundError:
            self._find.begin()
            self._find.cache.forget(split_key(key)[0])
            return fetch()

    def _range(self, key: str, item: Item, offset: int, length: int | None) -> int:
        wanted = item.size - offset if length is None else length
        if wanted < 0 or offset + wanted > item.size:
            raise StorageCorruptError(
                "An object at the destination is shorter than it should be. " + StorageCorruptError.hint,
                key=key,
                size=item.size,
                offset=offset,
                length=length,
            )
        return wanted

    # --- asking and deleting -------------------------------------------------------------------------------------

    def info(self, client: ICloudClient, key: str) -> FileInfo:
        """Size and time of an object."""
        self._find.begin()
        item = self._find.file(client, key)
        if item.modified_ns is None:  # stored by us a moment ago, and not listed since
            self._find.cache.forget(split_key(key)[0])
            item = self._find.file(client, key)
        return FileInfo(key, item.size, item.modified_ns)

    def delete(self, client: ICloudClient, key: str) -> None:
        """Remove an object."""
        self._find.begin()
        path, name = split_key(key)

        def remove() -> None:
            listing = self._find.listing_or_none(client, path)
            found = self._find.file(client, key)
            leftovers = [item for item in listing.items.values() if retired_of(item.name) == name] if listing else []
            for item in [*(item for item in leftovers if item is not found), found]:
                client.delete(item)
                self._find.cache.drop(path, item.name)

        insist(remove, lambda: self._find.cache.forget(path))

    def make_folder(self, client: ICloudClient, key: str) -> None:
        """Make a folder and those above it."""
        self._find.begin()
        path, name = split_key(key)
        self._find.make_folders(client, (*path, name))

    def remove_folder(self, client: ICloudClient, key: str) -> None:
        """Remove an empty folder."""
        self._find.begin()
        path, name = split_key(key)

        def remove() -> None:
            parent = self._find.listing_or_none(client, path, fresh=True)
            folder = parent.items.get(name) if parent else None
            if folder is None or not folder.folder:
                raise StorageNotFoundError(f"There is no folder {key} at {self._config.location}.", key=key)
            if client.children(folder.drivewsid).items:
                raise StorageConflictError(f"The folder {key} at {self._config.location} is not empty.", key=key)
            client.delete(folder)
            self._find.cache.drop(path, name)
            self._find.cache.forget_below((*path, name))

        insist(remove, lambda: self._find.cache.forget(path))

    # --- listing -------------------------------------------------------------------------------------------------

    def list_folder(self, client: ICloudClient, path: Path) -> tuple[list[FileInfo], list[Path]]:
        """The objects in one folder and the folders below it, as they are now; nothing when there is no such folder."""
        self._find.begin()
        listing = self._find.listing_or_none(client, path, fresh=True)
        files: list[FileInfo] = []
        folders: list[Path] = []
        if listing is not None:
            prefix = "".join(f"{key_part(name)}/" for name in path)
            names = dict.fromkeys(retired_of(name) or name for name in listing.items)
            for name in names:
                item, part = found_in(listing, name), key_part(name)
                if item is None or part is None:
                    continue
                if not item.folder:
                    files.append(FileInfo(prefix + part, item.size, item.modified_ns))
                elif len(path) < MAX_DEPTH:
                    folders.append((*path, name))
        return files, folders

    def sweep_folder(self, client: ICloudClient, path: Path, before_ns: int) -> tuple[int, list[Path]]:
        """Remove what killed uploads left in one folder before that time; their number, and the folders below it."""
        folders = self.list_folder(client, path)[1]
        listing = self._find.listing_or_none(client, path)
        removed = 0
        for item in list(listing.items.values()) if listing else []:
            if item.folder or not is_temporary_key(item.name) or (item.modified_ns or before_ns) >= before_ns:
                continue
            name = retired_of(item.name)
            with contextlib.suppress(StaleItemError, StorageNotFoundError):  # someone else was here
                if name is not None and listing is not None and name not in listing.items:
                    self._find.cache.add(path, client.rename(item, name))
                else:
                    client.delete(item)
                    removed += 1
                self._find.cache.drop(path, item.name)
        return removed, folders

"""Finding items of iCloud Drive by keys: with what is known of folders while that is young, by asking otherwise."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from backupiq.errors import StorageConflictError, StorageConnectionError, StorageNotFoundError
from backupiq.storage.icloud_config import ICloudConfig
from backupiq.storage.icloud_folders import MAX_AGE, FolderCache, Listing, Path
from backupiq.storage.icloud_items import ROOT_ID, Item, StaleItemError
from backupiq.storage.icloud_names import item_name, retired_of

if TYPE_CHECKING:
    from backupiq.storage.icloud_client import ICloudClient

T = TypeVar("T")

ATTEMPTS = 3  # at what another machine may be changing at the same moment


class Finder:
    """Listings and items below one destination. Used by one thread.

    Invariants: nothing is said to be absent but by a listing of the call under way, which `begin` starts; listings
    older than `MAX_AGE` are not used, and with the same age the destination is looked for from iCloud Drive's root.
    """

    def __init__(self, config: ICloudConfig, clock: Callable[[], float]) -> None:
        self.cache = FolderCache()
        self._config = config
        self._clock = clock
        self._call = 0

    def begin(self) -> None:
        """A call begins: what other machines did before it is to be seen."""
        self._call += 1

    def forget_all(self) -> None:
        """Know nothing of any folder any longer."""
        self.cache.forget_below(())

    def file(self, client: ICloudClient, key: str) -> Item:
        """The item of an object, looked for in a listing of this very call before it is said to be absent."""
        path, name = split_key(key)
        listing = self.listing_or_none(client, path)
        item = found_in(listing, name) if listing else None
        if item is None and listing is not None and listing.call != self._call:
            listing = self.listing_or_none(client, path, fresh=True)
            item = found_in(listing, name) if listing else None
        if item is None or item.folder:
            raise StorageNotFoundError(None, key=key)
        return item

    def listing(self, client: ICloudClient, path: Path, *, fresh: bool = False) -> Listing:
        """As `listing_or_none`; ``StaleItemError`` when there is no such folder any longer."""
        listing = self.listing_or_none(client, path, fresh=fresh)
        if listing is None:
            raise StaleItemError
        return listing

    def listing_or_none(self, client: ICloudClient, path: Path, *, fresh: bool = False) -> Listing | None:
        """A folder's listing: the known one while it is young, else asked for; ``None`` when there is no such folder.

        ``StorageNotFoundError`` when the destination itself is gone.
        """
        root = self.root(client, fresh=fresh and not path)
        if not path:
            return root
        known = self.cache.get(path)
        if known is not None and (known.call == self._call or not (fresh or self._is_old(known))):
            return known
        if known is not None:
            try:
                return self._list(client, path, known.item.drivewsid)
            except StorageNotFoundError:  # moved or deleted; what bears its name now is found from above
                self.forget_all()
        parent = self.listing_or_none(client, path[:-1])
        if parent is not None and path[-1] not in parent.items and parent.call != self._call:
            parent = self.listing_or_none(client, path[:-1], fresh=True)
        item = parent.items.get(path[-1]) if parent else None
        if item is None or not item.folder:
            return None
        try:
            return self._list(client, path, item.drivewsid)
        except StorageNotFoundError:
            self.forget_all()
            # What is asked for in this very call is not asked for again: then it has just gone.
            still = parent is not None and parent.call != self._call
            return self.listing_or_none(client, path) if still else None

    def _list(self, client: ICloudClient, path: Path, drivewsid: str) -> Listing:
        children = client.children(drivewsid)
        if not children.complete:
            # A listing that is short would make objects look lost, and their deletion safe.
            raise StorageConnectionError(
                f"iCloud listed a folder of {self._config.location} only in part. Run the command again.",
                listed=len(children.items),
            )
        listing = Listing(children.folder, children.items, self._clock(), self._call)
        self.cache.put(path, listing)
        return listing

    def root(self, client: ICloudClient, *, fresh: bool = False) -> Listing:
        """The destination's own folder, looked for from iCloud Drive's root: it may lie in the trash by now."""
        known = self.cache.get(())
        if known is not None and (known.call == self._call or not (fresh or self._is_old(known))):
            return known
        drivewsid = ROOT_ID
        try:
            for name in self._config.folder.split("/"):
                found = named(client.children(drivewsid).items, name)
                if found is None or not found.folder:
                    raise StorageNotFoundError(None)
                drivewsid = found.drivewsid
            if known is not None and known.item.drivewsid != drivewsid:
                self.forget_all()
            return self._list(client, (), drivewsid)
        except StorageNotFoundError:
            self.forget_all()
            raise StorageNotFoundError(
                f"There is no folder {self._config.location} in this iCloud Drive. Check its name, or make it with "
                f"`backupiq init --to {self._config.login}`.",
                location=self._config.location,
            ) from None

    def make_folders(self, client: ICloudClient, path: Path, *, fresh: bool = False) -> Listing:
        """The folder's listing; it and those above it are made when they are missing, the destination never."""
        listing = self.listing_or_none(client, path, fresh=fresh)
        if listing is not None:
            return listing
        parent_path, name = path[:-1], path[-1]

        def make() -> Listing:
            parent = self.make_folders(client, parent_path)
            found = found_in(parent, name)
            if found is not None and not found.folder:
                raise StorageConflictError(f"A file of {self._config.location} is in the way of a folder.")
            if found is not None:
                return self._list(client, path, found.drivewsid)
            made = client.make_folder(parent.item, name)
            self.cache.add(parent_path, made)
            listing = Listing(made, (), self._clock(), self._call)
            self.cache.put(path, listing)
            return listing

        return insist(make, lambda: self.cache.forget(parent_path))

    def _is_old(self, listing: Listing) -> bool:
        return self._clock() - listing.read_at > MAX_AGE


def split_key(key: str) -> tuple[Path, str]:
    """The folder and the name of the item of a key; ``ValidationError`` when iCloud Drive cannot store it."""
    *folders, name = map(item_name, key.split("/"))
    return tuple(folders), name


def path_of(prefix: str) -> Path:
    """The folder that a prefix names."""
    return tuple(map(item_name, prefix.split("/"))) if prefix else ()


def found_in(listing: Listing, name: str) -> Item | None:
    """The item of that name, or the one that stepped aside for a successor that never came."""
    item = listing.items.get(name)
    if item is not None:
        return item
    aside = [item for item in listing.items.values() if retired_of(item.name) == name]
    return max(aside, key=lambda item: item.modified_ns or 0, default=None)


def same(listing: Listing, item: Item) -> Item:
    """The item as the listing knows it, where it does."""
    return next((entry for entry in listing.items.values() if entry.docwsid == item.docwsid), item)


def named(items: list[Item], name: str) -> Item | None:
    """The item that a person calls ``name``, however its accents are written."""
    return next((item for item in items if unicodedata.normalize("NFC", item.name) == name), None)


def insist(work: Callable[[], T], look_again: Callable[[], None]) -> T:
    """Do something that may meet a change by another machine: look again and repeat, a few times."""
    for _ in range(ATTEMPTS):
        try:
            return work()
        except StaleItemError:
            look_again()
    raise StorageConnectionError(
        "iCloud did not do what was asked: another device may be changing the same items. Run the command again."
    )

"""What is known of the folders below a destination, so that not every call has to list them: bounded, and never old."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from backupiq.storage.icloud_items import Item

Path = tuple[str, ...]
"""A folder below the destination, as the names of its items; the destination itself is ()."""

MAX_FOLDERS = 2_000
MAX_ITEMS = 50_000  # about 35 MB
MAX_AGE = 60.0  # seconds; other machines may write, too


class Listing:
    """A folder and what is in it, as of the moment it was read. Items are known by their names."""

    def __init__(self, item: Item, items: Iterable[Item], read_at: float, call: int) -> None:
        self.item = item
        self.items = {entry.name: entry for entry in items}
        self.read_at = read_at
        self.call = call


class FolderCache:
    """Listings by path; the least recently used go first. Used by one thread at a time.

    Invariant: `weight` is the number of items in all listings, and neither it nor the number of listings exceeds its
    bound but for the one listing added last.
    """

    def __init__(self, max_folders: int = MAX_FOLDERS, max_items: int = MAX_ITEMS) -> None:
        self._max_folders = max_folders
        self._max_items = max_items
        self._listings: OrderedDict[Path, Listing] = OrderedDict()
        self.weight = 0

    def __len__(self) -> int:
        return len(self._listings)

    def get(self, path: Path) -> Listing | None:
        """The listing of a folder, if it is known."""
        listing = self._listings.get(path)
        if listing is not None:
            self._listings.move_to_end(path)
        return listing

    def put(self, path: Path, listing: Listing) -> None:
        """Know a listing from now on."""
        self.forget(path)
        self._listings[path] = listing
        self.weight += len(listing.items)
        self._shrink()

    def add(self, path: Path, item: Item) -> None:
        """Take an item that was stored into its folder's listing, if that is known."""
        listing = self._listings.get(path)
        if listing is not None:
            self.weight += item.name not in listing.items
            listing.items[item.name] = item
            self._shrink()

    def drop(self, path: Path, name: str) -> None:
        """Take an item that was deleted or renamed out of its folder's listing."""
        listing = self._listings.get(path)
        if listing is not None and listing.items.pop(name, None) is not None:
            self.weight -= 1

    def forget(self, path: Path) -> None:
        """Know a folder's listing no longer."""
        listing = self._listings.pop(path, None)
        if listing is not None:
            self.weight -= len(listing.items)

    def forget_below(self, path: Path) -> None:
        """Know nothing any longer of a folder and all below it."""
        for known in [known for known in self._listings if known[: len(path)] == path]:
            self.forget(known)

    def _shrink(self) -> None:
        while len(self._listings) > 1 and (len(self._listings) > self._max_folders or self.weight > self._max_items):
            self.forget(next(iter(self._listings)))

"""Which blobs to fetch from which pack, so that each pack is read once and each blob opened once."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from backupiq.archive.restore_run import ItemState, RestoreRun
from backupiq.archive.restore_table import ID_SIZE
from backupiq.errors import BlobMissingError
from backupiq.repository.index import BlobLocation, MasterIndex
from backupiq.repository.pack import BlobType

Wanted = list[tuple[bytes, BlobLocation]]
Ordinals = dict[bytes, int | list[int]]


class Schedule:
    """Packs in the order in which the plan first needs them, each with the ordinals it serves: 8 bytes a blob."""

    def __init__(self, run: RestoreRun, index: MasterIndex) -> None:
        self._files = run.plan.files
        self._index = index
        self._packs: dict[bytes, array[int]] = {}
        self.empty = array("I")
        """Rows of files without content."""
        for row in range(len(self._files)):
            if run.rows[row] <= ItemState.REPLACE:
                self._add(run, row)

    def _add(self, run: RestoreRun, row: int) -> None:
        ids = self._files.ids(row)
        if not ids:
            self.empty.append(row)
            return
        packs: list[bytes] = []
        for position in range(0, len(ids), ID_SIZE):
            blob_id = ids if len(ids) == ID_SIZE else ids[position : position + ID_SIZE]
            location = self._index.find(blob_id, BlobType.DATA)
            if location is None:
                error = BlobMissingError(
                    f"No index of the repository names the piece of data {blob_id.hex()}. {BlobMissingError.hint}"
                )
                run.fail(row, "content", error)
                run.advance(self._files.size[row])
                return
            packs.append(location.pack)
        ordinal = self._files.start[row]
        for pack in packs:
            wanted = self._packs.get(pack)
            if wanted is None:
                wanted = self._packs[pack] = array("Q")
            wanted.append(ordinal)
            ordinal += 1

    def __len__(self) -> int:
        """Packs to read."""
        return len(self._packs)

    def packs(self) -> Iterator[tuple[bytes, Wanted, Ordinals]]:
        """For each pack what to read of it and where each blob goes. Packs that were handed out are forgotten."""
        while self._packs:
            pack = next(iter(self._packs))
            ordinals = self._packs.pop(pack)
            wanted: Wanted = []
            places: Ordinals = {}
            for ordinal in ordinals:
                blob_id = self._files.blob_id(ordinal)
                known = places.get(blob_id)
                if known is None:
                    location = self._index.find(blob_id, BlobType.DATA)
                    if location is not None:
                        wanted.append((blob_id, location))
                        places[blob_id] = ordinal
                elif isinstance(known, int):
                    places[blob_id] = [known, ordinal]
                else:
                    known.append(ordinal)
            yield pack, wanted, places

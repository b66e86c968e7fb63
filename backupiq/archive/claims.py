"""Who stores a blob: each new one is claimed by exactly one packer, whichever thread or process meets it first."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Protocol

from backupiq.repository.index import MasterIndex
from backupiq.repository.pack import BlobType, FinishedPack


class Claims(Protocol):
    """What a packer asks before it stores blobs, and tells when it has."""

    def claim(self, ids: Sequence[bytes], kind: BlobType) -> list[int]:
        """Which of the blobs (places in ``ids``) nobody has stored or is storing; they are the caller's now."""
        ...

    def keep(self, pack: FinishedPack) -> None:
        """The pack is finished: from now on its blobs are known."""
        ...


class IndexClaims:
    """Claims against the index in memory; used by many threads at once.

    ``renew`` names blobs to store once more although the index knows them, since what is stored of them is damaged.
    Invariant: a blob that was claimed is in ``_claimed`` until it is in the index, so it is claimed once.
    """

    def __init__(self, index: MasterIndex, renew: Iterable[bytes] = ()) -> None:
        self._index = index
        self._renew = set(renew)
        self._claimed: dict[BlobType, set[bytes]] = {kind: set() for kind in BlobType}
        self._lock = threading.Lock()

    def claim(self, ids: Sequence[bytes], kind: BlobType) -> list[int]:
        """See `Claims`."""
        claimed, has = self._claimed[kind], self._index.has
        fresh = []
        with self._lock:
            # The index is asked under the lock: a pack's blobs enter it before their claims are dropped.
            for at, blob_id in enumerate(ids):
                if blob_id not in claimed and (not has(blob_id, kind) or blob_id in self._renew):
                    self._renew.discard(blob_id)
                    claimed.add(blob_id)
                    fresh.append(at)
        return fresh

    def keep(self, pack: FinishedPack) -> None:
        """See `Claims`."""
        self._index.add_pack(pack.id, pack.blobs)
        with self._lock:
            self._claimed[pack.type].difference_update(blob.id for blob in pack.blobs)

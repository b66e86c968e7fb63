"""The parent's side of packing small files in helper processes (`pack_process`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from backupiq.archive.claims import Claims
from backupiq.archive.pack_process import MODULE, ReadFile, Reply, Request, Setup
from backupiq.archive.pack_writer import PACK_SIZE, Room, WriterCounts
from backupiq.archive.worker_process import MOST_PROCESSES, WorkerProcess, can_start
from backupiq.discovery.entry import FileEntry
from backupiq.repository.crypto import MasterKey
from backupiq.repository.pack import BlobType, FinishedPack

WORTH_PROCESSES = 2_000
"""Small files from which on a helper's start pays."""
FILES_A_REQUEST = 256
BYTES_A_REQUEST = 4 << 20
BYTES_OF_THE_LAST = 256 << 10

File = tuple[bytes, int, FileEntry]
"""Path, ordinal and what the walk saw."""
Taken = Callable[[Sequence[File], Sequence[ReadFile]], None]


def helpers_for(files: int, threads: int) -> int:
    """How many helper processes to pack so many small files with; 0 where threads of this process do better."""
    return min(threads, MOST_PROCESSES) if threads > 1 and files >= WORTH_PROCESSES and can_start() else 0


class Packer:
    """One helper and what it still has to store. One thread at a time may use it.

    Invariant: between two calls of `pack` no claimed blob waits: each is in a pack of the helper, open or finished.
    """

    def __init__(
        self,
        master: MasterKey,
        claims: Claims,
        room: Room,
        *,
        on_taken: Taken,
        on_finished: Callable[[FinishedPack], None],
        stopped: Callable[[], bool],
    ) -> None:
        setup = Setup(master.encrypt, master.mac_k, master.mac_r, str(room.folder), PACK_SIZE)
        self._process = WorkerProcess(MODULE, msgspec.msgpack.encode(setup))
        self._claims = claims
        self._room = room
        self._folder = Path(room.folder)
        self._on_taken = on_taken
        self._on_finished = on_finished
        self._stopped = stopped
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Reply).decode
        self.counts = WriterCounts()

    def pack(self, groups: Groups) -> None:
        """Take groups of small files until none is left. Errors of the helper and of this machine pass through."""
        fresh: list[int] = []
        for group in groups:
            fresh = self._step(fresh, group)
        if fresh:
            self._step(fresh, [])

    def flush(self) -> None:
        """Finish the open packs."""
        self._step([], [], flush=True)

    def _step(self, fresh: list[int], group: Sequence[File], *, flush: bool = False) -> list[int]:
        """Store what was found new and read the next files; which of their blobs are new."""
        request = Request(fresh, [(path, entry) for path, _, entry in group], flush)
        reply = self._decode(self._process.ask(self._encode(request)).head)
        blobs, plain, stored = reply.counts
        self.counts = WriterCounts(data_blobs=blobs, plain_bytes=plain, stored_bytes=stored)
        for made in reply.packs:
            pack = made.finished(self._folder)
            self._claims.keep(pack)
            self._room.reserve(PACK_SIZE, self._stopped)
            self._on_finished(pack)
        found = self._claims.claim([file.id for file in reply.files if file.id], BlobType.DATA)
        self._on_taken(group, reply.files)
        return found

    def ask_to_stop(self) -> None:
        """Let the helper end soon; whoever uses it gets CancelledRunError."""
        self._process.ask_to_stop()

    def close(self) -> None:
        """End the helper and let go of it; no thread may use it any more."""
        self._process.stop()
        self._process.close()


class Groups:
    """Files in groups of one request each, for several packers at once.

    Groups shrink towards the end, so that all packers end at about the same time.
    """

    def __init__(self, files: Sequence[File], packers: int) -> None:
        self._files = iter(files)
        self._left = sum(entry.size for _, _, entry in files)
        self._parts = 2 * packers
        self._turn = threading.Lock()

    def __iter__(self) -> Iterator[list[File]]:
        return self

    def __next__(self) -> list[File]:
        group: list[File] = []
        held = 0
        with self._turn:
            most = max(BYTES_OF_THE_LAST, min(BYTES_A_REQUEST, self._left // self._parts))
            for file in self._files:
                group.append(file)
                held += file[2].size
                if len(group) >= FILES_A_REQUEST or held >= most:
                    break
            self._left -= held
        if not group:
            raise StopIteration
        return group

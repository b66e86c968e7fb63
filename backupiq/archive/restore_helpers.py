"""The helper processes of a restore, seen from the parent: small files go to them, a batch of a pack at a time.

They pay where many small files are restored: there the interpreter's lock keeps threads of one process waiting for each
other. What they do is `restore_process`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backupiq.archive.metadata import RestoreProblem
from backupiq.archive.restore_process import (
    MODULE,
    PAGE,
    BlobOrder,
    FileOrder,
    Report,
    Setup,
    current_file,
    encode_xattr_name,
)
from backupiq.archive.restore_run import ItemState, RestoreRun, new_token, temporary_prefix
from backupiq.archive.restore_schedule import Ordinals, Wanted
from backupiq.archive.restore_writer import TargetWriter
from backupiq.archive.safe_tree import Place, SafeTree, remove
from backupiq.archive.worker_process import MOST_PROCESSES, WorkerProcess, can_start, processors, rebuilt
from backupiq.errors import RepositoryDamagedError, RestoreError
from backupiq.repository.crypto import MasterKey
from backupiq.repository.pack import damaged_pack
from backupiq.repository.reader import SealedBatch

PAYS_FROM = 4000
"""Files of one blob to write from which helpers are started: fewer are written before a helper is awake."""
MOST_FILES = 1000
MOST_BYTES = 2 << 20
"""Files and stored bytes of one request, but for a single blob that is larger."""
_FURTHEST_TIME = 1 << 63
_ENCODER = msgspec.msgpack.Encoder()
_REPORT = msgspec.msgpack.Decoder(Report)

Damaged = tuple[bytes, RepositoryDamagedError, Ordinals]
"""A damaged blob, its error, and the ordinals that still want it."""


def helpers_wanted(run: RestoreRun, workers: int) -> int:
    """How many helpers the restore is worth: 0 where threads do as well, or where helpers cannot be had.

    A restore that is to have a single worker gets none.
    """
    usable = min(processors(), MOST_PROCESSES)
    if workers < 2 or usable < 2 or not can_start():
        return 0
    files = run.plan.files
    small = sum(run.rows[row] <= ItemState.REPLACE and files.blobs(row) == 1 for row in range(len(files)))
    return usable if small >= PAYS_FROM else 0


@dataclass(slots=True)
class _Helper:
    process: WorkerProcess
    token: bytes
    busy: int = 0


class Helpers:
    """A few helper processes. Any thread may call `write`.

    Invariants: after `stop` no helper runs and no unfinished file of one stays. ``busy`` is how many requests a helper
    has been sent and not answered, under the lock.
    """

    def __init__(self, run: RestoreRun, target: Path, master: MasterKey, count: int, root: Place) -> None:
        """Start them. ``root`` is the open target. Raises ResourceError when the system allows no more processes."""
        self._run = run
        self._master = master
        self._lock = threading.Lock()
        self._helpers: list[_Helper] = []
        self.owners_kept = 0
        found = os.stat(root.path if root.fd is None else root.fd)
        setup = _setup(run, target, master, (found.st_dev, found.st_ino))
        try:
            for _ in range(count):
                token = new_token()
                told = _ENCODER.encode(msgspec.structs.replace(setup, token=token))
                self._helpers.append(_Helper(WorkerProcess(MODULE, told, shared=PAGE), token))
        except BaseException:
            self.ask_to_stop()
            for helper in self._helpers:
                helper.process.stop()
                helper.process.close()
            raise

    def __len__(self) -> int:
        """How many there are."""
        return len(self._helpers)

    def wait_ready(self) -> None:
        """Wait until all of them can work; raises what keeps one from it."""
        for helper in self._helpers:
            helper.process.wait_ready()

    def write(self, batch: SealedBatch, ordinals: Ordinals, writer: TargetWriter) -> list[Damaged]:
        """Let helpers write the small files of a batch, and ``writer`` the others.

        Blocks. Returns the damaged blobs; raises what ends the restore.
        """
        share = _Share(self._run, batch, ordinals)
        damaged: list[Damaged] = []
        for request in share.requests:
            self._run.check_stop()
            damaged += self._ask(request, batch.pack)
        return damaged + share.write_rest(writer, self._master)

    def _ask(self, request: _Request, pack: bytes) -> list[Damaged]:
        """Have the least busy helper answer a request, and take over what it did."""
        with self._lock:
            helper = min(self._helpers, key=lambda each: each.busy)
            helper.busy += 1
        try:
            answer = helper.process.ask(_ENCODER.encode(request.blobs), *request.parts)
        finally:
            with self._lock:
                helper.busy -= 1
        report = _REPORT.decode(answer.head)
        run = self._run
        run.take_over(request.rows(), report.states, report.written)
        run.advance(report.size)
        for problem in report.problems:
            run.problem(RestoreProblem(*problem))
        with self._lock:
            self.owners_kept += report.owners_kept
        if report.fatal is not None:
            raise rebuilt(*report.fatal)
        return [request.damaged(place, pack, reason) for place, reason in report.damaged]

    def ask_to_stop(self) -> None:
        """Let them end after the file they are at; who waits for one of them is woken."""
        for helper in self._helpers:
            helper.process.ask_to_stop()

    def stop(self) -> None:
        """Wait until they have ended, which they do by force if need be."""
        self.ask_to_stop()
        for helper in self._helpers:
            helper.process.stop()

    def close(self, tree: SafeTree) -> None:
        """Remove what a killed one left unfinished and let go of all; after `stop`, when no thread uses them."""
        for helper in self._helpers:
            page = helper.process.shared
            row = current_file(page) if page is not None else -1
            if row >= 0:
                self._discard(tree, row, helper.token)
            helper.process.close()
        self._helpers.clear()

    def _discard(self, tree: SafeTree, row: int, token: bytes) -> None:
        files = self._run.plan.files
        folder, name = files.folder[row], files.names[row]
        try:
            place = tree.place(folder)
            if self._run.rows[row] == ItemState.DIRECT:
                remove(place, name)
                return
            for found in _names(place):
                if found.startswith(temporary_prefix(token)):
                    remove(place, found)
        except (OSError, RestoreError) as error:
            self._run.item_problem(folder, name, "temporary file", error)


def _names(place: Place) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(place.path if place.fd is None else place.fd)]


def _setup(run: RestoreRun, target: Path, master: MasterKey, identity: tuple[int, int]) -> Setup:
    plan = run.plan
    attributes = [
        (each.mode, each.uid, each.gid, [(encode_xattr_name(name), value) for name, value in each.xattrs])
        for each in plan.attributes.items
    ]
    return Setup(
        target=os.path.abspath(os.fsencode(target)),
        shown=run.target,
        base=plan.base,
        sparse=run.sparse,
        keys=(master.encrypt, master.mac_k, master.mac_r),
        token=b"",
        identity=identity,
        folders=[(max(folder.parent, 0), folder.name) for folder in plan.folders],
        attributes=attributes,
    )


class _Request:
    """Blobs that small files are made of, with their stored bytes."""

    __slots__ = ("blobs", "file_count", "parts", "size", "small")

    def __init__(self) -> None:
        self.blobs: list[BlobOrder] = []
        self.parts: list[memoryview] = []
        self.small: list[list[int]] = []
        """The ordinals of each blob's small files."""
        self.size = 0
        self.file_count = 0

    def add(
        self, stored: memoryview, blob_id: bytes, plain_length: int, small: list[int], files: list[FileOrder]
    ) -> None:
        """Add a blob and the files it is all of."""
        self.blobs.append((blob_id, self.size, len(stored), plain_length, files))
        self.parts.append(stored)
        self.small.append(small)
        self.size += len(stored)
        self.file_count += len(files)

    def is_full(self, more: int) -> bool:
        """Whether a blob of ``more`` stored bytes is to go into another request."""
        return self.file_count >= MOST_FILES or (self.size > 0 and self.size + more > MOST_BYTES)

    def rows(self) -> list[int]:
        """The files' rows, in the order asked for."""
        return [file[0] for blob in self.blobs for file in blob[4]]

    def damaged(self, place: int, pack: bytes, reason: str) -> Damaged:
        """The blob at that place, which turned out damaged."""
        blob_id = self.blobs[place][0]
        error = damaged_pack(pack.hex(), "holds a damaged blob", blob=blob_id.hex(), reason=reason)
        return blob_id, error, {blob_id: list(self.small[place])}


class _Share:
    """A batch, divided into requests to helpers and the rest."""

    def __init__(self, run: RestoreRun, batch: SealedBatch, ordinals: Ordinals) -> None:
        self.requests: list[_Request] = []
        self._run = run
        self._batch = batch
        self._rest: Wanted = []
        self._rest_ordinals: Ordinals = {}
        view = memoryview(batch.data)
        for blob_id, location in batch.wanted:
            wanted = ordinals[blob_id]
            small, rest, files = self._divide((wanted,) if isinstance(wanted, int) else wanted)
            if rest:
                self._rest.append((blob_id, location))
                self._rest_ordinals[blob_id] = rest
            start = location.offset - batch.offset
            stored = view[start : start + location.length]
            for at in range(0, len(files), MOST_FILES):
                if not self.requests or self.requests[-1].is_full(len(stored)):
                    self.requests.append(_Request())
                part = slice(at, at + MOST_FILES)
                self.requests[-1].add(stored, blob_id, location.uncompressed_length, small[part], files[part])

    def _divide(self, wanted: Iterable[int]) -> tuple[list[int], list[int], list[FileOrder]]:
        """Ordinals for a helper, ordinals that are not, and the former as files."""
        files, rows = self._run.plan.files, self._run.rows
        small: list[int] = []
        rest: list[int] = []
        orders: list[FileOrder] = []
        for ordinal in wanted:
            row = files.owner[ordinal]
            mtime, atime = files.mtime[row], files.atime[row]
            if files.blobs(row) != 1 or not _near(mtime) or not _near(atime):
                rest.append(ordinal)
            elif (state := rows[row]) <= ItemState.REPLACE:
                name, size = files.names[row], files.size[row]
                orders.append((row, files.folder[row], name, size, mtime, atime, files.attributes[row], state))
                small.append(ordinal)
        return small, rest, orders

    def write_rest(self, writer: TargetWriter, master: MasterKey) -> list[Damaged]:
        """Write what is no helper's work; the damaged blobs of it."""
        damaged: list[Damaged] = []
        if self._rest:

            def note(blob_id: bytes, error: RepositoryDamagedError) -> None:
                damaged.append((blob_id, error, self._rest_ordinals))

            rest = SealedBatch(self._batch.pack, self._batch.offset, self._batch.data, self._rest)
            writer.write_blobs(rest.open(master, note), self._rest_ordinals)
        return damaged


def _near(ns: int) -> bool:
    """Whether a message can carry the time as a number."""
    return -_FURTHEST_TIME <= ns < _FURTHEST_TIME

"""Doing what a restore plan says: packs are read in turn by a few workers, which write files while blobs come in.

Workers read a pack's wanted ranges, then decrypt, decompress and write in one thread, blob by blob, so that content is
in memory once. Where many small files are to be written, helper processes do that part (`restore_helpers`). Folders are
made first and get their metadata last; nothing is written outside the target (`safe_tree`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from backupiq.archive.metadata import RestoreProblem, raise_if_fatal, reason_of
from backupiq.archive.restore_finish import make_hard_links, make_others, settle_folders, verify_files
from backupiq.archive.restore_helpers import Damaged, Helpers, helpers_wanted
from backupiq.archive.restore_prepare import decide_files, make_folders
from backupiq.archive.restore_run import FolderState, Overwrite, RestoreRun
from backupiq.archive.restore_schedule import Ordinals, Schedule, Wanted
from backupiq.archive.restore_table import RestorePlan
from backupiq.archive.restore_writer import TargetWriter
from backupiq.archive.safe_tree import SafeTree
from backupiq.archive.worker_process import MOST_PROCESSES
from backupiq.errors import BackupIQError, RepositoryDamagedError, RestoreError, RestoreWriteError
from backupiq.repository.pack import BlobType
from backupiq.repository.reader import BlobReader, SealedBatch
from backupiq.telemetry import get_logger
from backupiq.telemetry.text import printable_path

WORKERS = 3
_AHEAD = 2
"""Batches that are read while each helper has one."""
_DESCRIPTORS = 256
_WATCH_SECONDS = 0.1
_VERIFY_AT_ONCE = 512
T = TypeVar("T")
OnProgress = Callable[[int, int], None]
OnProblem = Callable[[RestoreProblem], None]

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a restore did.

    ``bytes`` of content written; ``skipped`` items the overwrite rule left alone; ``failed`` items that could not be
    restored; ``owners_kept`` items whose owner another user than root could not restore; ``verified`` files that were
    read back and found right; ``problems`` holds the first 10,000 of ``problem_count``.
    """

    files: int
    folders: int
    others: int
    hard_links: int
    bytes: int
    skipped: int
    failed: int
    owners_kept: int
    verified: int
    problem_count: int
    problems: list[RestoreProblem]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "problems": [problem.to_dict() for problem in self.problems]}


async def execute_restore(
    plan: RestorePlan,
    reader: BlobReader,
    target: Path,
    *,
    overwrite: Overwrite = "always",
    sparse: bool = True,
    verify: bool = False,
    workers: int = WORKERS,
    on_progress: OnProgress | None = None,
    on_problem: OnProblem | None = None,
    should_stop: Callable[[], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> RestoreReport:
    """Restore what the plan names below ``target``, which is made when missing.

    ``overwrite`` rules what stands there already: "always" replaces it, "if-changed" keeps files of the same size and
    modification time, "if-newer" replaces what is older than the snapshot's, "never" keeps everything. ``sparse``
    leaves holes for long runs of zeros. ``verify`` reads every file back. ``on_progress(files, bytes)`` is told how
    much of the plan is dealt with, ``on_problem`` each problem; both are called in the event loop. ``should_stop`` is
    asked often, from several threads. ``workers`` threads write; where many small files are to be written, and more
    than one worker is allowed, helper processes write those. A plan may be executed once.

    One item's failure is a problem in the report. Raises ``DiskFullError``, ``TooManyOpenFilesError`` and
    ``RestoreWriteError`` (the target itself) at once, ``CancelledRunError`` when ``should_stop`` says so, and errors of
    the destination that are not damage. However it ends, no thread or process works on and no unfinished file stays.
    """
    began = clock()
    shown = printable_path(os.fsencode(target))
    folders = bytearray(len(plan.folders))
    folders[0] = FolderState.MADE if _make_target(target, shown) else FolderState.FOUND
    run = RestoreRun(plan, shown, overwrite, sparse, should_stop or _never, folders, bytearray(len(plan.files)))
    for problem in plan.problems:
        run.problem(problem)
    execution = _Execution(run, reader, target, max(1, workers), on_progress, on_problem)
    try:
        verified = await execution.run_all(verify)
    finally:
        execution.close()
    counts = run.counts
    return RestoreReport(
        files=counts.files,
        folders=counts.folders,
        others=counts.others,
        hard_links=counts.hard_links,
        bytes=counts.bytes,
        skipped=counts.skipped,
        failed=counts.failed,
        owners_kept=execution.owners_kept,
        verified=verified,
        problem_count=run.problem_count,
        problems=run.problems,
        seconds=clock() - began,
    )


def _never() -> bool:
    return False


def _note_damage(damaged: list[Damaged], ordinals: Ordinals, blob_id: bytes, error: RepositoryDamagedError) -> None:
    damaged.append((blob_id, error, ordinals))


def _make_target(target: Path, shown: str) -> bool:
    """Make the target and what is above it; whether it was missing."""
    try:
        if os.path.isdir(target):
            return False
        os.makedirs(target, mode=0o700)
    except OSError as error:
        raise_if_fatal(error, shown)
        raise RestoreWriteError(
            f"The target {shown} cannot be made: {reason_of(error)}. Choose another folder."
        ) from error
    return True


class _Execution:
    """The threads and helper processes of one restore.

    Invariant: after `close` none of them runs, whatever happened before.
    """

    def __init__(
        self,
        run: RestoreRun,
        reader: BlobReader,
        target: Path,
        workers: int,
        on_progress: OnProgress | None,
        on_problem: OnProblem | None,
    ) -> None:
        self._run = run
        self._reader = reader
        self._target = target
        repository = reader.repository
        self._index = repository.index
        self._master = repository.master
        self._on_progress = on_progress
        self._on_problem = on_problem
        most = max(workers, MOST_PROCESSES + _AHEAD)
        self._descriptors = max(4, _DESCRIPTORS // most)
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="backupiq-restore")
        self._writers: list[TargetWriter] = []
        self._helpers: Helpers | None = None
        self._kept_by_helpers = 0
        try:
            self._add_writers(workers)
        except OSError as error:
            self.close()
            raise RestoreWriteError(
                f"The target {run.target} cannot be opened: {reason_of(error)}. Choose another folder."
            ) from error

    def _add_writers(self, count: int) -> None:
        while len(self._writers) < count:
            tree = SafeTree(self._target, self._run.plan.folders, limit=self._descriptors)
            self._writers.append(TargetWriter(self._run, tree, self._index))

    @property
    def owners_kept(self) -> int:
        return self._kept_by_helpers + sum(writer.metadata.owners_kept for writer in self._writers)

    async def run_all(self, verify: bool) -> int:
        """Every step in order; how many files were verified."""
        run = self._run
        first = self._writers[0]
        await self._step(make_folders, run, first.tree)
        links = await self._step(decide_files, run, first.tree)
        await self._step(self._start_helpers)
        schedule = await self._step(Schedule, run, self._index)
        await self._step(self._write_empty, schedule, first)
        await self._step(self._wait_for_helpers)
        await self._write_packs(schedule)
        await self._step(make_hard_links, first, links)
        await self._step(make_others, first)
        verified = await self._verify() if verify else 0
        await self._step(settle_folders, first)
        return verified

    def _start_helpers(self) -> None:
        """Start helper processes if they pay. A system that has none to give is no reason not to restore."""
        count = helpers_wanted(self._run, len(self._writers))
        if not count:
            return
        try:
            self._helpers = Helpers(self._run, self._target, self._master, count, self._writers[0].tree.place(0))
            self._add_writers(count + _AHEAD)
        except (BackupIQError, OSError) as error:
            self._do_without(error)

    def _wait_for_helpers(self) -> None:
        """Wait until they are awake, which they became meanwhile."""
        if self._helpers is not None:
            try:
                self._helpers.wait_ready()
            except RestoreError:
                raise
            except BackupIQError as error:
                self._do_without(error)

    def _do_without(self, error: BackupIQError | OSError) -> None:
        self._run.check_stop()
        _log.warning("restore.no_helpers", reason=str(error))
        self._end_helpers()

    def _end_helpers(self) -> None:
        """End them, once no thread waits for one."""
        if self._helpers is not None:
            self._helpers.stop()
            self._kept_by_helpers = self._helpers.owners_kept
            self._helpers.close(self._writers[0].tree)
            self._helpers = None

    async def _write_packs(self, schedule: Schedule) -> None:
        """Read every pack and write what is in it, and let helpers be stopped meanwhile."""
        packs = schedule.packs()
        written = asyncio.Event()

        async def write() -> None:
            await self._together([self._work(writer, packs) for writer in self._writers])
            written.set()

        async def watch() -> None:
            while not written.is_set():  # threads that wait for a helper do not ask themselves
                self._run.check_stop()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(written.wait(), _WATCH_SECONDS)

        await self._together([write(), watch()] if self._helpers is not None else [write()])
        await self._step(self._end_helpers)

    async def _step(self, work: Callable[..., T], *args: Any) -> T:
        """One step in a thread; afterwards progress and problems are told."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        finally:
            self._tell()

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self._run.counts.files_done, self._run.counts.bytes_done)
        for problem in self._run.take_untold():
            if self._on_problem is not None:
                self._on_problem(problem)

    async def _together(self, work: list[Any]) -> list[Any]:
        """Run coroutines side by side; the first failure stops the others and is raised once they have ended."""
        tasks = [asyncio.ensure_future(each) for each in work]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            self._run.ended.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _work(self, writer: TargetWriter, packs: Iterator[tuple[bytes, Wanted, Ordinals]]) -> None:
        """Take packs in turn until none is left."""
        for pack, wanted, ordinals in packs:
            damaged: list[Damaged] = []
            note = partial(_note_damage, damaged, ordinals)
            async for batch in self._reader.sealed_batches(pack, wanted, on_damaged=note):
                await self._step(self._write_batch, writer, batch, ordinals, damaged)
            for blob_id, error, concerned in damaged:
                await self._from_another_pack(writer, blob_id, error, concerned)

    def _write_batch(
        self, writer: TargetWriter, batch: SealedBatch, ordinals: Ordinals, damaged: list[Damaged]
    ) -> None:
        if self._helpers is None:
            writer.write_blobs(batch.open(self._master, partial(_note_damage, damaged, ordinals)), ordinals)
        else:
            damaged += self._helpers.write(batch, ordinals, writer)

    async def _from_another_pack(
        self, writer: TargetWriter, blob_id: bytes, error: RepositoryDamagedError, ordinals: Ordinals
    ) -> None:
        try:
            data = await self._reader.load_blob(blob_id, BlobType.DATA)
        except RepositoryDamagedError:
            await self._step(self._give_up, writer, blob_id, error, ordinals)
        else:
            await self._step(writer.write_blobs, [(blob_id, data)], ordinals)

    def _give_up(self, writer: TargetWriter, blob_id: bytes, error: RepositoryDamagedError, ordinals: Ordinals) -> None:
        wanted = ordinals[blob_id]
        for ordinal in (wanted,) if isinstance(wanted, int) else wanted:
            writer.give_up(self._run.plan.files.owner[ordinal], error)

    def _write_empty(self, schedule: Schedule, writer: TargetWriter) -> None:
        for row in schedule.empty:
            self._run.check_stop()
            writer.write(row, 0, b"", False)

    async def _verify(self) -> int:
        ranges = iter(
            range(at, min(at + _VERIFY_AT_ONCE, len(self._run.plan.files)))
            for at in range(0, len(self._run.plan.files), _VERIFY_AT_ONCE)
        )

        async def work(writer: TargetWriter) -> int:
            done = 0
            for rows in ranges:
                done += await self._step(verify_files, writer, self._index, rows)
            return done

        return sum(await self._together([work(writer) for writer in self._writers]))

    def close(self) -> None:
        """Wait for helpers and threads, remove unfinished files, let go of descriptors."""
        self._run.ended.set()
        if self._helpers is not None:
            self._helpers.stop()  # threads that wait for one are woken
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._end_helpers()
        for unfinished in self._run.partials.values():
            self._writers[0].discard(unfinished)
        self._run.partials.clear()
        for writer in self._writers:
            writer.tree.close()
        self._tell()

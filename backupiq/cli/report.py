"""The command report: what a snapshot holds, how the snapshots grew, what it takes to store them."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backupiq.cli.options import (
    Hosts,
    Json,
    KeyBlock,
    NoLock,
    PasswordCommand,
    PasswordFile,
    Quiet,
    Repo,
    RetryLock,
    SnapshotName,
    SnapshotPaths,
    SnapshotTags,
)
from backupiq.cli.output import escape_name, human_bytes, human_time, note, print_json, print_line, print_table
from backupiq.cli.session import Access, opened, run_async
from backupiq.errors import RepositoryDamagedError, ValidationError

if TYPE_CHECKING:
    from backupiq.catalog.snapshot_files import SnapshotFiles
    from backupiq.progress import ProgressSink
    from backupiq.repository.repository import Repository
    from backupiq.repository.snapshot import Snapshot
    from backupiq.semantics.contents import Content, Wanted
    from backupiq.semantics.model import Decision
    from backupiq.semantics.snapshot_report import LookInside, SnapshotReport, Stored
    from backupiq.semantics.summary import Amount, Summary

READERS = 4
"""Files whose contents are fetched and looked at side by side."""
MOST_COUNTED = 100
"""The newest snapshots of the series that are added up for deduplication: each of their folders is read."""
MOST_LINES = 10
"""Lines of each table on a terminal."""


def report(
    snapshot: SnapshotName,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write the report as one HTML page with charts to this file."),
    ] = None,
    names_only: Annotated[
        bool, typer.Option("--names-only", help="Go by names alone: read no contents, search no secrets.")
    ] = False,
    repo: Repo = None,
    host: Hosts = None,
    path: SnapshotPaths = None,
    tag: SnapshotTags = None,
    quiet: Quiet = False,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
    retry_lock: RetryLock = 0.0,
    no_lock: NoLock = False,
) -> None:
    """Show what a snapshot holds, how the snapshots of its paths grew, and how well they protect.

    Reads the repository alone, contents of files included where they tell more than their names.
    """
    from backupiq.cli.progress_display import show_progress
    from backupiq.semantics.snapshot_report import report_to_dict

    access = Access(repo, password_file, password_command, key_block, retry_lock, no_lock)
    target = page_target(html) if html is not None else None

    async def main(progress: ProgressSink) -> SnapshotReport:
        from backupiq.cli.inspect import pick_snapshot

        async with opened(access) as repository:
            chosen = await pick_snapshot(repository, snapshot, host, path, tag)
            return await make_report(
                repository, chosen, now_ns=time.time_ns(), look_inside=not names_only, progress=progress
            )

    with show_progress(silent=quiet or json) as progress:
        found = run_async(main(progress))
    if target is not None:
        from backupiq.cli.report_page import render_page

        write_page(target, render_page(found))
        note(f"written: {escape_name(str(html))}")
    if json:
        print_json(report_to_dict(found), indent=True)
    elif target is None:
        _print(found)


# --- making it -----------------------------------------------------------------------------------------------------


async def make_report(
    repository: Repository,
    chosen: tuple[str, Snapshot],
    *,
    now_ns: int,
    look_inside: bool = True,
    progress: ProgressSink | None = None,
) -> SnapshotReport:
    """Everything about a snapshot of an open repository, at the time ``now_ns``. Raises what reading it raises.

    Damaged folders, and files that cannot be read, are passed over and counted.
    """
    from backupiq.progress import SilentProgress
    from backupiq.semantics.snapshot_report import SnapshotReport, point_of, protection_of, series_of

    progress = progress or SilentProgress()
    snapshot_id, one = chosen
    damaged: list[str] = []
    found = await repository.snapshots(on_damaged=lambda damaged_id, _: damaged.append(damaged_id))
    if damaged:
        progress.note(f"{len(damaged)} damaged snapshots are left out of the series")
    series = series_of(found, chosen)
    await repository.load_index()
    holds, decisions, unreadable = await _look(repository, one, look_inside=look_inside, progress=progress)
    progress.stage("adding up what is stored")
    trees = [each.tree for _, each in series[-MOST_COUNTED:]]
    stored = await _add_up(repository, [one.tree])
    return SnapshotReport(
        snapshot_id=snapshot_id,
        snapshot=one,
        now_ns=now_ns,
        holds=holds,
        looked_inside=look_inside,
        unreadable=unreadable,
        decisions=decisions,
        series=[point_of(*each) for each in series],
        protection=protection_of([each.time_ns() for _, each in series], now_ns),
        stored=stored,
        series_stored=stored if trees == [one.tree] else await _add_up(repository, trees),
    )


async def _look(
    repository: Repository, one: Snapshot, *, look_inside: bool, progress: ProgressSink
) -> tuple[Summary, Sequence[Decision], int]:
    """What the snapshot holds, what can be made again and why, and how many folders could not be read."""
    import asyncio

    from backupiq.catalog.snapshot_files import SnapshotFiles
    from backupiq.semantics.analysis import Analysis
    from backupiq.semantics.contents import finding_key
    from backupiq.semantics.snapshot_report import count_files

    files = SnapshotFiles(repository, one.tree)

    def run() -> tuple[Summary, Sequence[Decision]]:
        progress.stage("reading the folders of the snapshot")
        analysis = Analysis(files, now_ns=one.time_ns(), attributes=files.attributes)
        progress.stage("looking at what files are")
        if one.summary is not None:
            progress.total(one.summary.total_files_processed, one.summary.total_bytes_processed)
        if not look_inside:
            return count_files(files, analysis, advance=progress.advance), analysis.decisions
        with ThreadPoolExecutor(READERS, thread_name_prefix="backupiq-report") as pool:
            reader = content_reader(files, finding_key(repository.master), pool)
            return count_files(files, analysis, reader, progress.advance), analysis.decisions

    try:
        holds, decisions = await asyncio.to_thread(run)
        return holds, decisions, files.changes.unreadable
    finally:
        files.close()


def content_reader(files: SnapshotFiles, key: bytes, pool: ThreadPoolExecutor) -> LookInside:
    """Reads files out of a snapshot in the threads of ``pool``. ``key``: of the hashes of secrets."""
    from backupiq.semantics.contents import examine
    from backupiq.semantics.secrets import SecretScanner

    own = threading.local()  # a scanner serves one thread

    def look(file: Wanted) -> Content:
        if not hasattr(own, "scanner"):
            own.scanner = SecretScanner(key)
        return examine(file, files.read, own.scanner)

    def look_inside(wanted: Sequence[Wanted]) -> Mapping[bytes, Content]:
        return {file.path: content for file, content in zip(wanted, pool.map(look, wanted), strict=True)}

    return look_inside


async def _add_up(repository: Repository, trees: Sequence[str]) -> Stored | None:
    """What the snapshots with these root folders take; None when the repository is too damaged to tell."""
    from backupiq.cli.statistics import collect_statistics
    from backupiq.repository.reader import BlobReader
    from backupiq.semantics.snapshot_report import Stored

    try:
        found = await collect_statistics(BlobReader(repository).load_tree, repository.index, trees)
    except RepositoryDamagedError:
        return None
    return Stored(found.snapshots, found.restore_bytes, found.plain_bytes, found.stored_bytes)


# --- writing it ----------------------------------------------------------------------------------------------------


def page_target(path: Path) -> Path:
    """Where the page is to be written: the file that the path leads to. ValidationError when none can be there."""
    target = Path(os.path.realpath(path))
    try:
        found = os.stat(target).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if not target.parent.is_dir():
            raise ValidationError(f"There is no folder {escape_name(str(target.parent))}; create it first.") from None
        return target
    if not stat.S_ISREG(found):
        what = "a folder" if stat.S_ISDIR(found) else "no regular file"
        raise ValidationError(f"{escape_name(str(path))} is {what}; give --html the name of a file to write.")
    return target


def write_page(target: Path, page: str) -> None:
    """Write the page, readable for its owner only, whole or not at all. ValidationError, OSError."""
    from backupiq.state import write_private

    write_private(page_target(target), page.encode("utf-8", "backslashreplace"))


# --- showing it ----------------------------------------------------------------------------------------------------


def _print(found: SnapshotReport) -> None:
    from backupiq.cli.report_words import notes_of, protection_words, series_rows, storage_words

    one, holds = found.snapshot, found.holds
    paths = ", ".join(map(escape_name, one.paths))
    print_line(f"snapshot {found.snapshot_id[:8]} of {escape_name(one.hostname)}, {human_time(one.time_ns())}: {paths}")
    print_line(f"{found.files:,} files, {human_bytes(found.bytes)}")
    for text in notes_of(found):
        print_line(f"note: {text}")
    _print_amounts("Category", holds.categories, sum(each.bytes for each in holds.categories))
    if holds.regenerable.files:
        print_line(f"and what can be made again: {_amount(holds.regenerable)}")
    _print_amounts("Language", holds.languages, sum(each.bytes for each in holds.languages))
    _print_amounts("Framework", holds.frameworks, 0, "Projects")
    _print_amounts("Project", holds.projects, 0)
    _print_rows(("Largest files", "Size"), [(escape_name(path), human_bytes(size)) for path, size in holds.largest])
    secrets = [
        (escape_name(each.path), f"{each.secrets:,}", ", ".join(map(escape_name, each.rules)))
        for each in holds.riskiest
    ]
    _print_rows(("Files with secrets", "Found", "Rules"), secrets, right=frozenset({1}))
    headings = ("Snapshot", "Taken", "Files", "Size", "New", "Stored as")
    _print_rows(headings, series_rows(found.series[-MOST_LINES:]), right=frozenset({2, 3, 4, 5}))
    if len(found.series) > MOST_LINES:
        print_line(f"and {len(found.series) - MOST_LINES:,} older ones")
    print_line()
    for title, stored in (("this snapshot", found.stored), (_together(found.series_stored), found.series_stored)):
        if stored is not None and title:
            print_line(f"{title}: {storage_words(stored)}")
    print_line(protection_words(found.protection))


def _together(stored: Stored | None) -> str:
    if stored is None or stored.snapshots < 2:
        return ""
    return f"the newest {stored.snapshots:,} snapshots together"


def _amount(amount: Amount) -> str:
    from backupiq.cli.report_words import counted

    return f"{counted(amount.files, 'file')}, {human_bytes(amount.bytes)}"


def _print_amounts(heading: str, amounts: Sequence[Amount], total: int, files: str = "Files") -> None:
    share: Callable[[Amount], str] = lambda each: f"{each.bytes / total:.1%}" if total else ""  # noqa: E731
    rows = [(escape_name(each.name), f"{each.files:,}", human_bytes(each.bytes), share(each)) for each in amounts]
    _print_rows((heading, files, "Size", "Share" if total else ""), rows)
    if len(amounts) > MOST_LINES:
        print_line(f"and {len(amounts) - MOST_LINES:,} more")


def _print_rows(
    headings: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: frozenset[int] = frozenset({1, 2, 3})
) -> None:
    if rows:
        print_line()
        print_table(headings, rows[:MOST_LINES], right=right)

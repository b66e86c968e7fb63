"""Before anything is written: folders are made, and what stands in the target already is looked at."""

from __future__ import annotations

import os
import stat

from backupiq.archive.metadata import raise_if_fatal
from backupiq.archive.restore_run import FolderState, ItemState, RestoreRun
from backupiq.archive.restore_table import PlannedHardLink
from backupiq.archive.safe_tree import Place, SafeTree, lstat, remove
from backupiq.errors import RestoreConflictError, RestoreError
from backupiq.telemetry.text import printable_path

_STOP_EVERY = 256


def make_folders(run: RestoreRun, tree: SafeTree) -> None:
    """Make every folder (0700 for now) and note which stood there already.

    A folder that cannot be had is one problem; all that belongs below it is left out.
    """
    states = run.folders
    for number in range(1, len(run.plan.folders)):
        if number % _STOP_EVERY == 0:
            run.check_stop()
        parent = run.plan.folders[number].parent
        if states[parent] == FolderState.FAILED:
            continue
        try:
            made = tree.make(number) or (_find(run, tree, number, parent) == FolderState.MADE)
            states[number] = FolderState.MADE if made else FolderState.FOUND
            run.counts.folders += made
        except (OSError, RestoreError) as error:
            if isinstance(error, OSError):
                raise_if_fatal(error, run.target)
            run.item_problem(parent, run.plan.folders[number].name, "folder", error)


def _find(run: RestoreRun, tree: SafeTree, number: int, parent: int) -> FolderState:
    """Use what stands where the folder belongs; a file there gives way if the overwrite rule says so."""
    entry = run.plan.folders[number]
    place = tree.place(parent)
    found = lstat(place, entry.name)
    if found is not None and not stat.S_ISDIR(found.st_mode) and not stat.S_ISLNK(found.st_mode):
        if run.overwrite == "never" or (run.overwrite == "if-newer" and found.st_mtime_ns >= entry.mtime_ns):
            raise RestoreConflictError(
                "A file stands where a folder belongs, and the overwrite rule keeps it. Move it away, or restore with "
                "--overwrite always."
            )
        remove(place, entry.name)
        tree.make(number)
        tree.place(number)
        return FolderState.MADE
    here = tree.place(number)
    get_uid = getattr(os, "geteuid", None)
    if here.fd is not None and get_uid is not None and get_uid() != 0 and found is not None:
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid == get_uid() and mode & 0o700 != 0o700:
            os.fchmod(here.fd, mode | 0o700)  # it gets its own mode when everything in it is done
    return FolderState.FOUND


def decide_files(run: RestoreRun, tree: SafeTree) -> list[PlannedHardLink]:
    """Settle for each file whether and how it is written; the hard links that remain to be made.

    A further name of a file whose first name is kept as it stands becomes a file of its own.
    """
    plan = run.plan
    for row in range(len(plan.files)):
        _decide_row(run, tree, row)
        if row % _STOP_EVERY == 0:
            run.check_stop()
    remaining: list[PlannedHardLink] = []
    promoted: dict[int, int] = {}
    for link in plan.hard_links:
        row = link.row
        if run.folders[link.folder] == FolderState.FAILED:
            run.counts.failed += 1
            run.counts.files_done += 1
            continue
        if run.rows[row] in (ItemState.KEPT, ItemState.FAILED):
            row = promoted.get(row, -1)
            if row < 0:
                old = plan.files.row(link.row)
                promoted[link.row] = row = plan.files.add(
                    link.folder, link.name, old.size, old.mtime_ns, old.atime_ns, old.attributes, old.ids
                )
                run.rows.append(ItemState.DIRECT)
                _decide_row(run, tree, row)
                if run.rows[row] == ItemState.KEPT:
                    del promoted[link.row]
                continue
        remaining.append(PlannedHardLink(link.folder, link.name, row))
    return remaining


def _decide_row(run: RestoreRun, tree: SafeTree, row: int) -> None:
    files = run.plan.files
    folder = files.folder[row]
    state = run.folders[folder]
    if state == FolderState.MADE:
        return
    if state == FolderState.FAILED:
        run.rows[row] = ItemState.FAILED
        run.counts.failed += 1
        run.counts.files_done += 1
        return
    try:
        decision = decide(
            run, tree.place(folder), files.names[row], stat.S_IFREG, files.mtime[row], size=files.size[row]
        )
    except (OSError, RestoreError) as error:
        run.fail(row, "content", error)
        return
    if decision in (ItemState.SAME, ItemState.KEPT):
        run.skip(row, decision)
    else:
        run.rows[row] = decision


def decide(
    run: RestoreRun,
    place: Place,
    name: bytes,
    kind: int,
    mtime_ns: int,
    *,
    size: int = 0,
    link: bytes = b"",
    device: int = 0,
) -> ItemState:
    """What to do about an item whose folder stood there before: REPLACE, SAME or KEPT.

    An empty folder in its way is removed; ``RestoreConflictError`` for one that is not empty.
    """
    found = lstat(place, name)
    if found is None:
        return ItemState.REPLACE
    if run.overwrite == "never" or (run.overwrite == "if-newer" and found.st_mtime_ns >= mtime_ns):
        return ItemState.KEPT
    if run.overwrite == "if-changed" and stat.S_IFMT(found.st_mode) == kind and found.st_mtime_ns == mtime_ns:
        same = found.st_size == size if kind == stat.S_IFREG else found.st_rdev == device
        if kind == stat.S_IFLNK:
            same = os.readlink(place.at(name), dir_fd=place.fd) == link
        if same:
            return ItemState.SAME
    if stat.S_ISDIR(found.st_mode):
        try:
            os.rmdir(place.at(name), dir_fd=place.fd)
        except OSError as error:
            raise RestoreConflictError(
                f"A folder that cannot be replaced stands where {printable_path(name)} belongs. Move it away, or "
                "restore into another folder."
            ) from error
    return ItemState.REPLACE

"""After the contents: symlinks, special files, further names of files, metadata of folders; and reading it back."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence

from backupiq.archive.metadata import APPLIES_TO_OPEN, Failure, raise_if_fatal
from backupiq.archive.restore_prepare import decide
from backupiq.archive.restore_run import FolderState, ItemState, RestoreRun
from backupiq.archive.restore_table import PlannedHardLink, PlannedOther
from backupiq.archive.restore_writer import TargetWriter
from backupiq.archive.safe_tree import CLOSE_ON_EXEC, NO_FOLLOW, Place, remove
from backupiq.errors import BackupIQError, RestoreError, RestoreWriteError
from backupiq.repository.crypto import OVERHEAD
from backupiq.repository.index import MasterIndex
from backupiq.repository.pack import BlobType

_READ_FLAGS = os.O_RDONLY | NO_FOLLOW | CLOSE_ON_EXEC | getattr(os, "O_NONBLOCK", 0)


def make_others(writer: TargetWriter) -> None:
    """Make symlinks, FIFOs, sockets and devices."""
    run = writer.run
    done: set[int] = set()
    for number, other in enumerate(run.plan.others):
        run.check_stop()
        state = run.folders[other.folder]
        if state == FolderState.FAILED:
            run.counts.failed += 1
            continue
        try:
            place = writer.tree.place(other.folder)
            if state == FolderState.FOUND:
                decision = decide(
                    run, place, other.name, other.format, other.mtime_ns, link=other.link, device=other.device
                )
                if decision != ItemState.REPLACE:
                    run.counts.skipped += 1
                    continue
            if other.same_as in done:
                _link(writer, run.plan.others[other.same_as].folder, run.plan.others[other.same_as].name, other)
            else:
                _make_other(writer, place, other, direct=state == FolderState.MADE)
            done.add(number)
            run.counts.others += 1
        except (OSError, RestoreError, NotImplementedError) as error:
            _note(run, other.folder, other.name, error)


def _make_other(writer: TargetWriter, place: Place, other: PlannedOther, *, direct: bool) -> None:
    used = other.name if direct else writer.run.temporary_name()
    path = place.at(used)
    if other.is_symlink:
        os.symlink(other.link, path, dir_fd=place.fd)
    elif hasattr(os, "mknod"):
        os.mknod(path, other.format | 0o600, other.device, dir_fd=place.fd)
    else:
        raise RestoreWriteError("This system has no such special files.")
    try:
        wanted = writer.run.plan.attributes[other.attributes]
        failed = writer.metadata.apply_named(place, used, wanted, other.mtime_ns, other.atime_ns, link=other.is_symlink)
        writer.report(other.folder, other.name, failed)
        if not direct:
            os.replace(path, place.at(other.name), src_dir_fd=place.fd, dst_dir_fd=place.fd)
    except BaseException:
        remove(place, used)
        raise


def make_hard_links(writer: TargetWriter, links: Sequence[PlannedHardLink]) -> None:
    """Give files their further names."""
    run = writer.run
    files = run.plan.files
    for link in links:
        run.check_stop()
        run.counts.files_done += 1
        try:
            if run.rows[link.row] == ItemState.FAILED:
                raise RestoreWriteError("It is another name of a file that could not be restored.")
            if run.folders[link.folder] == FolderState.FOUND and _is_settled(writer, link):
                run.counts.skipped += 1
                continue
            _link(writer, files.folder[link.row], files.names[link.row], link)
            run.counts.files += 1
            run.counts.hard_links += 1
        except (OSError, RestoreError) as error:
            _note(run, link.folder, link.name, error)


def _is_settled(writer: TargetWriter, link: PlannedHardLink) -> bool:
    """Whether the name stands there already as it should be, or is to be kept as it is."""
    run = writer.run
    files = run.plan.files
    first = writer.tree.place(files.folder[link.row])
    source = os.stat(first.at(files.names[link.row]), dir_fd=first.fd, follow_symlinks=False)
    place = writer.tree.place(link.folder)
    decision = decide(run, place, link.name, stat.S_IFREG, files.mtime[link.row], size=files.size[link.row])
    if decision == ItemState.KEPT:
        return True
    try:
        found = os.stat(place.at(link.name), dir_fd=place.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (source.st_dev, source.st_ino)


def _link(writer: TargetWriter, folder: int, name: bytes, new: PlannedHardLink | PlannedOther) -> None:
    source = writer.tree.place(folder)
    place = writer.tree.place(new.folder)
    direct = writer.run.folders[new.folder] == FolderState.MADE
    used = new.name if direct else writer.run.temporary_name()
    os.link(
        source.at(name),
        place.at(used),
        src_dir_fd=source.fd,
        dst_dir_fd=place.fd,
        follow_symlinks=os.link not in os.supports_follow_symlinks,  # False cannot be said where it is the only way
    )
    if not direct:
        try:
            os.replace(place.at(used), place.at(new.name), src_dir_fd=place.fd, dst_dir_fd=place.fd)
        finally:
            # Renaming over another name of the same file does nothing at all, so the first name may still be there.
            remove(place, used)


def settle_folders(writer: TargetWriter) -> None:
    """Give folders their metadata, the deepest first, since each change inside would touch their times."""
    run = writer.run
    folders = run.plan.folders
    for number in range(len(folders) - 1, 0, -1):
        if number % 256 == 0:
            run.check_stop()
        folder = folders[number]
        if run.folders[number] == FolderState.FAILED or folder.attributes < 0:
            continue
        wanted = run.plan.attributes[folder.attributes]
        failed: list[Failure]
        try:
            here = writer.tree.place(number)
            if here.fd is not None and APPLIES_TO_OPEN:
                failed = writer.metadata.apply_open(
                    here.fd, os.fstat(here.fd), wanted, folder.mtime_ns, folder.atime_ns
                )
            else:
                parent = writer.tree.place(folder.parent)
                failed = writer.metadata.apply_named(
                    parent, folder.name, wanted, folder.mtime_ns, folder.atime_ns, link=False
                )
            writer.report(folder.parent, folder.name, failed)
        except (OSError, RestoreError) as error:
            if isinstance(error, OSError):
                raise_if_fatal(error, run.target)
            run.item_problem(folder.parent, folder.name, "metadata", error)


def verify_files(writer: TargetWriter, index: MasterIndex, rows: range) -> int:
    """Read restored files back and compare each piece with its id; how many are right. The others become problems."""
    run = writer.run
    files = run.plan.files
    right = 0
    for row in rows:
        run.check_stop()
        if run.rows[row] not in (ItemState.DONE, ItemState.SAME):
            continue
        name = files.names[row]
        try:
            place = writer.tree.place(files.folder[row])
            fd = os.open(place.at(name), _READ_FLAGS, dir_fd=place.fd)
            try:
                good = _holds(fd, files.ids(row), index)
            finally:
                os.close(fd)
            if not good:
                raise RestoreWriteError("Reading it back gave other content than was written. Check the target's disk.")
            right += 1
        except (OSError, RestoreError) as error:
            run.item_problem(files.folder[row], name, "verification", error)
    return right


def _holds(fd: int, ids: bytes, index: MasterIndex) -> bool:
    for position in range(0, len(ids), 32):
        blob_id = ids[position : position + 32]
        found = index.find(blob_id, BlobType.DATA)
        if found is None:
            return False
        digest = hashlib.sha256()
        missing = found.uncompressed_length or found.length - OVERHEAD
        while missing > 0:
            piece = os.read(fd, min(missing, 1 << 20))
            if not piece:
                return False
            missing -= len(piece)
            digest.update(piece)
        if digest.digest() != blob_id:
            return False
    return not os.read(fd, 1)


def _note(run: RestoreRun, folder: int, name: bytes, error: OSError | BackupIQError | NotImplementedError) -> None:
    if isinstance(error, OSError):
        raise_if_fatal(error, run.target)
    run.counts.failed += 1
    run.item_problem(folder, name, "entry", error)

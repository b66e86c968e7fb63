"""Commands that look into a repository: snapshots, ls, diff, stats."""

from __future__ import annotations

import base64
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backupiq.cli.options import (
    Hosts,
    Json,
    KeyBlock,
    NoLock,
    PasswordCommand,
    PasswordFile,
    Repo,
    RetryLock,
    SnapshotName,
    SnapshotPaths,
    SnapshotTags,
    split_snapshot,
)
from backupiq.cli.output import (
    escape_name,
    human_bytes,
    human_time,
    json_path,
    note,
    print_json,
    print_line,
    print_table,
)
from backupiq.cli.session import Access, opened, run_async

if TYPE_CHECKING:
    from backupiq.cli.compare import Change, DiffSummary
    from backupiq.cli.listing import Item, TreeLoader
    from backupiq.cli.statistics import Statistics
    from backupiq.errors import BackupIQError
    from backupiq.repository.repository import Repository
    from backupiq.repository.snapshot import Snapshot

    Snapshots = list[tuple[str, Snapshot]]


def snapshots(
    repo: Repo = None,
    host: Hosts = None,
    path: SnapshotPaths = None,
    tag: SnapshotTags = None,
    latest: Annotated[
        int | None,
        typer.Option("--latest", metavar="N", min=1, help="Only the newest N for each host and set of paths."),
    ] = None,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
    retry_lock: RetryLock = 0.0,
    no_lock: NoLock = False,
) -> None:
    """List the snapshots of a repository."""
    access = Access(repo, password_file, password_command, key_block, retry_lock, no_lock)

    damaged: list[BackupIQError] = []

    async def load() -> Snapshots:
        async with opened(access) as repository:
            return await repository.snapshots(on_damaged=lambda _, error: damaged.append(error))

    found = newest_of_each(select_snapshots(run_async(load()), host, path, tag), latest)
    if json:
        print_json([snapshot_dict(*one) for one in found])
    else:
        _print_snapshots(found)
    for error in damaged:
        note(error.message)
    if damaged:
        raise typer.Exit(damaged[0].exit_code)


def ls(
    snapshot: SnapshotName,
    path: Annotated[str | None, typer.Argument(metavar="PATH", help="Only what is at or below this path.")] = None,
    repo: Repo = None,
    recursive: Annotated[
        bool,
        typer.Option(
            "--recursive/--no-recursive",
            "-R",
            help="Also what is below the folders listed.",
        ),
    ] = True,
    host: Hosts = None,
    snapshot_path: SnapshotPaths = None,
    tag: SnapshotTags = None,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
    retry_lock: RetryLock = 0.0,
    no_lock: NoLock = False,
) -> None:
    """List what a snapshot holds, in the long format of ls; with --json one object a line."""
    access = Access(repo, password_file, password_command, key_block, retry_lock, no_lock)
    name, inner = split_snapshot(snapshot)

    async def main() -> None:
        async with opened(access) as repository:
            chosen = await pick_snapshot(repository, name, host, snapshot_path, tag)
            if json:
                print_json({**snapshot_dict(*chosen), "struct_type": "snapshot"})
            await _list(repository, chosen[1].tree, os.fsencode(path or inner or "/"), recursive=recursive, json=json)

    run_async(main())


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The older snapshot.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The newer snapshot.", show_default=False)],
    repo: Repo = None,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
    retry_lock: RetryLock = 0.0,
    no_lock: NoLock = False,
) -> None:
    """Show what differs between two snapshots: + added, - removed, M content, U metadata only, T type.

    Each may be SNAPSHOT:PATH, to compare two folders.
    """
    access = Access(repo, password_file, password_command, key_block, retry_lock, no_lock)

    async def main() -> DiffSummary:
        async with opened(access) as repository:
            return await _compare(repository, a, b, json=json)

    summary = run_async(main())
    if json:
        print_json({"message_type": "statistics", **summary.to_dict()})
        return
    print_line()
    words = {"added": "added", "removed": "removed", "modified": "content", "metadata": "metadata only", "type": "type"}
    for kind, counts in summary.to_dict().items():
        print_line(f"{words[kind] + ':':<15}{counts['items']:>9,}  {human_bytes(counts['bytes'])}")


def stats(
    snapshot: Annotated[
        str | None,
        typer.Argument(metavar="SNAPSHOT", help="Only this snapshot; else all.", show_default=False),
    ] = None,
    repo: Repo = None,
    host: Hosts = None,
    path: SnapshotPaths = None,
    tag: SnapshotTags = None,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
    retry_lock: RetryLock = 0.0,
    no_lock: NoLock = False,
) -> None:
    """Show how much the snapshots hold and how much it takes to store them."""
    access = Access(repo, password_file, password_command, key_block, retry_lock, no_lock)

    async def main() -> tuple[Statistics, dict[str, int] | None]:
        from backupiq.cli.statistics import collect_statistics
        from backupiq.repository.repository import FileType

        async with opened(access) as repository:
            if snapshot is not None:
                chosen = [await pick_snapshot(repository, snapshot, host, path, tag)]
            else:
                chosen = select_snapshots(await repository.snapshots(), host, path, tag)
            load_tree = await tree_loader(repository)
            found = await collect_statistics(load_tree, repository.index, [one.tree for _, one in chosen])
            packs = await repository.list_ids(FileType.PACK) if snapshot is None else None
            return found, packs

    found, packs = run_async(main())
    document: dict[str, Any] = found.to_dict()
    if packs is not None:
        document |= {"packs": len(packs), "pack_bytes": sum(packs.values())}
    if json:
        print_json(document, indent=True)
    else:
        _print_statistics(found, document)


# --- choosing snapshots --------------------------------------------------------------------------------------------


def select_snapshots(
    found: Snapshots, hosts: Sequence[str] | None, paths: Sequence[str] | None, tags: Sequence[str] | None
) -> Snapshots:
    """The snapshots of any of the hosts that hold all of the paths and, for any of the tag lists, all of its tags."""
    tag_lists = [set(filter(None, text.split(","))) for text in tags or ()]
    return [
        (snapshot_id, one)
        for snapshot_id, one in found
        if (not hosts or one.hostname in hosts)
        and set(paths or ()).issubset(one.paths)
        and (not tag_lists or any(wanted.issubset(one.tags or ()) for wanted in tag_lists))
    ]


def newest_of_each(found: Snapshots, count: int | None) -> Snapshots:
    """The newest ``count`` for each host and set of paths; everything for None. ``found`` is sorted by time."""
    if count is None:
        return found
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for snapshot_id, one in found:
        groups[one.hostname, tuple(sorted(one.paths))].append(snapshot_id)
    kept = {snapshot_id for ids in groups.values() for snapshot_id in ids[-count:]}
    return [one for one in found if one[0] in kept]


async def pick_snapshot(
    repository: Repository,
    name: str,
    hosts: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
) -> tuple[str, Snapshot]:
    """The snapshot with that id, its beginning, or the latest of those that the filters leave."""
    from backupiq.repository.snapshot import resolve_snapshot

    if name != "latest":
        return await repository.load_snapshot(name)  # which reads no other, so that a damaged one is no obstacle
    return resolve_snapshot(select_snapshots(await repository.snapshots(), hosts, paths, tags), name)


async def tree_loader(repository: Repository) -> TreeLoader:
    """Loads trees by id, after the index."""
    from backupiq.repository.reader import BlobReader

    await repository.load_index()
    return BlobReader(repository).load_tree


# --- showing them --------------------------------------------------------------------------------------------------


def snapshot_dict(snapshot_id: str, snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot for JSON, as restic shows it: its own fields, its id and the first eight characters of it."""
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(snapshot)
    return {**fields, "id": snapshot_id, "short_id": snapshot_id[:8]}


def _print_snapshots(found: Snapshots) -> None:
    print_table(
        ("ID", "Time", "Host", "Tags", "Paths", "Files", "Size"), [_row(*one) for one in found], right=frozenset({5, 6})
    )
    print_line(f"{len(found)} snapshot{'' if len(found) == 1 else 's'}")


def _row(snapshot_id: str, snapshot: Snapshot) -> tuple[str, ...]:
    summary = snapshot.summary
    return (
        snapshot_id[:8],
        human_time(snapshot.time_ns()),
        escape_name(snapshot.hostname),
        ",".join(map(escape_name, snapshot.tags or ())),
        "\n".join(map(escape_name, snapshot.paths)),
        f"{summary.total_files_processed:,}" if summary else "",
        human_bytes(summary.total_bytes_processed) if summary else "",
    )


async def _list(repository: Repository, tree: str, start: bytes, *, recursive: bool, json: bool) -> None:
    from backupiq.cli.listing import Item, find_item, subtree_of, walk_tree

    load_tree = await tree_loader(repository)
    show = _print_json_item if json else _print_item
    top = await find_item(load_tree, tree, start)
    if top is not None:
        show(top)
        if top.node.type != "dir":
            return
        tree = subtree_of(top.path, top.node)
    path = top.path if top else b""
    if not recursive:
        for node in await load_tree(tree):
            show(Item(path + b"/" + node.raw_name(), node))
        return
    async for item in walk_tree(load_tree, tree, path):
        show(item)


def _print_item(item: Item) -> None:
    from backupiq.cli.listing import mode_text

    node = item.node
    target = f" -> {escape_name(node.raw_linktarget())}" if node.type == "symlink" else ""
    owner = f"{escape_name(node.user) or node.uid:<8} {escape_name(node.group) or node.gid:<8}"
    print_line(
        f"{mode_text(node)} {owner} {node.size:>12} {human_time(node.mtime_ns())} {escape_name(item.path)}{target}"
    )


def _print_json_item(item: Item) -> None:
    node = item.node
    line: dict[str, Any] = {"struct_type": "node", "type": node.type, **json_path(item.path)}
    line |= {"size": node.size} if node.type == "file" else {}
    line |= {"mode": node.mode, "mtime": node.mtime, "atime": node.atime, "ctime": node.ctime}
    line |= {"uid": node.uid, "gid": node.gid, "user": node.user, "group": node.group, "inode": node.inode}
    if node.type == "symlink":
        line["linktarget"] = node.linktarget
        if node.linktarget_raw:
            line["linktarget_base64"] = base64.b64encode(node.linktarget_raw).decode()
    print_json(line)


async def _compare(repository: Repository, a: str, b: str, *, json: bool) -> DiffSummary:
    from backupiq.cli.compare import DiffSummary, compare_trees

    found = [await pick_snapshot(repository, split_snapshot(text)[0]) for text in (a, b)]
    load_tree = await tree_loader(repository)
    old, new = [
        await _folder_tree(load_tree, snapshot.tree, split_snapshot(text)[1])
        for text, (_, snapshot) in zip((a, b), found, strict=True)
    ]
    if not json:
        print_line(f"comparing snapshot {found[0][0][:8]} to {found[1][0][:8]}:\n")
    summary = DiffSummary()
    async for change in compare_trees(load_tree, old, new):
        summary.count(change)
        _print_change(change, json=json)
    return summary


async def _folder_tree(load_tree: TreeLoader, tree: str, path: str | None) -> str:
    from backupiq.cli.listing import find_item, subtree_of
    from backupiq.errors import PathNotInSnapshotError

    item = await find_item(load_tree, tree, os.fsencode(path)) if path else None
    if item is None:
        return tree
    if item.node.type != "dir":
        raise PathNotInSnapshotError(
            f"{escape_name(item.path)} is no folder in the snapshot; only folders are compared."
        )
    return subtree_of(item.path, item.node)


def _print_change(change: Change, *, json: bool) -> None:
    path = change.path + b"/" if change.is_dir else change.path
    if not json:
        print_line(f"{change.difference.value}    {escape_name(path)}")
        return
    line: dict[str, Any] = {"message_type": "change", **json_path(path), "modifier": change.difference.value}
    for key, node in (("old_size", change.old), ("new_size", change.new)):
        if node is not None and node.type == "file":
            line[key] = node.size
    print_json(line)


def _print_statistics(found: Statistics, document: dict[str, Any]) -> None:
    lines = [
        ("snapshots", f"{found.snapshots:,}"),
        ("files", f"{found.files:,}"),
        ("folders", f"{found.dirs:,}"),
        ("other entries", f"{found.others:,}"),
        ("size when restored", human_bytes(found.restore_bytes)),
        ("distinct blobs", f"{found.data_blobs:,} data, {found.tree_blobs:,} tree"),
        ("distinct data", human_bytes(found.plain_bytes)),
        ("stored as", human_bytes(found.stored_bytes)),
        ("compression", f"{found.compression_ratio:.2f} to 1"),
        ("deduplication", f"{found.deduplication_ratio:.2f} to 1"),
    ]
    if "packs" in document:
        lines.append(("packs", f"{document['packs']:,}, {human_bytes(document['pack_bytes'])}"))
    for name, value in lines:
        print_line(f"{name + ':':<20}{value}")

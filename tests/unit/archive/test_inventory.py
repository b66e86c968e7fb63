"""The inventory: what the walk found, by ordinal, joined from several walks."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from backupiq.archive.inventory import Inventory, WalkedSource, assemble
from backupiq.discovery.entry import Directory, EntryKind, FileEntry


def entry(name: bytes, kind: EntryKind = EntryKind.FILE, size: int = 10) -> FileEntry:
    return FileEntry(name, kind, size, 1_700_000_000_000_000_001, -5, 2**63 + 7, 2049, 0o100644, 0, 4_000_000_000, 1, 0)


def folder(path: bytes, *names: bytes, complete: bool = True) -> Directory:
    return Directory(path, entry(path.rpartition(b"/")[2], EntryKind.DIR), [entry(name) for name in names], complete)


names = st.binary(min_size=1, max_size=8).map(lambda raw: raw.replace(b"/", b"_"))
folders = st.lists(st.lists(names, max_size=6, unique=True).map(sorted), min_size=1, max_size=8)


@given(folders, st.data())
def test_every_entry_is_found_again_by_its_ordinal(contents: list[list[bytes]], data: st.DataObject) -> None:
    inventory = Inventory()
    expected: list[tuple[bytes, FileEntry]] = []
    for number, names in enumerate(contents):
        made = folder(b"/%d" % number, *names)
        inventory.add(made)
        expected += [(made.path, child) for child in made.children]
        assert inventory.directory(number) == made
    assert inventory.entries == len(expected)
    assert inventory.files == len(expected)
    assert inventory.bytes == 10 * len(expected)
    assert [d.path for _, d in inventory.directories()] == [b"/%d" % number for number in range(len(contents))]
    for number, (first, directory) in enumerate(inventory.directories()):
        assert inventory.first_ordinal(number) == first
        assert expected[first : first + len(directory.children)] == [(directory.path, c) for c in directory.children]

    wanted = sorted(data.draw(st.sets(st.integers(0, len(expected) - 1)) if expected else st.just(set())))
    got = [(path, number, child) for path, group in inventory.select(wanted) for number, child in group]
    assert got == [(expected[number][0], number, expected[number][1]) for number in wanted]
    assert all(group for _, group in inventory.select(wanted))


def test_only_files_count_as_files() -> None:
    inventory = Inventory()
    kinds = [entry(b"d", EntryKind.DIR), entry(b"f"), entry(b"l", EntryKind.SYMLINK), entry(b"p", EntryKind.FIFO)]
    inventory.add(Directory(b"/x", entry(b"x", EntryKind.DIR), kinds))
    assert (inventory.entries, inventory.files, inventory.bytes) == (4, 1, 10)


def test_folders_above_several_sources_become_one_that_holds_what_each_walk_found() -> None:
    def walked(*path: bytes) -> WalkedSource:
        above = [folder(b"/", path[0]), folder(b"/" + path[0], path[1], complete=path[1] != b"broken")]
        below = Inventory()
        below.add(folder(b"/" + b"/".join(path), b"file"))
        return WalkedSource(b"/" + b"/".join(path), above, below)

    joined = assemble([walked(b"home", b"b"), walked(b"etc", b"x"), walked(b"home", b"a"), walked(b"home", b"broken")])
    found = {directory.path: directory for _, directory in joined.directories()}
    assert len(joined) == len(found) == 7
    assert [child.name for child in found[b"/"].children] == [b"etc", b"home"]
    assert [child.name for child in found[b"/home"].children] == [b"a", b"b", b"broken"]
    assert not found[b"/home"].complete
    assert found[b"/etc"].complete
    order = [directory.path for _, directory in joined.directories()]
    assert all(order.index(path.rpartition(b"/")[0] or b"/") < order.index(path) for path in order if path != b"/")


def test_ordinals_of_joined_walks_stay_true() -> None:
    one, two = Inventory(), Inventory()
    one.add(folder(b"/a", b"1", b"2"))
    two.add(folder(b"/b", b"3"))
    two.add(folder(b"/b/c", b"4", b"5"))
    joined = assemble([WalkedSource(b"/a", [folder(b"/", b"a", b"b")], one), WalkedSource(b"/b", [], two)])
    found = {number: path + b"/" + child.name for path, group in joined.select(range(7)) for number, child in group}
    assert [found[number] for number in range(2, 7)] == [b"/a/1", b"/a/2", b"/b/3", b"/b/c/4", b"/b/c/5"]
    assert (joined.entries, joined.files) == (7, 7)


def test_a_hundred_thousand_entries_take_less_than_a_hundred_bytes_each() -> None:
    tracemalloc.start()
    inventory = Inventory()
    for number in range(1000):
        inventory.add(folder(b"/some/folder/%d" % number, *(b"file-%07d.txt" % n for n in range(100))))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 100 * inventory.entries

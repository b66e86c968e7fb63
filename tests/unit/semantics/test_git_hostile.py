"""Git's own files made by somebody hostile, or damaged: bounded work, a reason, and never an exception."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.discovery.entry import Directory, EntryKind, FileEntry
from backupiq.semantics import git_index
from backupiq.semantics.git import find_git
from backupiq.semantics.git_index import IndexFormatError, parse_index
from backupiq.semantics.model import GitState

HEAD_ID = b"a" * 40
WRITTEN = 2_000_000_000 * 10**9


def entry_of(name: bytes, size: int = 0, kind: EntryKind = EntryKind.FILE, mtime_ns: int = 10**18) -> FileEntry:
    mode = 0o040755 if kind is EntryKind.DIR else 0o100644
    return FileEntry(name, kind, size, mtime_ns, 0, 0, 0, mode, 0, 0, 1, 0)


@dataclass
class MadeFiles:
    """Files that exist nowhere: contents by absolute path. Reading anything else fails, and is noted."""

    contents: Mapping[bytes, bytes]
    missed: list[bytes] = field(default_factory=list)

    def directories(self) -> Iterator[Directory]:
        below: dict[bytes, dict[bytes, FileEntry]] = {b"/": {}}
        for path, data in self.contents.items():
            names = path.split(b"/")[1:]
            for depth, name in enumerate(names[:-1]):
                folder = b"/" + b"/".join(names[:depth])
                below.setdefault(folder, {})[name] = entry_of(name, kind=EntryKind.DIR)
            below.setdefault(path.rpartition(b"/")[0] or b"/", {})[names[-1]] = entry_of(names[-1], len(data))
        for folder in sorted(below, key=lambda path: path.split(b"/")):
            children = sorted(below[folder].values(), key=lambda child: child.name)
            yield Directory(folder, entry_of(folder.rpartition(b"/")[2], kind=EntryKind.DIR), children)

    def read(self, path: bytes, limit: int) -> bytes:
        if path not in self.contents:
            self.missed.append(path)
            raise FileNotFoundError(path)
        return self.contents[path][:limit]


def index_entry(name: bytes, *, size: int = 1, mode: int = 0o100644, flags: int = 0) -> bytes:
    fixed = struct.pack(">10I20sH", 0, 0, 10**9, 0, 0, 0, mode, 0, 0, size, b"i" * 20, flags | min(len(name), 0xFFF))
    return fixed + name + b"\0" * (8 - (62 + len(name)) % 8)


def short_entry(cut: int, suffix: bytes) -> bytes:
    return (
        struct.pack(">10I20sH", 0, 0, 10**9, 0, 0, 0, 0o100644, 0, 0, 1, b"i" * 20, 0) + bytes([cut]) + suffix + b"\0"
    )


def index_of(entries: list[bytes], *, version: int = 2, extensions: bytes = b"", count: int | None = None) -> bytes:
    body = struct.pack(">4sII", b"DIRC", version, len(entries) if count is None else count)
    body += b"".join(entries) + extensions
    return body + hashlib.sha1(body, usedforsecurity=False).digest()


def extension(name: bytes, data: bytes) -> bytes:
    return struct.pack(">4sI", name, len(data)) + data


def repository(files: Mapping[str, bytes]) -> MadeFiles:
    """A working copy at /r whose git folder holds these files; what is not given is as in a sound one."""
    sound = {
        "HEAD": b"ref: refs/heads/main\n",
        "refs/heads/main": HEAD_ID + b"\n",
        "index": index_of([index_entry(b"a")]),
    }
    contents = {f"/r/.git/{name}".encode(): data for name, data in (sound | dict(files)).items()}
    return MadeFiles(contents | {b"/r/a": b"1", b"/r/b": b"2", b"/r/deep/er/c": b"3"})


def ask_everything(files: MadeFiles) -> set[GitState]:
    """Every question there is, about every file there is."""
    found = find_git(files)
    answers = set()
    for folder in files.directories():
        found.tracks(folder.path)
        for entry in folder.children:
            path = folder.path.rstrip(b"/") + b"/" + entry.name
            answers.add(found.state(path, entry))
            assert isinstance(found.reason(path), str)
    return answers


def reason_of(data: bytes) -> str:
    """Why these bytes are no index; "none" when they are one."""
    try:
        parse_index(data, written_ns=0)
    except IndexFormatError as error:
        return str(error)
    return "none"


# --- the index -----------------------------------------------------------------------------------------------------


@given(st.binary(max_size=400))
def test_any_bytes_are_an_index_or_a_reason(data: bytes) -> None:
    for start in (b"", b"DIRC\0\0\0\x02\0\0\0\x02", b"DIRC\0\0\0\x04\0\0\0\x03"):
        body = start + data
        for whole in (body, body + hashlib.sha1(body, usedforsecurity=False).digest(), body + bytes(20)):
            assert reason_of(whole).startswith(("its index", "none"))


@given(st.data())
def test_a_damaged_index_that_bears_no_checksum_is_read_or_refused(data: st.DataObject) -> None:
    tree = b"\0" + b"3 1\n" + b"t" * 20 + b"d\0-1 0\n"
    version = data.draw(st.sampled_from([2, 3, 4]))
    names = [b"a", b"d/b", b"d/\xff", b"e" * 30]
    entries = [short_entry(0, b"x" + name) for name in names] if version == 4 else [index_entry(name) for name in names]
    body = bytearray(index_of(entries, version=version, extensions=extension(b"TREE", tree))[:-20] + bytes(20))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(8, len(body) - 21))] = data.draw(st.integers(0, 255))
    try:
        found = parse_index(bytes(body), written_ns=WRITTEN)
    except IndexFormatError:
        return
    for folder in (*found.folders, b"d", b"d/e/f", b""):
        assert found.tracks(folder) in (True, False)
        assert found.may_wait(folder) in (True, False)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: index_of([], count=1_000_001), "more than"),
        (lambda: index_of([index_entry(b"a")], count=2), "damaged"),
        (lambda: index_of([index_entry(b"n" * 5000)]), "damaged"),
        (lambda: index_of([short_entry(1, b"a")], version=4), "damaged"),
        (lambda: index_of([short_entry(0, b"n" * 4000), short_entry(0, b"n" * 200)], version=4), "damaged"),
        (lambda: index_of([index_entry(b"a")], extensions=extension(b"link", b"x" * 20)), "split"),
        (lambda: index_of([index_entry(b"a")], extensions=extension(b"oops", b"")), "not known"),
        (lambda: index_of([index_entry(b"a")], extensions=b"TREE\xff\xff\xff\xff"), "damaged"),
        (lambda: index_of([index_entry(b"a")], extensions=extension(b"TREE", b"\0" + b"9" * 100)), "damaged"),
        (lambda: index_of([index_entry(b"a")], extensions=extension(b"TREE", b"\0x y\n")), "damaged"),
    ],
)
def test_what_does_not_fit_the_format_is_refused_by_name(make: Callable[[], bytes], words: str) -> None:
    with pytest.raises(IndexFormatError, match=words):
        parse_index(make(), written_ns=WRITTEN)


def test_an_extension_that_may_be_passed_over_is(monkeypatch: pytest.MonkeyPatch) -> None:
    data = index_of([index_entry(b"d/a")], extensions=extension(b"UNTR", b"x" * 9) + extension(b"sdir", b""))
    assert list(parse_index(data, written_ns=WRITTEN).folders) == [b"d"]


def test_names_that_unpack_to_more_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 4 cuts names short: few bytes of the index may stand for very many of memory."""
    monkeypatch.setattr(git_index, "MAX_UNPACKED_BYTES", 100_000)
    long = [short_entry(0, b"d/" + b"n" * 3000)] + [short_entry(1, b"x") for _ in range(40)]
    with pytest.raises(IndexFormatError, match="unpacks"):
        parse_index(index_of(long, version=4), written_ns=WRITTEN)


def test_a_cache_tree_that_unpacks_to_more_than_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_index, "MAX_UNPACKED_BYTES", 10_000)
    deep = b"\0-1 1\n" + b"name\0-1 1\n" * 200
    with pytest.raises(IndexFormatError, match="damaged"):
        parse_index(index_of([], extensions=extension(b"TREE", deep)), written_ns=WRITTEN)


# --- everything around it ------------------------------------------------------------------------------------------

GIT_FILES = ("HEAD", "config", "packed-refs", "refs/heads/main", "refs/remotes/o/m", "commondir", "info/exclude")
NASTY = st.one_of(
    st.binary(max_size=120),
    st.sampled_from(
        [
            b"ref: refs/heads/main", b"ref: refs/../../../etc/passwd", b"ref: refs/heads/\0", b"../..", b"/", b"\0",
            b'[branch "main"]\nremote=o\nmerge=refs/heads/m\n[remote "o"]\nfetch=+refs/heads/*:refs/remotes/o/*\n',
            b'[branch "main"]\nremote=o\nmerge=refs/m\n[remote "o"]\nfetch=*:*\nfetch=:\nfetch=refs/*/x*:refs/*\n',
            b"[", b'["]', b'[a "\\', b"[core]\nbare\n", b"=x", b"\\\n" * 50, b"[a]" * 40,
            HEAD_ID + b" refs/heads/main\n", HEAD_ID, b" refs/heads/main\n", b"**/" * 300, b"[a-", b"!\n/\n//\n\\",
        ]
    ),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(GIT_FILES), NASTY))
def test_nothing_in_gits_files_makes_a_question_fail(damage: dict[str, bytes]) -> None:
    ask_everything(repository(damage))


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=200))
def test_nothing_in_a_loose_object_or_an_ignore_file_makes_a_question_fail(
    commit: bytes, tree: bytes, ignores: bytes
) -> None:
    tree_id = "bb" + "c" * 38
    body = b"commit %d\0tree %s\n" % (len(tree_id) + 6, tree_id.encode())
    objects = {
        f"objects/aa/{'a' * 38}": zlib.compress(body) if len(commit) % 2 else zlib.compress(commit),
        f"objects/{tree_id[:2]}/{tree_id[2:]}": zlib.compress(b"tree %d\0" % len(tree) + tree) + commit,
    }
    files = repository(objects)
    ask_everything(MadeFiles({**files.contents, b"/r/.gitignore": ignores}))


def test_a_ref_never_leads_out_of_gits_folder() -> None:
    for name in (b"refs/../../../secret", b"/secret", b"refs//../x", b"refs/heads/../../../secret", b"../secret"):
        files = repository({"HEAD": b"ref: " + name + b"\n", "packed-refs": b""})
        ask_everything(files)
        assert not [path for path in files.missed if b"secret" in path or b".." in path]


def test_refs_that_lead_to_each_other_end() -> None:
    files = repository({"refs/heads/main": b"ref: refs/heads/b\n", "refs/heads/b": b"ref: refs/heads/main\n"})
    assert GitState.MODIFIED in ask_everything(files)  # no commit is known, so what is tracked is not committed


def test_an_object_that_unpacks_without_end_is_cut_off() -> None:
    bomb = zlib.compress(b"commit 9\0tree " + b"0" * (64 << 20), 9)
    files = repository({f"objects/aa/{'a' * 38}": bomb})
    assert GitState.MODIFIED in ask_everything(files)


def test_a_git_file_may_not_name_a_folder_that_is_not_part_of_the_tree() -> None:
    files = MadeFiles({b"/r/.git": b"gitdir: /elsewhere/.git\n", b"/r/a": b"1"})
    found = find_git(files)
    assert found.state(b"/r/a", entry_of(b"a")) is GitState.NONE
    assert "leads to no repository" in found.reason(b"/r/a")
    assert not [path for path in files.missed if path.startswith(b"/elsewhere")]


def test_more_ignore_patterns_than_are_taken_are_left_out() -> None:
    lines = b"".join(b"x%d\n" % number for number in range(3000))
    files = repository({"info/exclude": b"b\n"})
    found = find_git(MadeFiles({**files.contents, b"/r/deep/.gitignore": lines + b"er\n"}))
    assert found.state(b"/r/b", entry_of(b"b")) is GitState.NONE
    assert found.state(b"/r/deep/er/c", entry_of(b"c")) is GitState.UNTRACKED


def test_a_very_deep_tree_costs_a_step_for_each_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of one chain are entered one after the other; what was found for the one above is remembered."""
    names = [b"d"] * 1500
    path = b"/r/" + b"/".join(names)
    files = repository({})
    found = find_git(files)
    steps = 0
    real = found._is_internal

    def count(folder: bytes) -> bool:
        nonlocal steps
        steps += 1
        return real(folder)

    monkeypatch.setattr(found, "_is_internal", count)
    for end in range(4, len(path), 2):
        assert found.state(path[:end] + b"/f", entry_of(b"f")) is GitState.UNTRACKED
    assert steps < 3 * len(names)

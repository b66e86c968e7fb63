"""Snapshots: byte-exact, and which one a person or a backup means."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import AmbiguousSnapshotError, SnapshotDamagedError, SnapshotNotFoundError
from backupiq.repository.snapshot import (
    Snapshot,
    Summary,
    decode_snapshot,
    encode_snapshot,
    find_parent,
    resolve_snapshot,
)

TREE = "ab" * 32
TIME = "2023-11-14T22:13:20Z"


def snapshot(time: str = TIME, **fields: Any) -> Snapshot:
    return Snapshot(**{"time": time, "tree": TREE, "paths": ["/home"], "hostname": "host", **fields})


def encoded(**fields: Any) -> bytes:
    return json.dumps({"time": TIME, "tree": TREE, "paths": ["/a"], **fields}).encode()


def test_every_field_is_written_in_restics_order() -> None:
    full = snapshot(
        "2023-11-14T22:13:20.5+05:45",
        parent="cd" * 32,
        paths=["/<home>"],
        username="ada",
        uid=1000,
        gid=100,
        excludes=["*.tmp"],
        tags=["a & b"],
        original="ef" * 32,
        program_version="restic 0.19.1",
        summary=Summary(backup_start=TIME, backup_end=TIME, files_new=1, total_bytes_processed=2**40),
    )
    assert encode_snapshot(full).decode() == (
        f'{{"time":"2023-11-14T22:13:20.5+05:45","parent":"{"cd" * 32}","tree":"{TREE}",'
        '"paths":["/\\u003chome\\u003e"],"hostname":"host","username":"ada","uid":1000,"gid":100,"excludes":["*.tmp"],'
        f'"tags":["a \\u0026 b"],"original":"{"ef" * 32}","program_version":"restic 0.19.1","summary":'
        f'{{"backup_start":"{TIME}","backup_end":"{TIME}","files_new":1,"files_changed":0,"files_unmodified":0,'
        '"dirs_new":0,"dirs_changed":0,"dirs_unmodified":0,"data_blobs":0,"tree_blobs":0,"data_added":0,'
        '"data_added_packed":0,"total_files_processed":0,"total_bytes_processed":1099511627776}}'
    )
    assert decode_snapshot(encode_snapshot(full)) == full


def test_fields_that_are_empty_are_left_out() -> None:
    assert encode_snapshot(Snapshot(time=TIME, tree=TREE, paths=[])).decode() == (
        f'{{"time":"{TIME}","tree":"{TREE}","paths":[]}}'
    )


@given(st.lists(st.text(max_size=10)), st.text(max_size=10), st.integers(0, 2**32 - 1))
def test_a_snapshot_that_was_read_encodes_to_the_same_bytes(paths: list[str], host: str, uid: int) -> None:
    data = encode_snapshot(snapshot(paths=paths, hostname=host, uid=uid, tags=paths or None))
    assert encode_snapshot(decode_snapshot(data)) == data


def test_keys_that_other_programs_add_are_ignored() -> None:
    summary = {"backup_start": TIME, "backup_end": TIME, "command": "x", "files_new": 3}
    found = decode_snapshot(encoded(label="", delete="NotSet", summary=summary))
    assert found.summary is not None
    assert found.summary.files_new == 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        encoded(time="yesterday"),
        encoded(time="2023-02-30T00:00:00Z"),
        encoded(tree=None),
        encoded(tree="ab" * 31),
        encoded(tree="ab" * 32 + "\n"),
        encoded(tree="../" + "a" * 61),
        encoded(parent="x"),
        encoded(paths="/a"),
        encoded(paths=None),
        encoded(uid=-1),
        encoded(summary={}),
    ],
)
def test_a_damaged_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises(SnapshotDamagedError):
        decode_snapshot(data)


OLD = ("aa" * 32, snapshot("2023-01-01T00:00:00Z"))
# Later than the next one as text, earlier as a time.
EAST = ("ab" * 32, snapshot("2023-06-01T09:00:00+09:00"))
NEW = ("b0" * 32, snapshot("2023-06-01T00:00:00.000000001Z"))
ALL = [NEW, OLD, EAST]


def test_latest_is_the_newest_in_time_whatever_its_offset() -> None:
    assert resolve_snapshot(ALL, "latest") is NEW
    assert resolve_snapshot([EAST, OLD], "latest") is EAST


def test_latest_of_equal_times_does_not_depend_on_the_order() -> None:
    twin = ("ff" * 32, NEW[1])
    assert resolve_snapshot([NEW, twin], "latest") is twin
    assert resolve_snapshot([twin, NEW], "latest") is twin


@pytest.mark.parametrize("text", ["b", "B0", "b0b0b0b0", "b0" * 32])
def test_the_beginning_of_an_id_is_enough(text: str) -> None:
    assert resolve_snapshot(ALL, text) is NEW


def test_an_ambiguous_beginning_names_what_it_could_mean() -> None:
    with pytest.raises(AmbiguousSnapshotError) as caught:
        resolve_snapshot(ALL, "a")
    assert sorted(caught.value.details["matches"]) == [OLD[0], EAST[0]]


@pytest.mark.parametrize("text", ["", "c", "b0" * 33, "latest ", "Latest", "*", "../b0"])
def test_a_snapshot_that_is_not_there_is_told_so(text: str) -> None:
    with pytest.raises(SnapshotNotFoundError) as caught:
        resolve_snapshot(ALL, text)
    assert type(caught.value) is SnapshotNotFoundError


def test_an_empty_repository_has_no_latest() -> None:
    with pytest.raises(SnapshotNotFoundError, match="no snapshots yet"):
        resolve_snapshot([], "latest")


def test_the_parent_is_the_newest_of_the_host_that_holds_all_the_paths() -> None:
    other_host = ("c0" * 32, snapshot("2024-01-01T00:00:00Z", hostname="other"))
    other_path = ("c1" * 32, snapshot("2024-01-01T00:00:00Z", paths=["/home/ada"]))
    candidates = [*ALL, other_host, other_path]
    assert find_parent(candidates, "host", ["/home"]) is NEW
    assert find_parent(candidates, "other", ["/home"]) is other_host
    assert find_parent(candidates, "host", ["/home", "/etc"]) is None
    assert find_parent([], "host", ["/home"]) is None


def test_the_order_of_paths_does_not_matter_and_a_wider_snapshot_serves() -> None:
    wide = ("c2" * 32, snapshot("2024-01-01T00:00:00Z", paths=["/etc", "/home", "/srv"]))
    assert find_parent([*ALL, wide], "host", ["/home", "/etc"]) is wide
    assert find_parent([*ALL, wide], "host", ["/home"]) is wide


def test_a_parent_is_never_from_after_the_time_given() -> None:
    assert find_parent(ALL, "host", ["/home"], before_ns=EAST[1].time_ns()) is EAST
    assert find_parent(ALL, "host", ["/home"], before_ns=OLD[1].time_ns() - 1) is None

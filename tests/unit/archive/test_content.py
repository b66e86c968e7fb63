"""The content table: every file's blobs, set from many threads."""

from __future__ import annotations

import hashlib
import threading

import pytest

from backupiq.archive import content
from backupiq.archive.content import ContentState, ContentTable
from backupiq.discovery.entry import UnreadableItem
from backupiq.errors import CancelledRunError


def ids_of(number: int) -> bytes:
    return b"".join(hashlib.sha256(b"%d/%d" % (number, part)).digest() for part in range(number % 4))


def test_a_file_that_nobody_read_is_pending() -> None:
    table = ContentTable(3)
    assert [table.state(number) for number in range(3)] == [ContentState.PENDING] * 3
    assert table.hex_ids(1) == []


def test_blobs_come_back_in_order_as_hex() -> None:
    table = ContentTable(8)
    for number in (5, 2, 7, 0):
        table.set(number, ids_of(number), ContentState.STORED)
    for number in (0, 2, 5, 7):
        text = ids_of(number).hex()
        assert "".join(table.hex_ids(number)) == text
        assert len(table.hex_ids(number)) == number % 4
    assert table.state(1) is ContentState.PENDING
    table.set(1, ids_of(1), ContentState.UNCHANGED)
    assert table.state(1) is ContentState.UNCHANGED


def test_many_threads_set_their_files_without_mixing_them() -> None:
    table = ContentTable(4000)
    start = threading.Barrier(8)

    def work(first: int) -> None:
        start.wait()
        for number in range(first, 4000, 8):
            table.set(number, ids_of(number), ContentState.STORED)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("".join(table.hex_ids(number)) == ids_of(number).hex() for number in range(4000))
    assert all(table.state(number) is ContentState.STORED for number in range(4000))


def test_attributes_seen_at_reading_come_back_and_those_that_nobody_looked_for_are_unknown() -> None:
    table = ContentTable(5)
    label, note = ("security.label", b"x"), ("user.note", b"y")
    table.set_read([(0, ids_of(1), ()), (1, ids_of(2), (label, note)), (2, b"", None), (3, ids_of(3), (label, note))])
    assert [table.attributes(number) for number in range(5)] == [(), (label, note), None, (label, note), None]
    assert table.attributes(1) is table.attributes(3)  # many files share one set, which is kept once
    assert all("".join(table.hex_ids(number)) == ids_of((1, 2, 0, 3)[number]).hex() for number in range(4))
    assert [table.state(number) for number in range(5)] == [ContentState.STORED] * 4 + [ContentState.PENDING]


def test_attributes_are_kept_up_to_a_limit_and_unknown_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MOST_ATTRIBUTE_BYTES", 3 * (content.ATTRIBUTE_BYTES + 10))
    table = ContentTable(6)
    table.set_read([(number, b"", (("user.x", b"%04d" % number),)) for number in range(5)])
    table.set_read([(5, b"", (("user.x", b"0000"),))])
    known = [table.attributes(number) for number in range(6)]
    assert known == [(("user.x", b"%04d" % number),) for number in range(3)] + [None, None, (("user.x", b"0000"),)]


def test_a_file_that_is_not_waited_for_has_content_only_when_it_is_known() -> None:
    table = ContentTable(4)
    table.set(1, ids_of(1), ContentState.UNCHANGED)
    table.set_read([(2, ids_of(2), ())])
    table.fail(3, UnreadableItem(b"/x", "it vanished", "discovery.not_found"))
    assert [table.has_content(number, lambda: False, wait=False) for number in range(4)] == [False, True, True, False]
    with pytest.raises(CancelledRunError):
        table.has_content(0, lambda: True)
    table.complete()
    assert not table.has_content(0, lambda: True)


def test_a_file_that_could_not_be_read_is_named_with_its_reason() -> None:
    table = ContentTable(2)
    item = UnreadableItem(b"/x", "it vanished", "discovery.not_found")
    table.fail(1, item)
    assert table.state(1) is ContentState.FAILED
    assert table.unreadable == [item]

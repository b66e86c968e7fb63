"""The content table: every file's blobs, set from many threads."""

from __future__ import annotations

import hashlib
import threading

from backupiq.archive.content import ContentState, ContentTable
from backupiq.discovery.entry import UnreadableItem


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


def test_a_file_that_could_not_be_read_is_named_with_its_reason() -> None:
    table = ContentTable(2)
    item = UnreadableItem(b"/x", "it vanished", "discovery.not_found")
    table.fail(1, item)
    assert table.state(1) is ContentState.FAILED
    assert table.unreadable == [item]

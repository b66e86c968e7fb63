"""A run takes what the machine can spare."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from backupiq.archive.spool import DEFAULT_LIMIT
from backupiq.planning.batches import PACK, batch_size
from backupiq.planning.resources import THREAD_BYTES, Resources, look

PLENTY = Resources(spool_bytes=1 << 40, memory_bytes=1 << 36, open_files=1024, processors=8)


def test_a_thread_for_each_processor_at_least_two_and_at_most_sixteen() -> None:
    assert PLENTY.threads == 8
    assert dataclasses.replace(PLENTY, processors=1).threads == 2
    assert dataclasses.replace(PLENTY, processors=64).threads == 16


def test_little_memory_or_few_open_files_make_fewer_threads_but_never_none() -> None:
    assert dataclasses.replace(PLENTY, memory_bytes=6 * THREAD_BYTES).threads == 3
    assert dataclasses.replace(PLENTY, open_files=200).threads == 4
    assert dataclasses.replace(PLENTY, memory_bytes=0, open_files=0).threads == 1


def test_two_batches_fit_into_the_spool_and_none_is_less_than_a_pack() -> None:
    assert PLENTY.batch_bytes == DEFAULT_LIMIT // 2
    small = dataclasses.replace(PLENTY, spool_bytes=100 << 20)
    assert batch_size(1 << 50, most=small.batch_bytes) == 3 * PACK
    assert batch_size(1 << 50, most=dataclasses.replace(PLENTY, spool_bytes=0).batch_bytes) == PACK


def test_this_machine_tells_what_it_has_also_for_a_folder_that_is_made_later(tmp_path: Path) -> None:
    found = look(tmp_path / "not" / "there")
    assert found.spool_bytes > 0
    assert found.memory_bytes > 0
    assert found.open_files > 0
    assert found.processors >= 1

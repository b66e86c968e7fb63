"""Names of objects, their order, and many of them in little memory."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.replicas.objects import ORDER, PackedObjects, fill_order, kind_of
from backupiq.repository.repository import FileType, file_key

names = st.binary(min_size=32, max_size=32).map(bytes.hex)
keys = st.builds(
    file_key, st.sampled_from([FileType.KEY, FileType.CONFIG, FileType.PACK, FileType.INDEX, FileType.SNAPSHOT]), names
)
sizes = st.integers(0, 2**63)


@given(st.dictionaries(keys, sizes))
def test_packed_objects_are_the_mapping_they_were_made_from(objects: dict[str, int]) -> None:
    packed = PackedObjects(objects.items())
    assert dict(packed) == objects
    assert dict(packed.pairs()) == objects
    assert len(packed) == len(objects)


@given(st.dictionaries(keys, sizes), keys)
def test_a_key_that_is_not_packed_is_not_found(objects: dict[str, int], other: str) -> None:
    packed = PackedObjects(objects.items())
    assert (other in packed) == (other in objects)


@given(st.dictionaries(keys, sizes))
def test_packed_objects_come_in_the_order_in_which_a_replica_is_filled(objects: dict[str, int]) -> None:
    found = list(PackedObjects(objects.items()))
    assert found == sorted(found, key=fill_order)
    kinds = [ORDER.index(kind) for key in found if (kind := kind_of(key)) is not None]
    assert kinds == sorted(kinds)


@pytest.mark.parametrize(
    "key",
    [
        "locks/" + "ab" * 32,
        "data/" + "ab" * 32,
        "data/cd/" + "ab" * 32,
        "keys/" + "AB" * 32,
        "keys/" + "ab" * 31,
        "index/" + "ab" * 32 + "-tmp-0123",
        "index/x/" + "ab" * 32,
        "Config",
        "readme.txt",
        "",
        "snapshots/" + "ab" * 32 + "\n",
    ],
)
def test_what_is_no_object_of_a_repository_has_no_kind_and_no_place(key: str) -> None:
    assert kind_of(key) is None
    assert key not in PackedObjects([])
    with pytest.raises(KeyError):
        fill_order(key)


def test_a_million_objects_take_41_megabytes() -> None:
    packed = PackedObjects((f"data/{name[:2]}/{name}", 1) for name in (f"{n:064x}" for n in range(10_000)))
    assert sys.getsizeof(packed._records) < 10_000 * 42

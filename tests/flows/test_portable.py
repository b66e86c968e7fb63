"""Options survive the way through Prefect's JSON, whatever bytes are in them."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.profile import BackupOptions, RestoreOptions
from flows.portable import from_prefect, json_text, to_prefect

texts = st.one_of(
    st.binary(min_size=1, max_size=20).map(os.fsdecode),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.binary(max_size=10).map(lambda raw: "bytes:" + os.fsdecode(raw)),
)


@given(st.lists(texts, min_size=1, max_size=4), texts, st.lists(texts, max_size=3))
def test_every_option_comes_back_as_it_was(paths: list[str], to: str, patterns: list[str]) -> None:
    options = BackupOptions(paths=paths, to=[to], exclude=patterns, tags=patterns, parent=to, threads=3, force=True)
    travelling = to_prefect(options)
    stored = json.loads(json.dumps(travelling.model_dump(mode="json"), ensure_ascii=False).encode())
    assert from_prefect(BackupOptions.model_validate(stored)) == options


@given(texts, texts)
def test_every_option_of_a_restore_comes_back_as_it_was(target: str, subpath: str) -> None:
    options = RestoreOptions(repo="/vault", target=target, subpath=subpath, overwrite="never")
    travelling = to_prefect(options)
    travelling.model_dump_json().encode()
    assert from_prefect(travelling) == options


def test_ordinary_text_stays_as_it_is() -> None:
    options = BackupOptions(paths=["/home/änna/日本 50%"], to=["s3://bucket/x?endpoint=http://h"])
    assert to_prefect(options) == options


def test_a_person_may_write_bytes_percent_encoded() -> None:
    options = from_prefect(BackupOptions(paths=["bytes:/home/caf%E9"], to=["/vault"]))
    assert os.fsencode(options.paths[0]) == b"/home/caf\xe9"


@pytest.mark.parametrize(("raw", "shown"), [(b"plain", "plain"), (b"caf\xe9\xff/\xc3\xa9", "caf\ufffd\ufffd/é")])
def test_bytes_that_are_no_utf8_become_replacement_characters_as_restic_writes_them(raw: bytes, shown: str) -> None:
    assert json_text(os.fsdecode(raw)) == shown

"""The measurement of uploads: what it uploads, and how it judges."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from backupiq.archive.pack_writer import PACK_SIZE
from benchmarks import clouds
from benchmarks.clouds import OURS, RUN, THEIRS, Sent, arguments, judge, make_packs
from benchmarks.results import write_results


def sent(program: str, seconds: float, peak_bytes: int = 100_000_000, number: int = 1) -> Sent:
    return Sent(program, number, seconds, 1.0, peak_bytes, 1_000_000_000)


def test_packs_are_named_by_their_hash_and_make_up_the_bytes_asked_for(tmp_path: Path) -> None:
    packs = make_packs(tmp_path, PACK_SIZE + 1000)
    assert [path.stat().st_size for path in packs] == [PACK_SIZE, 1000]
    for path in packs:
        assert path.name == hashlib.sha256(path.read_bytes()).hexdigest()
        assert path.relative_to(tmp_path).parts == ("data", path.name[:2], path.name)


@pytest.mark.parametrize(("ours", "met"), [(10.0, True), (11.7, True), (11.8, False)])
def test_throughput_is_judged_by_medians_against_rclone(ours: float, met: bool) -> None:
    others = [sent(THEIRS, seconds) for seconds in (9.0, 10.0, 99.0)]
    verdict = judge([sent(OURS, 1.0), sent(OURS, ours), sent(OURS, 99.0), *others])[0]
    assert verdict.met is met


def test_memory_is_judged_by_the_worst_of_each_of_our_programs_and_not_by_rclones() -> None:
    measured = [sent(OURS, 1.0, 300_000_000), sent(OURS, 1.0, 401_000_000), sent(RUN, 9.0, 399_000_000)]
    verdicts = judge([*measured, sent(THEIRS, 1.0, 900_000_000)])[1:]
    assert [(OURS in verdict.what, RUN in verdict.what, verdict.met) for verdict in verdicts] == [
        (True, False, False),
        (False, True, True),
    ]


def test_both_replicas_together_count_for_the_rate() -> None:
    assert sent(OURS, 4.0).rate == 500_000_000


@pytest.mark.parametrize("given", [["--bytes", "0"], ["--rounds", "0"]])
def test_nothing_cannot_be_measured(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(given)
    assert "at least 1" in capsys.readouterr().err


def test_figures_are_kept_with_the_machine_they_belong_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.results.RESULTS", tmp_path)
    measured = [sent(OURS, 1.0), sent(THEIRS, 1.0)]
    text = write_results("clouds-", measured, judge(measured), packs={"files": 1, "bytes": 2}).read_text()
    assert all(word in text for word in ('"cores"', '"packs"', '"budgets"', f'"{clouds.THEIRS}"'))

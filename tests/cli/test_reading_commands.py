"""snapshots, ls, diff and stats on a repository that the real restic made, against what restic itself says of it."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import AWKWARD, PASSWORD, Sample
from tests.support.programs import BackupIQ, Restic

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_snapshots_are_listed_with_host_tags_and_paths(reading: Run, sample: Sample) -> None:
    lines = reading("snapshots").stdout.splitlines()
    assert lines[0].split() == ["ID", "Time", "Host", "Tags", "Paths", "Files", "Size"]
    assert lines[1].split()[0] == sample.first[:8]
    assert lines[2].split()[0] == sample.second[:8]
    assert lines[2].split()[3:6] == ["machine", "tag-one,tag-two", str(sample.source)]
    assert lines[3] == "2 snapshots"


def test_snapshots_as_json_are_what_restic_gives(reading: Run, restic_old: Restic, sample: Sample) -> None:
    theirs = restic_old.json("snapshots", repo=sample.repo, password=PASSWORD)
    ours = json.loads(reading("snapshots", "--json").stdout)
    assert [{key: one[key] for key in other} for one, other in zip(ours, theirs, strict=True)] == theirs


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (["--host", "machine"], 2),
        (["--host", "other"], 0),
        (["--host", "other", "-H", "machine"], 2),
        (["--tag", "tag-two"], 1),
        (["--tag", "tag-one,tag-two"], 1),
        (["--tag", "nothing", "--tag", "tag-one"], 2),
        (["--path", "/nowhere"], 0),
        (["--path", "SOURCE"], 2),
        (["--latest", "1"], 1),
    ],
)
def test_snapshots_are_filtered(reading: Run, sample: Sample, filters: list[str], count: int) -> None:
    arguments = [str(sample.source) if text == "SOURCE" else text for text in filters]
    found = json.loads(reading("snapshots", "--json", *arguments).stdout)
    assert len(found) == count
    if filters[0] == "--latest":
        assert found[0]["id"] == sample.second


def test_a_damaged_snapshot_is_named_and_the_others_are_listed(program: BackupIQ, own_sample: Sample) -> None:
    damaged = own_sample.repo / "snapshots" / own_sample.first
    damaged.chmod(0o600)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = program.run("snapshots", "--repo", own_sample.repo, "--json", password=PASSWORD, check=False)
    assert [one["id"] for one in json.loads(done.stdout)] == [own_sample.second]
    assert own_sample.first[:8] in done.stderr
    assert done.returncode == 1


def test_ls_lists_everything_that_restic_lists(reading: Run, restic_old: Restic, sample: Sample) -> None:
    theirs = restic_old.json("ls", "latest", repo=sample.repo, password=PASSWORD)[1:]
    ours = [json.loads(line) for line in reading("ls", "latest", "--json").stdout.splitlines()]
    assert ours[0]["struct_type"] == "snapshot"
    assert ours[0]["id"] == sample.second
    assert [one["path"] for one in ours[1:]] == [one["path"] for one in theirs]
    for one, other in zip(ours[1:], theirs, strict=True):
        for key in ("type", "uid", "gid", "size", "mode", "mtime", "struct_type"):
            assert one.get(key) == other.get(key), (key, one)


def test_ls_shows_the_long_format(reading: Run, sample: Sample) -> None:
    lines = reading("ls", "latest").stdout.splitlines()
    by_path = {line.split(None, 6)[6]: line for line in lines if " -> " not in line and "line" not in line}
    mode = by_path[sample.within("mode")]
    assert mode.startswith("-rwsr-sr-x ")
    status = os.stat(sample.within("mode"))
    assert mode.split()[3] == "4"
    assert mode.split()[0] == stat.filemode(status.st_mode)
    assert any(line.endswith(f"{sample.within('link')} -> elsewhere") for line in lines)


def test_ls_never_shows_a_name_raw(reading: Run, sample: Sample) -> None:
    done = reading("ls", "latest")
    assert "\x1b" not in done.stdout
    assert sample.within("line\\nbreak \\x1b[31m \\\\ \\xff") in done.stdout
    lines = [json.loads(line) for line in reading("ls", "latest", "--json").stdout.splitlines()]
    exact = [base64.b64decode(one["path_base64"]) for one in lines if "path_base64" in one]
    assert exact == [os.fsencode(sample.source) + b"/" + AWKWARD]


def test_ls_of_a_path_lists_it_and_what_is_below(reading: Run, sample: Sample) -> None:
    def paths(*arguments: str) -> list[str]:
        done = reading("ls", "--json", *arguments)
        return [json.loads(line)["path"] for line in done.stdout.splitlines()[1:]]

    kept, deep, same = (sample.within(*parts) for parts in (["kept"], ["kept", "deep"], ["kept", "deep", "same"]))
    assert paths("latest", kept) == [kept, deep, same]
    assert paths(f"latest:{kept}") == [kept, deep, same]
    assert paths("latest", kept, "--no-recursive") == [kept, deep]
    assert paths(sample.first[:6], same) == [same]


@pytest.mark.parametrize("path", ["/nowhere", "kept/deep/same/below", "kept/../changed"])
def test_ls_of_a_path_that_is_not_there_fails_in_one_line(reading: Run, sample: Sample, path: str) -> None:
    done = reading("ls", "latest", sample.within(path.lstrip("/")), check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("backupiq: The snapshot holds no ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["ffffffff", "zz", "nothing", "-"])
def test_a_snapshot_that_is_not_there_fails_in_one_line(reading: Run, name: str) -> None:
    done = reading("ls", name, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "backupiq snapshots" in done.stderr


def test_diff_finds_what_restic_finds(reading: Run, restic_old: Restic, sample: Sample) -> None:
    arguments = ("diff", "--metadata", sample.first, sample.second)
    theirs = restic_old.json(*arguments, repo=sample.repo, password=PASSWORD)
    ours = [json.loads(line) for line in reading("diff", sample.first, sample.second, "--json").stdout.splitlines()]
    inside = sample.within("")
    changes = {one["path"]: one["modifier"] for one in ours[:-1] if one["path"].startswith(inside)}
    # Above the folder restic finds what is never restored, such as times of inode changes.
    expected = {one["path"]: one["modifier"][0] for one in theirs if one.get("path", "").startswith(inside)}
    expected[sample.within("link")] = "M"  # restic calls a link's new target metadata
    expected[sample.within("becomes-folder", "inside")] = "+"  # and does not look into what became a folder
    assert changes == expected


def test_diff_counts_every_kind_of_change(reading: Run, sample: Sample) -> None:
    done = reading("diff", sample.first, sample.second, "--json")
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["message_type"] == "statistics"
    assert summary["added"] == {"items": 2, "bytes": 123 + len("inside")}
    assert summary["removed"] == {"items": 1, "bytes": 5000}
    assert summary["modified"] == {"items": 2, "bytes": len("after, and longer")}
    assert summary["type"]["items"] == 1
    assert summary["metadata"]["items"] >= 2
    text = reading("diff", sample.first, sample.second).stdout
    assert f"+    {sample.within('added')}\n" in text
    assert f"T    {sample.within('becomes-folder')}/\n" in text
    assert f"+    {sample.within('becomes-folder', 'inside')}\n" in text
    assert f"U    {sample.within('mode')}\n" in text


def test_diff_of_a_snapshot_with_itself_is_empty(reading: Run, sample: Sample) -> None:
    lines = reading("diff", sample.first, sample.first[:8], "--json").stdout.splitlines()
    assert len(lines) == 1
    assert all(
        counts == {"items": 0, "bytes": 0} for counts in json.loads(lines[0]).values() if isinstance(counts, dict)
    )


def test_diff_compares_two_folders(reading: Run, sample: Sample) -> None:
    kept = sample.within("kept")
    lines = reading("diff", f"{sample.first}:{kept}", f"{sample.second}:{kept}", "--json").stdout.splitlines()
    assert len(lines) == 1
    done = reading("diff", f"latest:{sample.within('changed')}", "latest", check=False)
    assert done.returncode == 1
    assert "no folder" in done.stderr


def test_stats_agree_with_restic(reading: Run, restic_old: Restic, sample: Sample) -> None:
    def theirs(*arguments: str) -> Any:
        return restic_old.json("stats", *arguments, repo=sample.repo, password=PASSWORD)

    for snapshot in ((), (sample.first,), (sample.second,)):
        ours = json.loads(reading("stats", *snapshot, "--json").stdout)
        if snapshot:
            assert ours["restore_bytes"] == theirs(*snapshot)["total_size"]
        assert ours["stored_bytes"] == theirs(*snapshot, "--mode", "raw-data")["total_size"]
        blobs = theirs(*snapshot, "--mode", "raw-data")["total_blob_count"]
        assert ours["data_blobs"] + ours["tree_blobs"] == blobs


def test_stats_of_everything_add_up(reading: Run, sample: Sample) -> None:
    one, other, both = (
        json.loads(reading("stats", *which, "--json").stdout) for which in ((sample.first,), (sample.second,), ())
    )
    assert both["snapshots"] == 2
    for key in ("files", "dirs", "others", "restore_bytes"):
        assert both[key] == one[key] + other[key]
    on_disk = [path.stat().st_size for path in (sample.repo / "data").rglob("*") if path.is_file()]
    assert (both["packs"], both["pack_bytes"]) == (len(on_disk), sum(on_disk))
    assert both["deduplication_ratio"] > one["deduplication_ratio"] > 1
    assert both["compression_ratio"] > 1
    text = reading("stats").stdout
    assert "deduplication:" in text
    assert f"packs:              {len(on_disk)}, " in text


def test_a_missing_blob_is_named_by_stats(program: BackupIQ, own_sample: Sample) -> None:
    for index in (own_sample.repo / "index").iterdir():
        index.unlink()
    done = program.run("stats", "--repo", own_sample.repo, password=PASSWORD, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "index" in done.stderr


@pytest.mark.parametrize(
    "command", [["--help"], ["snapshots"], ["ls", "latest"], ["diff", "latest", "latest"], ["stats"], ["key", "list"]]
)
def test_listing_commands_load_neither_prefect_nor_a_database(
    sample: Sample, tmp_path: Path, command: list[str]
) -> None:
    access = [] if command == ["--help"] else ["--repo", str(sample.repo), "--password-file", str(sample.password_file)]
    code = (
        "import sys; from backupiq.cli.main import run; code = run(sys.argv[1:]); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command, *access],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stderr.split())
    assert not loaded & {"prefect", "sqlalchemy", "fastapi", "flows", "blocks"}
    if command == ["--help"]:
        assert not loaded & {"cryptography", "pydantic", "rich", "asyncio", "structlog", "msgspec"}


def test_a_reader_of_the_output_may_leave(program: BackupIQ, sample: Sample) -> None:
    arguments = ["ls", "latest", "--repo", str(sample.repo), "--password-file", str(sample.password_file)]
    with subprocess.Popen(
        [str(program.program), *arguments],
        env=program.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        shown = process.stderr.read()
    assert process.returncode == 141
    assert shown == ""


def test_reading_takes_a_lock_and_gives_it_back(program: BackupIQ, own_sample: Sample) -> None:
    program.run("snapshots", "--repo", own_sample.repo, password=PASSWORD)
    assert list((own_sample.repo / "locks").iterdir()) == []


@pytest.mark.root
def test_a_read_only_repository_is_read_without_a_lock(program: BackupIQ, own_sample: Sample, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    bound = subprocess.run(["mount", "--bind", own_sample.repo, mounted], capture_output=True, check=False)
    if bound.returncode != 0:
        pytest.skip("bind mounts are not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", mounted], check=True)
        listed = program.run("snapshots", "--repo", mounted, password=PASSWORD)
        assert "2 snapshots" in listed.stdout
        assert "read without a lock" in listed.stderr
        assert len(program.json("snapshots", "--no-lock", "--repo", mounted, password=PASSWORD)) == 2
    finally:
        subprocess.run(["umount", "-l", mounted], check=True)

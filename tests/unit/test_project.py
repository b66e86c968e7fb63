"""The project as a whole: what lies at its top, what its files may not say, and what its tests stand on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from benchmarks.contest import JOBS, Result, WrongResultError, last_report, restic_contender, run_round
from benchmarks.measure import measure
from benchmarks.report import judge
from tests.support.mixed_tree import make_mixed_tree
from tests.support.prefect_server import (
    PrefectServer,
    acquire_shared_server,
    release_shared_server,
)
from tests.support.programs import (
    ROOT,
    BackupIQ,
    Restic,
    parse_json,
    run_program,
    without_addresses,
)

NEEDED = {
    ".ci",
    ".gitignore",
    "Makefile",
    "README.md",
    "backupiq",
    "benchmarks",
    "blocks",
    "constraints.txt",
    "docs",
    "flows",
    "pyproject.toml",
    "tests",
}
ALLOWED = {"LICENSE", "deployments", "prefect.yaml", ".dockerignore"}

REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("proxy", "golang", "org"),
        ("sum", "golang", "org"),
        ("registry", "npmjs", "org"),
        ("crates", "io"),
        ("rubygems", "org"),
        ("deb", "debian", "org"),
        ("security", "debian", "org"),
        ("archive", "ubuntu", "com"),
        ("anaconda", "org"),
        ("repo", "maven", "apache", "org"),
        ("docker", "io"),
        ("ghcr", "io"),
    )
]


def project_files() -> list[str]:
    """The files that belong to the project: those git tracks or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"git does not know this folder as a checkout: {error}")
    return sorted(name for name in set(listed) if name and (ROOT / name).is_file())


def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as handle:
        loaded: dict[str, Any] = tomllib.load(handle)["project"]
    return loaded


def requirements() -> list[Requirement]:
    table = project()
    groups = [table["dependencies"], *table["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def pins() -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def test_the_top_level_holds_exactly_the_agreed_names() -> None:
    found = {name.partition("/")[0] for name in project_files()}
    assert found >= NEEDED, f"missing: {sorted(NEEDED - found)}"
    assert found <= NEEDED | ALLOWED, f"not agreed: {sorted(found - NEEDED - ALLOWED)}"


def test_no_file_names_the_host_of_a_package_registry() -> None:
    named = re.compile("|".join(rf"(?<![\w.-]){re.escape(host)}\b" for host in REGISTRIES) + r"|files\.pythonhosted")
    offenders = []
    for name in project_files():
        text = (ROOT / name).read_bytes().decode("utf-8", "replace")
        offenders += [f"{name}: {match.group()}" for match in named.finditer(text)]
    assert offenders == []


def test_every_dependency_has_a_pin_that_satisfies_it() -> None:
    pinned = pins()
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        if name == "backupiq":  # extras that consist of others
            continue
        assert name in pinned, f"{name} has no pin in constraints.txt"
        assert requirement.specifier.contains(Version(pinned[name])), f"{requirement} against {pinned[name]}"


def test_constraints_are_exact_versions_without_addresses() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        bare = line.partition("#")[0].strip()
        if bare:
            assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9A-Za-z.!+]+", bare), line
        assert "://" not in line


@pytest.mark.parametrize("program", ["run", "venv"])
def test_the_programs_of_ci_are_executable_and_parse(program: str) -> None:
    path = ROOT / ".ci" / program
    assert os.access(path, os.X_OK)
    shell = "bash" if program == "run" else "sh"
    subprocess.run([shell, "-n", str(path)], check=True)


@pytest.mark.parametrize("given", [[], ["FROM=/somewhere"], ["TO=/somewhere"]])
def test_make_backup_without_its_arguments_says_so_in_one_line(given: list[str]) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("FROM", "TO", "MAKEFLAGS", "MAKELEVEL")}
    done = run_program(["make", "--no-print-directory", "-C", str(ROOT), "backup", *given], env=env, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "make backup FROM=/folder TO=/destination" in done.stderr


def test_make_backup_hands_awkward_names_to_the_program_as_they_stand(tmp_path: Path) -> None:
    source, target = '/a  b/it\'s "$x"`touch ran`\\', "$(touch ran)-%s;&*"
    shown = tmp_path / "shown"
    bin_folder = tmp_path / "venv" / "bin"
    bin_folder.mkdir(parents=True)
    script = bin_folder / "backupiq"
    script.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" > '{shown}'\n")
    script.chmod(0o755)
    (tmp_path / "venv" / ".installed").touch()
    command = ["make", "-C", str(ROOT), "backup", f"VENV={tmp_path / 'venv'}", f"FROM={source}", f"TO={target}"]
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    run_program(command, env=env)
    assert shown.read_text().split("\0")[:-1] == ["backup", "--to", target, "--", source]
    assert not (ROOT / "ran").exists()


def test_addresses_and_credentials_of_download_tools_are_not_shown() -> None:
    said = "Could not fetch https://user:secret@mirror.example/simple/x/: HTTPSConnectionPool(host='mirror.example')"
    shown = without_addresses(said)
    assert "mirror.example" not in shown
    assert "secret" not in shown
    assert without_addresses("go: no such module") == "go: no such module"


def test_both_versions_of_restic_run_and_differ(restic_old: Restic, restic_new: Restic) -> None:
    assert Version(restic_new.version) == Version("0.19.1")
    assert Version(restic_old.version) < Version(restic_new.version)


def test_restic_keeps_to_its_own_home(restic: Restic, tmp_path: Path, repo_password: str) -> None:
    repo = tmp_path / "repo"
    restic.run("init", repo=repo, password=repo_password)
    assert not restic.json("snapshots", repo=repo, password=repo_password)
    with pytest.raises(AssertionError, match="wrong password"):
        restic.run("snapshots", repo=repo, password="another")
    assert (restic.home / "cache").is_dir()


def test_all_processes_of_a_session_share_one_prefect_server(prefect_server: PrefectServer) -> None:
    folder = Path(prefect_server.log).parent
    assert acquire_shared_server(folder) == prefect_server
    release_shared_server(folder)
    assert prefect_server.is_ready()


def test_the_last_holder_stops_the_server(tmp_path: Path) -> None:
    server = acquire_shared_server(tmp_path)
    assert server.is_ready()
    release_shared_server(tmp_path)
    assert not server.is_ready()
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_a_program_under_test_sees_no_setting_of_ours(
    backupiq_alone: BackupIQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESTIC_PASSWORD", "ours")
    monkeypatch.setenv("PREFECT_API_URL", "ours")
    monkeypatch.setenv("BACKUPIQ_REPOSITORY", "ours")
    assert "ours" not in backupiq_alone.environment().values()
    assert "BACKUPIQ_PASSWORD" not in backupiq_alone.environment(password=None)
    assert "HOME" not in backupiq_alone.environment(env={"HOME": None})


@pytest.mark.root
def test_a_small_file_system_has_the_size_asked_for(tmpfs: Callable[[int], Path]) -> None:
    folder = tmpfs(1 << 20)
    counts = os.statvfs(folder)
    assert counts.f_blocks * counts.f_frsize == 1 << 20
    with pytest.raises(OSError, match="No space left"):
        (folder / "too-large").write_bytes(bytes(2 << 20))


def test_json_is_one_value_or_one_a_line() -> None:
    assert parse_json('[{"a": 1}]\n') == [{"a": 1}]
    assert parse_json('{"a": 1}\n{"a": 2}\n') == [{"a": 1}, {"a": 2}]


# --- the benchmark harness -----------------------------------------------------------------------------------------


def test_a_measurement_counts_the_memory_of_child_processes() -> None:
    hold = "held = bytearray(b'x') * 60_000_000; import time; time.sleep(0.3)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}], check=True); print('done')"
    measured = measure([sys.executable, "-c", parent], env=dict(os.environ))
    assert measured.stdout == "done\n"
    assert measured.peak_bytes > 60_000_000


def test_a_measurement_of_a_program_that_fails_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no luck"):
        measure([sys.executable, "-c", "import sys; sys.exit('no luck')"], env=dict(os.environ))


def test_a_round_measures_every_job_and_notices_a_wrong_restore(restic_old: Restic, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    make_mixed_tree(tree, files=20, total_bytes=100_000)
    contender = restic_contender(restic_old)
    results = run_round(contender, tree, tmp_path, 1)
    assert [result.job for result in results] == list(JOBS)
    assert all(result.seconds > 0 and result.repository_bytes > 0 for result in results)

    restore = contender.commands["restore"]
    left_out = next(str(path) for path in sorted(tree.rglob("*")) if path.is_file())
    contender.commands["restore"] = lambda tree, repo, target: [*restore(tree, repo, target), "--exclude", left_out]
    with pytest.raises(WrongResultError, match="restored another tree"):
        run_round(contender, tree, tmp_path, 2)


def test_budgets_are_judged_by_medians_and_prefects_start_is_apart() -> None:
    def results(program: str, seconds: list[float], prefect: float, size: int) -> list[Result]:
        return [
            Result(program, job, number, taken, taken, prefect, 100_000_000, size)
            for job in JOBS
            for number, taken in enumerate(seconds)
        ]

    found = results("ours", [4.0, 4.0, 90.0], 0.8, 900) + results("theirs", [4.5, 1.0, 4.5], 0.0, 1000)
    verdicts = {verdict.what: verdict for verdict in judge(found, "ours", "theirs", files=1000)}
    assert [verdict.met for verdict in verdicts.values()] == [False, True, True, True, True, True]
    assert verdicts["first backup"].found == "1.41 (with Prefect's start 1.12)"
    assert verdicts["unchanged backup"].found == "1.41 (with Prefect's start 1.12)"


def test_the_last_line_of_a_json_output_is_its_report() -> None:
    assert last_report('{"seconds_prefect": 1.5}\n') == {"seconds_prefect": 1.5}
    assert last_report('{"stage": "x"}\n{"seconds_prefect": 2}\n') == {"seconds_prefect": 2}

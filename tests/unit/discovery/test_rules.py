"""Exclude rules: gitignore patterns, pattern files in folders, caches, sizes, special files."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backupiq.discovery.filter import CACHE_SIGNATURE, MAX_PATTERNS_IN_FORCE, read_start
from backupiq.discovery.gitignore import PatternError, parse_pattern
from backupiq.discovery.rules import ExcludeRules, PatternLine, read_pattern_file
from backupiq.discovery.walk import walk
from backupiq.errors import ConfigurationError
from tests.unit.discovery.conftest import as_ordinary_user, make

TREE = (
    "a.txt",
    "b.c",
    "build/a.o",
    "build/keep.o",
    "src/build/a.o",
    "src/a.txt",
    "src/deep/er/b.txt",
    "src/x y",
    "docs/",
)


@pytest.mark.parametrize(
    ("patterns", "left_out"),
    [
        (["*.txt"], {"a.txt", "src/a.txt", "src/deep/er/b.txt"}),
        (["/*.txt"], {"a.txt"}),
        (["*.txt", "!src/a.txt"], {"a.txt", "src/deep/er/b.txt"}),
        (["!a.txt", "*.txt"], {"a.txt", "src/a.txt", "src/deep/er/b.txt"}),
        (["build"], {"build", "build/a.o", "build/keep.o", "src/build", "src/build/a.o"}),
        (["build/"], {"build", "build/a.o", "build/keep.o", "src/build", "src/build/a.o"}),
        (["/build/"], {"build", "build/a.o", "build/keep.o"}),
        (["a.txt/"], set()),
        (["build/*.o", "!keep.o"], {"build/a.o"}),
        (["build/", "!keep.o"], {"build", "build/a.o", "build/keep.o", "src/build", "src/build/a.o"}),
        (["src/**/*.txt"], {"src/a.txt", "src/deep/er/b.txt"}),
        (["**/er"], {"src/deep/er", "src/deep/er/b.txt"}),
        (
            ["src/**"],
            {"src/build", "src/build/a.o", "src/a.txt", "src/deep", "src/deep/er", "src/deep/er/b.txt", "src/x y"},
        ),
        (["src/deep/er/b.txt"], {"src/deep/er/b.txt"}),
        (["deep/er"], set()),
        (["x\\ y"], {"src/x y"}),
        (["x y   "], {"src/x y"}),
        (["?.[ch]"], {"b.c"}),
        (["[!a].*"], {"b.c", "src/deep/er/b.txt"}),
        (["[[:lower:]].c"], {"b.c"}),
        (["# comment", "", "/", "   "], set()),
        (["src/*/er/", "doc*"], {"src/deep/er", "src/deep/er/b.txt", "docs"}),
    ],
)
def test_patterns_mean_what_git_says_they_mean(tmp_path, run_walk, patterns, left_out):
    make(tmp_path, *TREE)
    everything = run_walk(tmp_path).names
    assert everything - run_walk(tmp_path, rules=ExcludeRules(patterns=tuple(patterns))).names == left_out
    (tmp_path / ".backupignore").write_text("\n".join(patterns))
    assert everything - run_walk(tmp_path).names == left_out


ATOMS = ["a", "b", "foo", "*", "**", "?", "*.txt", "[ab]", "[!a]", "f*o", "a*", "*b*", "*o*.t?t", "\\[z\\]", "\\a"]
ATOMS += ["[[:alpha:]]", "[[:upper:]b]", "a b", "[a-z]*", "??", "f**o", "bar.[ch]", "[\\]]", "[]a]", "***"]
LINES = st.builds(
    lambda negated, anchored, parts, folder: "!" * negated + "/" * anchored + "/".join(parts) + "/" * folder,
    st.booleans(),
    st.booleans(),
    st.lists(st.sampled_from(ATOMS), min_size=1, max_size=3),
    st.booleans(),
)


@pytest.fixture(scope="module")
def git_tree(tmp_path_factory) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not on this machine")
    root = tmp_path_factory.mktemp("git") / "tree"
    root.mkdir()
    subprocess.run(["git", "init", "-q", root], check=True)
    for first in ("a", "b", "foo", "foo.txt", "A", "[z]"):
        for second in ("a", "ab", "foo", "bar.c", "x b"):
            make(root, *(f"{first}/{second}/{third}" for third in ("a", "b", "foo.txt", "A")))
        make(root, f"{first}/z.txt")
    make(root, "bar.c", "a b", "o.txt")
    return root


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, max_size=5), st.lists(LINES, max_size=3), st.lists(LINES, max_size=2))
def test_git_leaves_out_the_same_files(git_tree, top, nested, own):
    (git_tree / ".gitignore").write_text("\n".join(top))
    (git_tree / "a" / ".gitignore").write_text("\n".join(nested))
    command = ["git", "ls-files", "-o", "-z", "--exclude-per-directory=.gitignore", *(f"--exclude={x}" for x in own)]
    said = subprocess.run(command, cwd=git_tree, capture_output=True, check=True).stdout
    rules = ExcludeRules(patterns=(".git", *own, ".git"), ignore_file=".gitignore")
    base = os.fsencode(git_tree)
    found = {
        os.path.relpath(folder.path + b"/" + child.name, base)
        for folder in walk([git_tree], rules, on_unreadable=lambda item: pytest.fail(item.reason))
        for child in folder.children
        if folder.path.startswith(base) and not os.path.isdir(folder.path + b"/" + child.name)
    }
    assert found == set(said.split(b"\0")[:-1])


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | st.text(alphabet="*?[]!\\/-^a:", max_size=12))
def test_any_line_is_a_pattern_or_refused_as_one(line):
    try:
        pattern = parse_pattern(line, "here")
    except PatternError:
        return
    if pattern is not None:
        assert all(segment.matches(b"some name") in (True, False) for segment in pattern.segments)


def test_names_that_are_not_text_can_be_matched(tmp_path, run_walk):
    for name in (b"caf\xe9", b"caf\xe9.log", b"two\nlines", b"ends\n", b"ends", b"\xff\xfe"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"")
    rules = ExcludeRules(patterns=(os.fsdecode(b"c?f\xe9"), os.fsdecode(b"\xff*"), "two?lines", "[e]nds"))
    kept = set(run_walk(tmp_path, rules=rules).entries)
    assert kept == {b"caf\xe9.log", b"ends\n"}
    Path(tmp_path / ".backupignore").write_bytes(b"caf\xe9.*\r\n")
    assert b"caf\xe9.log" not in run_walk(tmp_path).entries


def test_a_question_mark_stands_for_one_character_not_one_byte(tmp_path, run_walk):
    make(tmp_path, "é", "a", "日本")
    assert run_walk(tmp_path, rules=ExcludeRules(patterns=("?",))).names == {"日本"}


def test_iexclude_looks_not_at_case_and_has_the_last_word(tmp_path, run_walk):
    make(tmp_path, "A.BAK", "b.bak", "Tmp/f", "TMP.txt", "keep.bak")
    rules = ExcludeRules(patterns=("!b.bak",), iexclude=("*.Bak", "!KEEP.bak", "tmp/"))
    assert run_walk(tmp_path, rules=rules).names == {"TMP.txt", "keep.bak"}


def test_nested_pattern_files_override_those_above_and_the_profile_overrides_all(tmp_path, run_walk):
    make(tmp_path, "a.log", "in/a.log", "in/b.log", "in/deeper/a.log", "in/deeper/c.tmp", "in/deeper/d.tmp")
    (tmp_path / ".backupignore").write_text("*.log\n*.tmp\n")
    (tmp_path / "in/.backupignore").write_text("!a.log\n/deeper/c.tmp\n!*.tmp")
    (tmp_path / "in/deeper/.backupignore").write_text("a.log")
    files = {"in", "in/deeper", ".backupignore", "in/.backupignore", "in/deeper/.backupignore"}
    assert run_walk(tmp_path).names - files == {"in/a.log", "in/deeper/c.tmp", "in/deeper/d.tmp"}
    rules = ExcludeRules(patterns=("d.tmp", "!b.log"))
    walked = run_walk(tmp_path, rules=rules)
    assert walked.names - files == {"in/a.log", "in/b.log", "in/deeper/c.tmp"}
    assert run_walk(tmp_path, rules=ExcludeRules(ignore_file=None)).names >= {"a.log", "in/deeper/a.log"}


def test_an_excluded_folder_is_not_entered(tmp_path, run_walk):
    make(tmp_path, "skip/closed/f", "keep/f")
    walked = run_walk(tmp_path, rules=ExcludeRules(patterns=("skip",)))
    assert not any(b"skip" in folder.path for folder in walked.folders)
    assert list(walked.excluded) == [walked.base + b"/skip"]


def test_every_exclusion_names_its_rule_and_where_it_was_written(tmp_path, run_walk):
    make(tmp_path, "a.o", "in/b.tmp", "big", "list")
    (tmp_path / "in/.backupignore").write_text("# first\n\n*.tmp\n")
    (tmp_path / "big").write_bytes(b"x" * 100)
    (tmp_path / "list").write_text("\n*.o\n")
    walked = run_walk(tmp_path, rules=ExcludeRules(patterns=read_pattern_file(tmp_path / "list"), max_file_size=99))
    told = {os.path.relpath(path, walked.base).decode(): str(rule) for path, rule in walked.excluded.items()}
    assert told == {
        "a.o": f"*.o ({tmp_path}/list:2)",
        "in/b.tmp": f"*.tmp ({tmp_path}/in/.backupignore:3)",
        "big": "largest file size (100 bytes, more than 99)",
    }


def test_the_sources_themselves_are_never_excluded(tmp_path, run_walk):
    make(tmp_path, "cache/f", "cache/cache", "file.tmp")
    rules = ExcludeRules(patterns=("cache", "*.tmp"))
    assert run_walk(tmp_path, tmp_path / "cache", tmp_path / "file.tmp", rules=rules).names == {
        "cache",
        "cache/f",
        "file.tmp",
    }


def test_patterns_are_anchored_at_each_source(tmp_path, run_walk):
    make(tmp_path, "one/x/f", "one/in/x/f", "two/x/f")
    walked = run_walk(tmp_path, tmp_path / "one", tmp_path / "two", rules=ExcludeRules(patterns=("/x",)))
    assert walked.names == {"one", "one/in", "one/in/x", "one/in/x/f", "two"}


@pytest.mark.parametrize("bad", ["[a", "a[b/c", "trailing\\", "[z-a]", "a//b", "x" * 5000, "a\0b", "a\nb"])
def test_a_bad_pattern_is_refused_with_its_place(tmp_path, bad):
    rules = ExcludeRules(patterns=("fine", PatternLine(bad, "/etc/excludes:7")))
    with pytest.raises(ConfigurationError, match="/etc/excludes:7"):
        walk([tmp_path], rules, on_unreadable=lambda item: None)
    with pytest.raises(ConfigurationError, match="iexclude 1"):
        walk([tmp_path], ExcludeRules(iexclude=(bad,)), on_unreadable=lambda item: None)


def test_a_bad_line_in_a_pattern_file_is_reported_and_the_others_hold(tmp_path, run_walk):
    make(tmp_path, "in/a.tmp", "in/b")
    (tmp_path / "in/.backupignore").write_text("[oops\n*.tmp\n" + "[more\n" * 50)
    walked = run_walk(tmp_path)
    assert walked.names == {"in", "in/b", "in/.backupignore"}
    assert "line 1 is not an exclude pattern" in walked.unreadable[0].reason
    assert {item.error for item in walked.unreadable} == {"configuration"}
    assert len(walked.unreadable) == 10


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"f\0", "not a text file"),
        (b"f" * ((1 << 20) + 1), "larger than 1 MiB"),
        (b"f\n" * 100_000, "patterns would be"),
    ],
)
def test_a_hostile_pattern_file_is_reported_and_ignored(tmp_path, run_walk, data, reason):
    make(tmp_path, "f", "in/f")
    (tmp_path / ".backupignore").write_bytes(data)
    walked = run_walk(tmp_path)
    assert walked.names == {"f", "in", "in/f", ".backupignore"}
    assert [item.path for item in walked.unreadable] == [walked.base + b"/.backupignore"]
    assert reason in walked.unreadable[0].reason


def test_a_huge_pattern_file_is_not_read_whole(tmp_path, run_walk):
    make(tmp_path, "f")
    with open(tmp_path / ".backupignore", "wb") as file:
        file.truncate(1 << 40)
    assert "larger than 1 MiB" in run_walk(tmp_path).unreadable[0].reason


def test_patterns_of_nested_files_are_bounded_together(tmp_path, run_walk):
    lines = "\n".join(f"name{number}" for number in range(MAX_PATTERNS_IN_FORCE // 2 + 1))
    make(tmp_path, "a/b/f")
    for folder in ("", "a", "a/b"):
        (tmp_path / folder / ".backupignore").write_text(lines)
    walked = run_walk(tmp_path)
    assert [os.path.relpath(item.path, walked.base) for item in walked.unreadable] == [
        b"a/.backupignore",
        b"a/b/.backupignore",
    ]


def test_a_pattern_file_that_is_a_symlink_a_fifo_or_a_folder_is_not_read(tmp_path, run_walk):
    make(tmp_path, "a/f", "b/f", "c/f", "c/.backupignore/", "rules", data=b"f\n")
    (tmp_path / "a/.backupignore").symlink_to(tmp_path / "rules")
    os.mkfifo(tmp_path / "b/.backupignore")
    walked = run_walk(tmp_path)
    assert walked.names >= {"a/f", "b/f", "c/f"}
    assert walked.unreadable == []


def test_a_file_swapped_for_a_fifo_or_a_link_after_it_was_listed_is_neither_waited_on_nor_followed(tmp_path):
    make(tmp_path, "secret", data=b"secret")
    (tmp_path / "link").symlink_to("secret")
    os.mkfifo(tmp_path / "fifo")
    assert read_start(os.fsencode(tmp_path / "secret"), 3) == b"sec"
    assert read_start(os.fsencode(tmp_path / "fifo"), 3) == b""
    with pytest.raises(OSError, match="symbolic links"):
        read_start(os.fsencode(tmp_path / "link"), 3)


def test_a_pattern_file_that_may_not_be_read_is_reported(shared_path, run_walk):
    make(shared_path, "s/f", "s/.backupignore", data=b"f\n")
    (shared_path / "s/.backupignore").chmod(0)
    with as_ordinary_user():
        walked = run_walk(shared_path / "s")
    assert walked.names == {"f", ".backupignore"}
    assert [item.error for item in walked.unreadable] == ["discovery.permission"]


def test_a_pattern_made_to_take_for_ever_does_not(tmp_path, run_walk):
    make(tmp_path, "a" * 255, "a" * 200 + "/" + "a" * 250)
    evil = "*a" * 100 + "*b"
    rules = ExcludeRules(patterns=(evil, "/".join(["**"] + ["*a*a*a*b"] * 20), f"**/{evil}/**"), iexclude=(evil,))
    assert len(run_walk(tmp_path, rules=rules).names) == 3


def test_the_signature_of_caches_is_that_of_the_specification() -> None:
    digest = hashlib.md5(b".IsCacheDirectory", usedforsecurity=False).hexdigest()
    assert f"Signature: {digest}".encode() == CACHE_SIGNATURE


def test_of_a_cache_folder_only_the_tag_is_kept(tmp_path, run_walk):
    make(tmp_path, "cache/data", "cache/sub/more", "fake/data", "short/data", "link/data")
    (tmp_path / "cache/CACHEDIR.TAG").write_bytes(CACHE_SIGNATURE + b"\n# made by a program\n")
    (tmp_path / "fake/CACHEDIR.TAG").write_bytes(b"Signature: something else entirely, of the same length!")
    (tmp_path / "short/CACHEDIR.TAG").write_bytes(CACHE_SIGNATURE[:-1])
    (tmp_path / "link/CACHEDIR.TAG").symlink_to("../cache/CACHEDIR.TAG")
    walked = run_walk(tmp_path, rules=ExcludeRules(exclude_caches=True))
    assert {name for name in walked.names if name.startswith("cache")} == {"cache", "cache/CACHEDIR.TAG"}
    assert walked.names >= {"fake/data", "short/data", "link/data"}
    assert set(walked.excluded) == {walked.base + b"/cache/data", walked.base + b"/cache/sub"}
    assert "cache/sub/more" in run_walk(tmp_path).names


def test_files_above_the_largest_size_and_special_files_are_left_out_when_asked(tmp_path, run_walk):
    make(tmp_path, "small", "in/big", "in/")
    (tmp_path / "in/big").write_bytes(b"x" * 11)
    (tmp_path / "small").write_bytes(b"x" * 10)
    os.mkfifo(tmp_path / "in/fifo")
    (tmp_path / "link").symlink_to("x" * 50)
    assert run_walk(tmp_path, rules=ExcludeRules(max_file_size=10)).names == {"small", "in", "in/fifo", "link"}
    assert run_walk(tmp_path, rules=ExcludeRules(exclude_special=True)).names == {"small", "in", "in/big", "link"}


def test_rules_that_make_no_sense_are_refused():
    with pytest.raises(ConfigurationError):
        ExcludeRules(max_file_size=-1)
    with pytest.raises(ConfigurationError):
        ExcludeRules(ignore_file="a/b")
    with pytest.raises(ConfigurationError, match="nowhere"):
        read_pattern_file("/nowhere/at/all")

"""What a score is made of, which file comes before which, and that its explanation is its arithmetic."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.discovery.entry import EntryKind, FileEntry
from backupiq.errors import ConfigurationError
from backupiq.semantics import importance
from backupiq.semantics.importance import Scorer, combine, load_weights, read_weights, render
from backupiq.semantics.model import UNKNOWN, Category, Factor, FileType, GitState, Importance
from backupiq.semantics.pins import Pins, parse_pin
from tests.support.programs import ROOT

DAY = importance.NANOSECONDS_PER_DAY
NOW = 1_800_000_000 * 10**9
DATA = ROOT / "backupiq" / "semantics" / "data"

PYTHON = FileType("Python", Category.CODE, "text/x-python", "extension", 100)
JPEG = FileType("JPEG", Category.IMAGE, "image/jpeg", "extension", 100)
VIDEO = FileType("MP4", Category.VIDEO, "video/mp4", "extension", 100)
PDF = FileType("PDF", Category.DOCUMENT, "application/pdf", "extension", 100)
KEEPASS = FileType("KeePass database", Category.SECRET, "application/x-keepass2", "extension", 100)
PEM = FileType("Some new kind of key", Category.SECRET, "application/x-pem-file", "extension", 100)
ISO = FileType("Disc image", Category.ARCHIVE, "application/x-iso9660-image", "extension", 100)
CONFIG = FileType("INI", Category.CONFIG, "text/plain", "extension", 100)


def entry_at(path: bytes, days: float = 100.0) -> FileEntry:
    name = path.rpartition(b"/")[2]
    return FileEntry(name, EntryKind.FILE, 1, NOW - int(days * DAY), 0, 0, 0, 0o100644, 0, 0, 1, 0)


def explain(
    path: bytes,
    kind: FileType,
    *,
    days: float = 100.0,
    pins: tuple[str, ...] = (),
    role: str = "",
    git: GitState = GitState.NONE,
    origin: str = "",
    regenerable: bool = False,
    secrets: int = 0,
) -> Importance:
    scorer = Scorer(load_weights(), Pins([parse_pin(text) for text in pins]), NOW)
    entry = entry_at(path, days)
    rest: dict[str, Any] = {"git": git, "origin": origin, "regenerable": regenerable, "secrets": secrets}
    found = scorer.explain(path, entry, kind, role, **rest)
    assert found.value == scorer.value(path, entry, kind, role, **rest)
    return found


def score(path: bytes, kind: FileType, **options: Any) -> int:
    return explain(path, kind, **options).value


def why(found: Importance, name: str) -> str:
    return next(factor.why for factor in found.factors if factor.name == name)


# --- which comes first ---------------------------------------------------------------------------------------------


def test_what_cannot_be_had_again_comes_before_what_can() -> None:
    home = b"/home/me/"
    ordered = [
        score(home + b"secrets.kdbx", KEEPASS),
        score(home + b"thesis.pdf", PDF, days=3),
        score(home + b"shop/app.py", PYTHON, git=GitState.MODIFIED),
        score(home + b"DCIM/IMG_0001.jpg", JPEG),
        score(home + b"picture.jpg", JPEG),
        score(home + b"shop/old.py", PYTHON, git=GitState.PUSHED),
        score(home + b"paper.pdf", PDF, origin="example.org"),
        score(home + b"debian.iso", ISO),
        score(home + b"node_modules/x.py", PYTHON, regenerable=True),
    ]
    assert ordered == sorted(ordered, reverse=True)
    assert len(set(ordered)) == len(ordered)
    assert ordered[0] == 100


def test_work_that_is_only_here_comes_before_work_that_is_pushed() -> None:
    states = (GitState.MODIFIED, GitState.UNPUSHED, GitState.UNTRACKED, GitState.NONE, GitState.PUSHED)
    scores = [score(b"/home/me/a.ini", CONFIG, git=state) for state in states]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 5


def test_tests_count_less_and_configuration_and_documentation_more() -> None:
    scores = [score(b"/a", CONFIG, role=role) for role in ("test", "", "configuration", "documentation")]
    assert scores == [40, 50, 60, 65]
    assert score(b"/a", CONFIG, role="something new") == 50


def test_old_is_worth_less_but_never_below_the_floor() -> None:
    scores = [score(b"/a", CONFIG, days=days) for days in (0, 6.99, 7, 29.99, 30, 364.99, 365, 1094.99, 1095, 20_000)]
    assert scores == [60, 60, 55, 55, 50, 50, 45, 45, 40, 40]


def test_a_time_in_the_future_counts_for_nothing() -> None:
    assert score(b"/a", CONFIG, days=-0.5) == 60  # clocks differ a little
    assert score(b"/a", CONFIG, days=-2) == 50
    assert "future" in why(explain(b"/a", CONFIG, days=-2), "recency")


# --- how hard it is to have again ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind", "row"),
    [
        ("/home/me/a.pdf", PDF, "authored"),
        ("/home/me/Downloads/x/a.pdf", PDF, "downloads"),
        ("/home/me/Téléchargements/a.pdf", PDF, "downloads"),
        ("/home/me/Te\u0301le\u0301chargements/a.pdf", PDF, "downloads"),  # decomposed, as Macs write it
        ("/home/me/ДОКУМЕНТЫ/a.pdf", PDF, "authored"),
        ("/home/me/Загрузки/a.pdf", PDF, "downloads"),
        ("/home/me/ダウンロード/a.pdf", PDF, "downloads"),
        ("/home/me/Downloads.old/a.pdf", PDF, "authored"),
        ("/home/me/Downloads", PDF, "authored"),
        ("/home/me/.local/share/Trash/files/a.pdf", PDF, "trash"),
        ("/home/me/Trash/a.pdf", PDF, "authored"),
        ("/media/disk/.Trash-1000/files/a.pdf", PDF, "trash"),
        ("/mnt/c/$RECYCLE.BIN/S-1/a.pdf", PDF, "trash"),
        ("/home/me/.cache/x/a.pdf", PDF, "cache"),
        ("/Users/me/Library/Caches/x/a.pdf", PDF, "cache"),
        ("/home/me/src/caches/a.pdf", PDF, "authored"),
        ("/home/me/.cache/Downloads/a.pdf", PDF, "cache"),
        ("/home/me/.Trash/.cache/a.pdf", PDF, "trash"),
        ("/media/card/DCIM/100CANON/x.jpg", JPEG, "camera"),
        ("/media/card/DCIM/100CANON/notes.pdf", PDF, "authored"),
        ("/home/me/Downloads/DCIM/notes.pdf", PDF, "downloads"),
        ("/home/me/Downloads/IMG_0042.jpg", JPEG, "camera"),
        ("/home/me/x/dsc_0042.JPG", JPEG, "camera"),
        ("/home/me/x/VID_2020.mp4", VIDEO, "camera"),
        ("/home/me/x/logo.jpg", JPEG, "authored"),
        ("/home/me/x/picture.jpg", JPEG, "authored"),
        ("/home/me/x/PICT0001.jpg", JPEG, "camera"),
        ("/home/me/x/IMG_notes.pdf", PDF, "authored"),
    ],
)
def test_a_place_or_a_name_tells_how_hard_a_file_is_to_have_again(path: str, kind: FileType, row: str) -> None:
    found = explain(path.encode(), kind)
    assert why(found, "replaceable") == importance._REPLACEABLE_WORDS[row]
    assert (
        next(factor.value for factor in found.factors if factor.name == "replaceable")
        == (load_weights().replaceable[row])
    )


def test_the_first_row_that_holds_counts() -> None:
    everything: dict[str, Any] = {"git": GitState.PUSHED, "origin": "example.org", "regenerable": True}
    path = b"/home/me/.Trash/DCIM/IMG_1.jpg"
    seen = [why(explain(path, JPEG, **everything), "replaceable")]
    everything["regenerable"] = False
    seen.append(why(explain(path, JPEG, **everything), "replaceable"))
    path = b"/home/me/Downloads/IMG_1.jpg"
    seen.append(why(explain(path, JPEG, **everything), "replaceable"))
    everything["git"] = GitState.NONE
    seen.append(why(explain(path, JPEG, **everything), "replaceable"))
    seen.append(why(explain(b"/home/me/Downloads/a.pdf", PDF, **everything), "replaceable"))
    rows = [importance._REPLACEABLE_WORDS[row] for row in ("regenerable", "trash", "pushed", "camera")]
    assert seen == [*rows, "downloaded from example.org"]


def test_keys_and_the_like_lose_nothing_by_age_a_download_or_git() -> None:
    for kind in (KEEPASS, PEM):
        best = score(b"/home/me/a", kind, days=1000)
        assert best >= 90
        assert score(b"/home/me/Downloads/a", kind, days=9000, origin="example.org") == best
        assert score(b"/home/me/a", kind, git=GitState.PUSHED) == best
        assert score(b"/home/me/.Trash/a", kind) < 30
        assert score(b"/home/me/a", kind, regenerable=True) < 15
    public = FileType("Key or certificate", Category.SECRET, "application/pkix-cert", "extension", 100)
    assert score(b"/home/me/a.crt", public, origin="example.org") == 12


def test_a_name_that_is_known_counts_whatever_the_content_looks_like() -> None:
    assert score(b"/home/me/.bitcoin/wallet.dat", UNKNOWN) == 100
    assert score(b"/home/me/.ssh/id_ed25519", UNKNOWN) == 95
    assert score(b"/home/me/.ssh/id_ed25519.pub", UNKNOWN) == 40


def test_a_secret_raises_to_the_floor_but_not_where_all_can_be_had_again() -> None:
    assert score(b"/home/me/a.ini", CONFIG, secrets=1) == score(b"/home/me/a.ini", CONFIG, secrets=9) == 85
    assert score(b"/home/me/a.ini", CONFIG, secrets=1, git=GitState.PUSHED) == 85
    assert score(b"/home/me/node_modules/a.ini", CONFIG, secrets=1, regenerable=True) == 5
    assert score(b"/home/me/.cache/a.ini", CONFIG, secrets=1) == 5
    assert score(b"/home/me/key", KEEPASS, secrets=1) == 100


# --- pins ----------------------------------------------------------------------------------------------------------


def test_a_pin_decides_last() -> None:
    assert score(b"/home/me/a.iso", ISO, pins=("*.iso=high",)) == 95
    assert score(b"/home/me/a.kdbx", KEEPASS, pins=("me/=low",)) == 5
    assert score(b"/home/me/a.ini", CONFIG, pins=("*.ini=42",), secrets=1) == 42
    assert score(b"/home/me/a.ini", CONFIG, pins=("*.ini=0",)) == 0
    assert score(b"/home/me/a.pdf", PDF, pins=("*.ini=0",)) == score(b"/home/me/a.pdf", PDF)


def test_a_normal_pin_takes_an_earlier_one_back_and_says_so() -> None:
    found = explain(b"/home/me/build/a.ini", CONFIG, pins=("me/=high", "build/=normal"))
    assert found.value == 50
    assert found.factors[-1] == Factor("unpinned", 1.0, "pinned as normal by build/")


def test_an_explanation_names_every_step() -> None:
    found = explain(b"/home/me/a.ini", CONFIG, role="configuration", git=GitState.PUSHED, secrets=1, pins=("*.ini=7",))
    assert [(factor.name, factor.value) for factor in found.factors] == [
        ("type", 50.0),
        ("role", 1.2),
        ("replaceable", 0.6),
        ("recency", 1.0),
        ("secrets", 85.0),
        ("pin", 7.0),
    ]
    assert why(found, "type") == "INI, of the category config"
    assert why(found, "pin") == "pinned as 7 by *.ini"


# --- the arithmetic ------------------------------------------------------------------------------------------------

KINDS = st.builds(
    FileType,
    st.sampled_from(["", "Python", "Disc image", "KeePass database", "Key or certificate", "Log", "new"]),
    st.sampled_from(list(Category)),
    st.just(""),
    st.just("name"),
    st.just(100),
)
FOLDERS = ["/", "/home/me", "/home/me/Downloads", "/home/me/.cache/DCIM", "/x/DCIM", "/x/.Trash/y", "/\udcff/caches"]
NAMES = ["a.ini", "IMG_1.jpg", "wallet.dat", "id_rsa", "x\n", "Login Data"]
CALLS = st.fixed_dictionaries(
    {
        "folder": st.sampled_from(FOLDERS),
        "name": st.sampled_from(NAMES),
        "mtime": st.integers(-(2**63), 2**63) | st.integers(NOW - 2000 * DAY, NOW + 10 * DAY),
        "kind": KINDS,
        "role": st.sampled_from(["", "test", "configuration", "documentation", "odd"]),
        "git": st.sampled_from(list(GitState)),
        "origin": st.sampled_from(["", "example.org", "other.example"]),
        "regenerable": st.booleans(),
        "secrets": st.integers(0, 3),
    }
)
PINS = st.lists(st.sampled_from(["*.ini=high", "me/=low", "/x/=33", "*.jpg=normal", "Downloads/=100"]), max_size=4)


@given(st.lists(CALLS, max_size=8), PINS)
def test_the_factors_of_an_explanation_make_exactly_the_score(calls: list[dict[str, Any]], pins: list[str]) -> None:
    """The product is worked out here once more, by the meaning of the factors' names."""
    scorer = Scorer(load_weights(), Pins([parse_pin(text) for text in pins]), NOW)
    for call in calls:
        folder, name, mtime, kind, role = (call.pop(key) for key in ("folder", "name", "mtime", "kind", "role"))
        path = f"{folder.rstrip('/')}/{name}".encode("utf-8", "surrogateescape")
        entry = replace_mtime(entry_at(path), mtime)
        value = scorer.value(path, entry, kind, role, **call)
        found = scorer.explain(path, entry, kind, role, **call)
        steps = {factor.name: factor.value for factor in found.factors}
        product = steps["type"] * steps.get("role", 1.0) * steps["replaceable"] * steps["recency"]
        wanted = steps.get("pin", max(min(product, 100.0), steps.get("secrets", 0.0)))
        assert value == found.value == round_half_up(wanted)
        assert 0 <= value <= 100
        assert found == Scorer(load_weights(), Pins([parse_pin(text) for text in pins]), NOW).explain(
            path, entry, kind, role, **call
        )


def replace_mtime(entry: FileEntry, mtime: int) -> FileEntry:
    values = [getattr(entry, name) for name in FileEntry.__struct_fields__]
    values[FileEntry.__struct_fields__.index("mtime_ns")] = mtime
    return FileEntry(*values)


def round_half_up(number: float) -> int:
    return int(number + 0.5)


@given(st.lists(st.tuples(st.sampled_from(["type", "role", "secrets", "pin", "x"]), st.floats(-1e6, 1e6)), max_size=6))
def test_any_factors_make_a_score_between_0_and_100(steps: list[tuple[str, float]]) -> None:
    assert 0 <= combine(Factor(name, value, "") for name, value in steps) <= 100


def test_what_repeats_is_computed_once_and_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "MAX_CACHED", 10)
    scorer = Scorer(load_weights(), Pins(), NOW)
    computed = 0
    real = importance.combine

    def count(factors: Any) -> int:
        nonlocal computed
        computed += 1
        return real(factors)

    monkeypatch.setattr(importance, "combine", count)
    path = b"/home/me/a.ini"
    kinds = [FileType(f"kind {number}", Category.DATA, "", "name", 100) for number in range(25)]
    for kind in kinds:
        for _ in range(3):
            options: dict[str, Any] = {"git": GitState.NONE, "origin": "", "regenerable": False, "secrets": 0}
            assert scorer.value(path, entry_at(path), kind, "", **options) == 50
            assert len(scorer._values) <= 10
    assert computed == len(kinds)


# --- the data ------------------------------------------------------------------------------------------------------


def test_the_weights_name_their_source_their_date_and_the_studies() -> None:
    table = tomllib.loads((DATA / "importance.toml").read_text("utf-8"))
    assert set(table["header"]) == {"source", "licence", "date"}
    assert len(table["study"]) == 3
    assert all(set(study) == {"name", "says"} for study in table["study"])


def test_every_type_that_has_a_base_of_its_own_exists_and_stands_once() -> None:
    names = [name for row in load_weights().special for name in row.types]
    assert len(names) == len(set(names))
    known = {name for table in tomllib.loads((DATA / "formats.toml").read_text("utf-8")).values() for name in table}
    text = (DATA / "languages.json").read_text("utf-8")
    assert [name for name in names if name not in known and f'"{name}"' not in text] == []
    exact = [name for row in load_weights().special for name in row.names]
    assert len(exact) == len(set(exact))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("secret = 90\n", "", "lack secret"),
        ("trash = 0.2\n", "", "lack trash"),
        ("high = 95\n", "", "lack high"),
        ("[floor]", "[flour]", "floor"),
        ("days = 7\n", "days = 99\n", "ages in order"),
        ("days = 7\n", "", "ages in order"),
        ("days = 7\n", "weeks = 1\n", "weeks"),
        ("secret = 90\n", "secret = 900\n", "0 to 100"),
        ("trash = 0.2\n", "trash = -1\n", "0 to 10"),
        ("trash = 0.2\n", "trash = nan\n", "0 to 10"),
        ("trash = 0.2\n", 'trash = "much"\n', "cannot be used"),
        ("[base]", "[base", "cannot be used"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_with_the_reason(old: str, new: str, words: str) -> None:
    text = (DATA / "importance.toml").read_text("utf-8")
    assert old in text
    with pytest.raises(ConfigurationError, match=words):
        read_weights(text.replace(old, new, 1))


def test_other_weights_make_other_scores() -> None:
    weights = replace(load_weights(), base={**load_weights().base, "config": 10})
    options: dict[str, Any] = {"git": GitState.NONE, "origin": "", "regenerable": False, "secrets": 0}
    assert Scorer(weights, Pins(), NOW).value(b"/a", entry_at(b"/a"), CONFIG, "", **options) == 10


def test_the_tables_of_the_page_are_those_of_the_weights() -> None:
    page = (ROOT / "docs" / "importance.md").read_text("utf-8")
    assert page.endswith(render(load_weights())), "make them anew: python -m backupiq.semantics.importance"


def test_the_examples_of_the_page_are_right() -> None:
    page = (ROOT / "docs" / "importance.md").read_text("utf-8")
    for text, value in (
        ("60 (image) x 1.25 (as a camera recorded it) x 0.8 (older) = 60", score(b"/p/IMG_0042.jpg", JPEG, days=1500)),
        ("x 1.2 (changed in the last week) = 101, so 100", score(b"/s/a.py", PYTHON, days=1, git=GitState.MODIFIED)),
        ("65 x 0.6 x 0.9 = 35", score(b"/s/a.py", PYTHON, days=400, git=GitState.PUSHED)),
    ):
        assert text in page
        assert text.endswith(f" {value}")

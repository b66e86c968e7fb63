"""The pages agree with the project: links lead somewhere, pictures and numbers are those of the code."""

from __future__ import annotations

import importlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from backupiq.errors import all_errors
from tests.docs.pages import anchors, blocks, links, page_names
from tests.support.programs import ROOT

ARCHITECTURE = "docs/architecture.md"
DEVELOPMENT = "docs/development.md"
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def picture(page: str, first_word: str) -> str:
    """The text block of a page that begins with that word."""
    return next(block.body for block in blocks(page) if block.language == "text" and first_word in block.body[:40])


@pytest.mark.parametrize("page", page_names())
def test_links_lead_to_files_and_headings_that_exist(page: str) -> None:
    for target in links(page):
        if target.startswith("https://"):
            continue
        assert "://" not in target, f"{page} links to {target}"
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors(path), f"{page} links to {target}"


def test_the_index_lists_every_page_and_the_readme_leads_to_it() -> None:
    listed = {target for target in links("docs/README.md") if target.endswith(".md") and "/" not in target}
    assert listed == {Path(page).name for page in page_names() if page.startswith("docs/")} - {"README.md"}
    assert "docs/README.md" in links("README.md")


def test_the_picture_of_the_layers_is_the_contract() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    drawn = re.findall(r"^  ([a-z][a-z.]*)  ", picture(ARCHITECTURE, "backupiq.cli"), re.MULTILINE)
    assert drawn == layers


def test_layers_that_are_called_empty_are_and_no_other() -> None:
    for line in picture(ARCHITECTURE, "backupiq.cli").splitlines():
        found = re.match(r"  ([a-z][a-z.]*)  +(\(empty)?", line)
        if found and found[1] != "backupiq.errors":
            folder = ROOT / found[1].replace(".", "/")
            holds_nothing = [path.name for path in folder.rglob("*.py")] == ["__init__.py"]
            assert holds_nothing == (found[2] is not None), found[1]


def test_the_picture_of_the_folders_is_the_project() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("git does not know this folder as a checkout")
    names = [Path(name) for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    drawn: set[str] = set()
    top = ""
    for line in picture(DEVELOPMENT, "backupiq/").splitlines():
        found = re.match(r"( {2})?([a-z]+)/", line)
        assert found is not None, line
        if not found[1]:
            top = found[2]
        drawn.add(f"{top}/{found[2]}" if found[1] else top)
    folders = {name.parts[0] for name in names if len(name.parts) > 1 and not name.parts[0].startswith(".")}
    below = {"/".join(name.parts[:2]) for name in names if len(name.parts) > 2 and name.parts[0] in folders}
    assert drawn == folders | below


def limits() -> list[tuple[str, str]]:
    text = (ROOT / ARCHITECTURE).read_text()
    return re.findall(r"^\| [^|]+ \| ([\d,]+(?: [KMG]iB)?) \| `([\w.]+)` \|$", text, re.MULTILINE)


def test_every_row_of_the_table_of_limits_is_read() -> None:
    section = (ROOT / ARCHITECTURE).read_text().partition("\n## Limits\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) > 20
    assert len(limits()) == len(rows)


@pytest.mark.parametrize(("value", "constant"), limits())
def test_limits_are_those_of_the_code(value: str, constant: str) -> None:
    number, _, unit = value.partition(" ")
    module, _, name = constant.rpartition(".")
    assert getattr(importlib.import_module(module), name) == int(number.replace(",", "")) * UNITS.get(unit, 1)


def test_modules_that_the_architecture_names_exist() -> None:
    text = (ROOT / ARCHITECTURE).read_text()
    named = set(
        re.findall(
            r"`((?:backupiq|flows|blocks|archive|discovery|planning|repository|storage|telemetry)\.[a-z_.]+)`", text
        )
    )
    assert len(named) > 20
    for name in named:
        top = name.split(".")[0]
        path = ROOT / ("" if top in ("backupiq", "flows", "blocks") else "backupiq") / name.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), name


def test_the_tasks_that_the_architecture_names_are_the_tasks_of_the_backup() -> None:
    text = (ROOT / ARCHITECTURE).read_text()
    named = set(re.findall(r"^\| `([a-z ]+)`(?:, [a-z ]+)? \| `", text, re.MULTILINE))
    sources = (path.read_text() for path in (ROOT / "flows" / "tasks").glob("*.py"))
    assert named == {name for source in sources for name in re.findall(r'@task\(name="([a-z ]+)"', source)}
    readme = (ROOT / "README.md").read_text()
    told = re.search(r"its tasks \(([a-z, ]+)\)", readme)
    assert told is not None
    assert set(told[1].split(", ")) == named


def test_exit_codes_of_the_readme_are_real() -> None:
    named = {int(code) for code in re.findall(r"^\| (\d+) \|", (ROOT / "README.md").read_text(), re.MULTILINE)}
    real = {error.exit_code for error in all_errors()} | {0, 2}
    assert named <= real
    assert named == real


def test_the_licence_is_the_one_that_the_package_names() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text[:200]
    assert "Version 2.0, January 2004" in text[:200]

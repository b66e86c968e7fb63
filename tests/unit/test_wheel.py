"""What an installation from a package brings along beside its code."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.programs import ROOT, isolated_home, plain_environment, run_program, unavailable

LOOKED_FOR = """
import json
from flows.deployments import definitions_path, load_definitions
from flows.systemd_units import NAMES, shipped
from backupiq import cli
print(json.dumps({
    "code": cli.__file__,
    "deployments": [each.name for each in load_definitions(
        definitions_path(), {"BACKUPIQ_QUEUE": "laptop", "BACKUPIQ_TIMEZONE": "UTC"})],
    "places": [str(definitions_path()), *(str(shipped() / name) for name in NAMES)],
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of packages as setuptools fills it for a wheel, from a copy: it writes beside what it reads."""
    if importlib.util.find_spec("setuptools") is None:
        unavailable("setuptools is not in this environment, so no package can be built")
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("backupiq", "blocks", "deployments", "flows"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=False)
    shutil.copy(ROOT / "README.md", source)
    # Setuptools before version 77 does not take a license by its name; which files there are has nothing to do with it.
    about = re.sub(r'(?m)^license = ".*"\n', "", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (source / "pyproject.toml").write_text(about, encoding="utf-8")
    command = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "build_py", "--build-lib", built]
    run_program(command, env=plain_environment(), cwd=source)
    return built


def test_what_up_needs_is_found_in_an_installation_from_a_package(installed: Path, tmp_path: Path) -> None:
    env = plain_environment() | isolated_home(tmp_path) | {"PYTHONPATH": str(installed)}
    found = json.loads(run_program([sys.executable, "-c", LOOKED_FOR], env=env, cwd=tmp_path).stdout)
    assert found["deployments"] == ["backup-nightly", "heal-hourly", "catalog-maintenance"]
    for place in [found["code"], *found["places"]]:
        assert Path(place).is_relative_to(installed)
        assert os.path.isfile(place)


def test_every_file_beside_the_code_is_in_the_package(installed: Path) -> None:
    wanted = {
        path.relative_to(ROOT)
        for package in ("backupiq", "blocks", "deployments", "flows")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"alerts.yml", "backupiq.json"} < {path.name for path in wanted}
    assert sorted(str(path) for path in wanted if not (installed / path).is_file()) == []

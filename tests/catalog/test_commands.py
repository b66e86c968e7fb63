"""The commands about the catalog, as the console script runs them."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.catalog.growing import Growing, growing
from tests.support.programs import BackupIQ, run_program
from tests.unit.repository.repositories import PASSWORD


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Growing]:
    async with growing(tmp_path) as found:
        yield found


@pytest.fixture
def program(backupiq_alone: BackupIQ, place: Growing) -> BackupIQ:
    """The console script with this repository and its password in the environment."""
    named = {**backupiq_alone.settings, "BACKUPIQ_REPOSITORY": str(place.folder / "repository")}
    return BackupIQ(backupiq_alone.program, backupiq_alone.home, PASSWORD, named)


async def test_from_nothing_to_a_catalog_and_back(place: Growing, program: BackupIQ) -> None:
    missing = program("catalog", "status", check=False)
    assert missing.returncode == 1
    assert "backupiq catalog update" in missing.stderr

    place.write("shop_v2.py", "import os\n")
    first = await place.back_up()
    made = program("catalog", "update")
    assert made.stdout == "1 added, 0 taken out\n"
    assert f"snapshot {first[:8]}" in made.stderr
    shown = program.json("catalog", "status")
    assert (shown["snapshots"], shown["database"], shown["revision"]) == (1, "sqlite", "0002")
    assert str(program.home) in shown["catalog"]

    catalog = Path(shown["catalog"])
    catalog.write_bytes(b"damaged" * 9_999)
    damaged = program("catalog", "update", check=False)
    assert damaged.returncode == 1
    assert damaged.stderr.count("\n") == 1
    assert "backupiq catalog rebuild" in damaged.stderr
    built = program.json("catalog", "rebuild")
    assert built["added"] == [first]
    assert catalog.with_name(f"{catalog.name}.broken-1").exists()

    assert "0001" in program("catalog", "downgrade", "0001").stdout
    assert "0002" in program("catalog", "upgrade").stdout
    assert "file versions:" in program("catalog", "status").stdout


async def test_a_rebuild_needs_the_password_and_an_empty_repository_is_no_trouble(
    place: Growing, program: BackupIQ
) -> None:
    refused = program("catalog", "update", password="wrong", check=False)
    assert refused.returncode == 12
    assert program("catalog", "update").stdout == "0 added, 0 taken out\n"


async def test_updating_loads_neither_prefect_nor_a_cloud(place: Growing, program: BackupIQ) -> None:
    place.write("a.txt")
    await place.back_up()
    code = (
        "import sys; from backupiq.cli.main import run; code = run(['catalog', 'update']);"
        "heavy = {'prefect', 'boto3', 'google.cloud', 'azure', 'pyicloud', 'psycopg'} & set(sys.modules);"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    env = program.environment() | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run_program([sys.executable, "-c", code], env=env)

"""Large objects pass through; they are never held. Measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import ROOT
from tests.support.servers.seaweedfs import SeaweedFS

SIZE = 200 << 20
PACKS = 12
PACK = 16 << 20
BOUND = 100 << 20

PROGRAM = """
import asyncio, json, resource, sys
from pathlib import Path
from backupiq.storage.s3 import S3Config, S3Provider

given = json.load(sys.stdin)
folder = Path(given.pop("folder"))

async def main():
    async with S3Provider(S3Config(**given)) as provider:
        await provider.upload_file(b"x", "first")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await provider.upload_file(folder / "large", "data/large")
        await asyncio.gather(*(provider.upload_file(folder / "pack", f"data/{n}") for n in range(%d)))
        await provider.download_file("data/large", folder / "back")
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs elsewhere")
def test_neither_a_large_object_nor_many_at_once_are_held_in_memory(seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    for name, size in (("large", SIZE), ("pack", PACK)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    given = {
        "folder": str(tmp_path),
        "bucket": seaweedfs.shared_bucket,
        "prefix": seaweedfs.new_name(),
        "endpoint": seaweedfs.url,
        "access_key_id": seaweedfs.access_key,
        "secret_access_key": seaweedfs.secret_key,
    }
    command = [sys.executable, "-c", PROGRAM % PACKS]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").stat().st_size == SIZE
    assert int(done.stdout) < BOUND

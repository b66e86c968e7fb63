"""Analysis, order and checkpoints in runs of the flow: what matters is restorable first, and nothing is missing."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import random
import string
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import flows.backup as backup_flow
from backupiq.catalog.store import Catalog
from backupiq.errors import StorageQuotaError
from backupiq.planning import checkpoints, order
from backupiq.reports import BackupReport
from backupiq.repository.pack import BlobType
from backupiq.repository.reader import BlobReader
from backupiq.repository.repository import FileType, Repository
from backupiq.repository.snapshot import CHECKPOINT_TAG, Snapshot
from backupiq.semantics.analysis import Analysis
from backupiq.storage.local import LocalProvider
from flows import backup_destinations
from flows.tasks import plan
from tests.flows.conftest import PASSWORD, Flows
from tests.flows.test_several_destinations import Moody, Weather


@dataclasses.dataclass
class Watched:
    """A home folder, and what every snapshot held that was published while it was stored."""

    flows: Flows
    weather: dict[str, Weather]
    seen: list[tuple[str, str, frozenset[str]]] = dataclasses.field(default_factory=list)
    """Destination, tags, names of files."""

    def back_up(self, *names: str, **options: Any) -> BackupReport:
        from flows.launch import run_backup

        folder = self.flows.to.parent
        wanted = backup_flow.BackupOptions(
            paths=[str(self.flows.source)], to=[str(folder / name) for name in names or ["vault"]], **options
        )
        return run_backup(wanted, password=SecretStr(PASSWORD), progress=_silent())

    def snapshots(self, name: str = "vault") -> list[tuple[str, Snapshot]]:
        async def work() -> list[tuple[str, Snapshot]]:
            async with LocalProvider(self.flows.to.parent / name) as provider:
                return await (await Repository.open(provider, PASSWORD)).snapshots()

        return asyncio.run(work())


def _silent() -> Any:
    from backupiq.progress import SilentProgress

    return SilentProgress()


async def names_in(root: Path, snapshot_id: str) -> tuple[str, frozenset[str]]:
    """Tags of a snapshot and the names of the files in it, read as another program would."""
    async with LocalProvider(root) as provider:
        repository = await Repository.open(provider, PASSWORD)
        _, snapshot = await repository.load_snapshot(snapshot_id)
        await repository.load_index()
        reader, found = BlobReader(repository), set()
        waiting = [snapshot.tree]
        while waiting:
            for node in await reader.load_tree(waiting.pop()):
                if node.subtree:
                    waiting.append(str(node.subtree))
                elif node.type == "file":
                    for blob in node.content or ():
                        assert repository.index.has(bytes.fromhex(blob), BlobType.DATA)
                    found.add(node.name)
        return ",".join(snapshot.tags or ()), frozenset(found)


@pytest.fixture
def watched(flows: Flows, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Every run counts as long, and every wave ends with a checkpoint."""
    monkeypatch.setattr(plan, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(backup_flow, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(order, "SMALLEST_WAVE_SECONDS", 0.0)
    noise = random.Random(1)
    source = flows.source
    (source / "a film.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + noise.randbytes(3_000_000))
    (source / "another film.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + noise.randbytes(2_000_000))
    (source / "zz id_rsa").write_bytes(noise.randbytes(500))
    for number in range(30):
        (source / f"zz letter {number}.odt").write_bytes(noise.randbytes(900))
    (source / "app" / "node_modules").mkdir(parents=True)
    (source / "app" / "package.json").write_text('{"name": "shop", "dependencies": {"react": "^18.2.0"}}')
    (source / "app" / "node_modules" / "index.js").write_bytes(noise.randbytes(700))
    watched = Watched(flows, {name: Weather() for name in ("vault", "other")})
    vaults = {str(flows.to.parent / name): name for name in watched.weather}

    async def look(name: str, key: str) -> None:
        root = flows.to.parent / name
        watched.seen.append((name, *await names_in(root, key.rpartition("/")[2])))

    class Looking(Moody):
        async def upload_file(self, source: Any, key: str, **options: Any) -> Any:
            done = await super().upload_file(source, key, **options)
            if key.startswith(f"{FileType.SNAPSHOT}/"):
                await look(vaults[str(self.root)], key)
            return done

    def provider_for(destination: str, **_: Any) -> Looking:
        return Looking(Path(destination), watched.weather[vaults[destination]])

    monkeypatch.setattr(backup_destinations, "provider_for", provider_for)
    return watched


def test_what_matters_is_restorable_before_what_is_large_is_stored(watched: Watched) -> None:
    report = watched.back_up()
    assert report.exit_code == 0
    assert report.checkpoints == len(watched.seen) - 1 >= 1
    first, last = watched.seen[0], watched.seen[-1]
    assert first[1] == CHECKPOINT_TAG
    assert {"zz id_rsa", "zz letter 0.odt", "letter.txt"} <= first[2]
    assert not {"a film.mp4", "index.js"} & first[2]
    assert last[1] == ""
    assert {"a film.mp4", "another film.mp4", "index.js", "photo.raw"} < last[2]


def test_each_checkpoint_holds_all_that_those_before_it_held(watched: Watched) -> None:
    watched.back_up()
    held = [names for _, _, names in watched.seen]
    assert all(before <= after for before, after in itertools.pairwise(held))


def test_the_snapshot_replaces_its_checkpoints(watched: Watched) -> None:
    report = watched.back_up()
    assert [name for name, _ in watched.snapshots()] == [report.snapshot_id]
    assert [(name, snapshot.tags) for name, snapshot in watched.snapshots()] == [(report.snapshot_id, None)]


def test_a_run_that_fails_leaves_its_checkpoint_which_the_next_one_builds_on_and_replaces(watched: Watched) -> None:
    def fill_up(key: str) -> None:
        if len(watched.seen) == 1:  # a checkpoint is there: no further pack is taken
            watched.weather["vault"].refuse = {"data/": StorageQuotaError("The destination is full.")}

    watched.weather["vault"].on_upload = fill_up
    with pytest.raises(StorageQuotaError):
        watched.back_up()
    ((checkpoint, left),) = watched.snapshots()
    assert left.tags == [CHECKPOINT_TAG]
    watched.weather["vault"] = Weather()
    report = watched.back_up(analysis="names")
    assert report.parent_id == checkpoint
    assert report.files_unmodified >= 30
    assert [name for name, _ in watched.snapshots()] == [report.snapshot_id]


def test_every_destination_gets_the_same_checkpoints_and_the_same_end(watched: Watched) -> None:
    report = watched.back_up("vault", "other")
    assert report.exit_code == 0
    tagged = {name: [names for at, tags, names in watched.seen if at == name and tags] for name in watched.weather}
    assert tagged["vault"]
    assert tagged["other"]
    assert [name for name, _ in watched.snapshots("vault")] == [report.snapshot_id]
    assert [name for name, _ in watched.snapshots("other")] == [report.snapshot_id]


def test_how_long_files_have_waited_goes_into_the_order(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a first run nothing has waited; in a later one each new file has, since it was changed."""
    told: list[list[float]] = []
    true_waves = plan.waves

    def waves(*files: Any, **options: Any) -> Any:
        told.append(list(files[3] or []))
        return true_waves(*files, **options)

    monkeypatch.setattr(plan, "waves", waves)
    watched.back_up()
    assert told == [[]]
    for number in range(3):
        (watched.flows.source / f"late {number}.odt").write_bytes(bytes([number]) * 500_000)
    watched.back_up()
    assert len(told[1]) == 3
    assert all(0 <= days < 1 for days in told[1])


def test_names_alone_keep_the_order_of_paths(watched: Watched) -> None:
    report = watched.back_up(analysis="names")
    assert report.checkpoints == 0
    assert len(watched.seen) == 1


def test_a_users_tag_checkpoint_is_refused_since_a_run_would_replace_such_a_snapshot(watched: Watched) -> None:
    with pytest.raises(ValueError, match="marks snapshots that a run replaces"):
        watched.back_up(tags=[CHECKPOINT_TAG])


# --- what the run tells --------------------------------------------------------------------------------------------


def test_a_run_tells_what_it_holds_and_what_can_be_made_again(flows: Flows) -> None:
    (flows.source / "app" / "node_modules" / "react").mkdir(parents=True)
    (flows.source / "app" / "package.json").write_text('{"name": "shop", "dependencies": {"react": "^18.2.0"}}')
    (flows.source / "app" / "node_modules" / "react" / "index.js").write_text("module.exports = 1\n" * 20)
    (flows.source / "app" / "shop.py").write_text("print('hello')\n")
    (flows.source / "key.pem").write_text("-----BEGIN " + "RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA\n" * 40)
    report = flows.back_up(analysis="full")
    holds = report.holds
    assert {each["name"] for each in holds["categories"]} >= {"code", "document", "image"}
    assert [(each["name"], each["files"]) for each in holds["languages"]] == [("Python", 1)]
    assert "React" in [each["name"] for each in holds["frameworks"]]
    assert [each["name"] for each in holds["projects"]] == ["shop"]
    assert holds["regenerable"] == {"files": 1, "bytes": 380}
    assert holds["largest"][0]["path"] == str(flows.source / "below" / "photo.raw")
    (decision,) = report.decisions
    assert decision["path"] == str(flows.source / "app" / "node_modules")
    assert decision["regenerable"]
    assert "package.json" in decision["reason"]
    assert report.flow_run_id is not None
    artifacts = {each["key"]: each for each in flows.api.of_run("artifacts", report.flow_run_id)}
    assert "`Python`" in artifacts["backup-contents"]["data"]
    assert "`shop`" in artifacts["backup-contents"]["data"]
    assert "node_modules" in artifacts["backup-regenerable"]["data"]
    assert "MIIEpAIBAAKCAQEA" not in str(artifacts)


def test_no_secret_and_no_content_of_a_file_is_in_the_catalog_the_log_or_the_artifacts(flows: Flows) -> None:
    letters = string.ascii_letters + string.digits
    token = "ghp_" + "".join(random.Random(3).choices(letters, k=36))
    words = "the dog that nobody else writes about"
    (flows.source / "notes.env").write_text(f"{words}\nGITHUB_TOKEN={token}\n")
    report = flows.back_up(analysis="full")
    assert [each["path"] for each in report.holds["secrets"]] == [str(flows.source / "notes.env")]
    assert report.warnings == []
    with Catalog.open(create=False) as catalog:
        assert catalog.sizes()["findings"] >= 1
        (path,) = [row[0] for row in catalog.engine.connect().exec_driver_sql("select file from pragma_database_list")]
    kept = b"".join(found.read_bytes() for found in Path(path).parent.iterdir() if found.is_file())
    assert b"github-pat" in kept
    assert report.flow_run_id is not None
    shown = json.dumps([flows.api.of_run(what, report.flow_run_id) for what in ("logs", "artifacts", "task_runs")])
    for secret in (token, token[4:20], words):
        assert secret.encode() not in kept
        assert secret not in shown
        assert secret not in json.dumps(report.to_dict())


def test_folders_that_can_be_made_again_are_left_out_when_asked_for(flows: Flows) -> None:
    modules = flows.source / "app" / "node_modules"
    (modules / "deep").mkdir(parents=True)
    (flows.source / "app" / "package.json").write_text("{}")
    (modules / "deep" / "index.js").write_text("1")
    (flows.source / "node_modules").mkdir()  # nothing proves that this one can be made again
    (flows.source / "node_modules" / "precious.txt").write_text("2")
    report = flows.back_up(exclude_regenerable=True)
    assert report.total_files == 4
    assert report.excluded >= 1

    async def names() -> frozenset[str]:
        assert report.snapshot_id is not None
        return (await names_in(flows.to, report.snapshot_id))[1]

    assert asyncio.run(names()) == {"letter.txt", "photo.raw", "package.json", "precious.txt"}


def test_analysis_that_fails_is_said_and_everything_is_stored(flows: Flows, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a mistake in a rule")

    monkeypatch.setattr(Analysis, "__init__", fail)
    report = flows.back_up(analysis="full")
    assert report.exit_code == 0
    assert report.total_files == 2
    assert report.holds == {}
    assert any("could not be found out" in warning for warning in report.warnings)
    assert "a mistake" not in str(report.warnings)

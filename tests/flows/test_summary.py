"""What a person reads when a run has ended: what is where, what was left out, and what to do."""

from __future__ import annotations

import dataclasses
from typing import Any

from backupiq.profile import FORM_ORDER
from backupiq.reports import BackupReport
from flows.reporting import backup_markdown, snapshot_tag
from tests.flows.conftest import Flows

SNAPSHOT = "63e1a680" * 8
RUN = "http://127.0.0.1:4200/runs/flow-run/b0ef6278-755e-4aa5-81b3-23ba941b6cad"
REPORT = BackupReport(
    snapshot_id=SNAPSHOT, parent_id=None, repository_id="e9" * 32, created_repository=False, paths=["/home/anna"],
    files_new=2, files_changed=0, files_unmodified=42, dirs_new=0, dirs_changed=1, dirs_unmodified=3, total_files=44,
    total_bytes=5 << 20, bytes_read=3000, data_added=3000, data_added_packed=1500, bytes_sent=2000, bytes_resumed=0,
    seconds=1.5, seconds_prefect=2.0, unreadable=[], warnings=[], excluded=0, destinations=[], holds={}, decisions=[],
    checkpoints=0, flow_run_id="b0ef", flow_run_name="backup home -> s3, azure", exit_code=0,
)  # fmt: skip


def destination(name: str, error: str = "") -> dict[str, Any]:
    return {"name": name, "complete": not error, "bytes": 1500, "objects_caught_up": 3, "error": error}


def section(text: str, heading: str) -> list[str]:
    """The lines below a heading that say something."""
    return [line for line in text.partition(f"## {heading}\n")[2].partition("\n## ")[0].splitlines() if line]


S3, AZURE = "s3://anna-backup/laptop", "az://anna's backup/laptop"


def test_a_complete_backup_says_that_nothing_is_to_be_done_and_how_files_come_back() -> None:
    text = backup_markdown(dataclasses.replace(REPORT, destinations=[destination(S3)]), RUN)
    assert text.startswith("# Snapshot `63e1a680`\n")
    assert f"| Run | [{RUN}]({RUN}) |" in text.splitlines()
    assert f"| `{S3}` | complete | 1.5 KiB | 3 |" in section(text, "Where it is")
    assert "What was left out" not in text
    assert section(text, "What to do") == [
        "- Nothing: the backup is complete everywhere.",
        "- To get files back: `backupiq restore 63e1a680 --target DIR`",
    ]


def test_a_lagging_provider_is_named_with_its_reason_and_the_command_that_heals_it() -> None:
    said = f"{AZURE} is not up to date: It does not answer. The next run brings it up to date."
    places = [destination(S3), destination(AZURE, "It does not answer.")]
    text = backup_markdown(dataclasses.replace(REPORT, destinations=places, warnings=[said, "The disk is slow."]))
    assert f"| `{AZURE}` | **lags**: `It does not answer.` | 1.5 KiB | 3 |" in section(text, "Where it is")
    assert section(text, "What else there is to know") == ["- `The disk is slow.`"]
    todo = section(text, "What to do")[0]
    assert todo.startswith(f"- `{AZURE}`: put the cause right.")
    assert todo.endswith(f"""`backupiq heal --repo {S3} --repo 'az://anna'"'"'s backup/laptop'`""")


def test_what_was_skipped_is_counted_and_what_could_not_be_read_has_its_reason() -> None:
    unreadable = [{"path": f"/home/anna/`{n}`", "reason": "this user may not read it"} for n in range(8)]
    text = backup_markdown(dataclasses.replace(REPORT, excluded=1200, unreadable=unreadable))
    left_out = section(text, "What was left out")
    assert left_out[0] == "- 1,200 files and folders, by the rules of this backup"
    assert left_out[1].startswith("- **8 items could not be read**")
    assert left_out[2:] == [f"  - `/home/anna/ {n} `: `this user may not read it`" for n in range(5)]
    assert section(text, "What to do")[0].startswith("- Give this user the right")


def test_a_dry_run_says_that_nothing_was_stored() -> None:
    text = backup_markdown(dataclasses.replace(REPORT, snapshot_id=None))
    assert text.startswith("# Snapshot none (dry run)\n")
    assert section(text, "What to do") == ["- Nothing was stored; run it without the dry run."]


def test_a_snapshot_leads_to_its_run_and_the_run_to_its_snapshot(flows: Flows) -> None:
    report = flows.back_up()
    assert report.flow_run_id is not None
    assert report.snapshot_id is not None
    tag = snapshot_tag(report.snapshot_id)
    assert tag == f"snapshot:{report.snapshot_id[:8]}"
    (found,) = flows.api.ask("/flow_runs/filter", flow_runs={"tags": {"all_": [tag]}})
    assert found["id"] == report.flow_run_id
    artifacts = {each["key"]: each for each in flows.api.of_run("artifacts", report.flow_run_id)}
    assert f"/runs/flow-run/{report.flow_run_id}" in artifacts["backup-summary"]["data"]
    assert all(each["description"] for each in artifacts.values())


def test_the_form_asks_for_the_profile_in_a_field_and_for_paths_and_destinations_first() -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.backup import backup

    schema = parameter_schema(backup).model_dump(exclude_unset=True)
    shown = sorted(schema["properties"].items(), key=lambda each: each[1]["position"])
    assert [name for name, _ in shown] == ["profile", "options", "key_block"]
    assert all(field["description"] for _, field in shown)
    assert (schema["properties"]["profile"]["type"], schema["properties"]["profile"]["default"]) == ("string", "")
    picker = schema["properties"]["key_block"]["anyOf"][0]["$ref"].rpartition("/")[2]
    assert schema["definitions"][picker]["block_type_slug"] == "backupiq-repository-key"
    options = schema["definitions"]["BackupOptions"]["properties"]
    first = sorted(options, key=lambda name: options[name]["position"])[: len(FORM_ORDER)]
    assert tuple(first) == FORM_ORDER
    assert options["analysis"]["enum"] == ["auto", "full", "names"]

"""What to back up, where to, and how: the models every face shares."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from backupiq.repository.snapshot import CHECKPOINT_TAG

Analysis = Literal["auto", "full", "names"]
Overwrite = Literal["always", "if-changed", "if-newer", "never"]


class Bandwidth(BaseModel):
    """How much a run may move, to and from all of its destinations together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit_upload: int | None = Field(default=None, ge=1024, description="Most bytes to send in a second.")
    limit_download: int | None = Field(default=None, ge=1024, description="Most bytes to fetch in a second.")


class BackupOptions(Bandwidth):
    """One backup run. Paths are absolute or relative to the working folder; sizes are bytes, times seconds."""

    paths: list[str] = Field(min_length=1, description="Files and folders to back up.")
    to: list[str] = Field(min_length=1, description="Where to store them: a folder, or block:NAME.")
    exclude: list[str] = Field(default=[], description="Patterns to leave out, in gitignore syntax.")
    iexclude: list[str] = Field(default=[], description="The same, ignoring upper and lower case.")
    exclude_file: list[str] = Field(default=[], description="Files holding such patterns, one a line.")
    exclude_caches: bool = Field(default=False, description="Leave out the contents of folders marked by CACHEDIR.TAG.")
    exclude_larger_than: int | None = Field(default=None, ge=0, description="Leave out files of more bytes than this.")
    exclude_special: bool = Field(default=False, description="Leave out FIFOs and devices.")
    one_file_system: bool = Field(default=False, description="Do not cross into other file systems.")
    tags: list[str] = Field(default=[], description="Tags for the snapshot.")
    host: str | None = Field(default=None, description="The snapshot's host name, when it is not this machine's.")
    parent: str | None = Field(default=None, description="The snapshot to compare with, when it is not the newest.")
    force: bool = Field(default=False, description="Read every file again, changed or not.")
    dry_run: bool = Field(default=False, description="Say what would be stored, and store nothing.")
    retry_lock: float = Field(default=0.0, ge=0, description="Seconds to wait for a locked repository.")
    threads: int | None = Field(default=None, ge=1, le=64, description="Threads that read files.")

    exclude_regenerable: bool = Field(
        default=False, description="Leave out folders that can be made again from what is in the backup."
    )
    pin: list[str] = Field(
        default=[], description="What files are worth: PATTERN=high, normal, low or 0 to 100, in gitignore syntax."
    )
    analysis: Analysis = Field(
        default="auto",
        description="full: by contents, before anything is stored; names: by names alone; auto: full where the run is "
        "so long that the order of files matters.",
    )

    @field_validator("tags")
    @classmethod
    def _not_ours(cls, tags: list[str]) -> list[str]:
        if CHECKPOINT_TAG in tags:
            raise ValueError(f"the tag {CHECKPOINT_TAG!r} marks snapshots that a run replaces at its end; take another")
        return tags


class RestoreOptions(Bandwidth):
    """One restore run."""

    repo: str | list[str] = Field(
        min_length=1, description="The repository: a folder, a URL or block:NAME; or a list of them, its replicas."
    )
    target: str = Field(description="The folder to restore into.")
    snapshot: str = Field(default="latest", description="A snapshot's id, the beginning of one, or latest.")
    subpath: str | None = Field(default=None, description="Restore only what is below this path of the snapshot.")
    include: list[str] = Field(default=[], description="Patterns to restore, in gitignore syntax.")
    exclude: list[str] = Field(default=[], description="Patterns to leave out, in gitignore syntax.")
    host: str | None = Field(default=None, description="For latest: only snapshots of this host.")
    paths: list[str] = Field(default=[], description="For latest: only snapshots of these paths.")
    tags: list[str] = Field(default=[], description="For latest: only snapshots with these tags.")
    overwrite: Overwrite = Field(default="always", description="What to do with files that exist in the target.")
    sparse: bool = Field(default=True, description="Leave runs of zeros as holes.")
    verify: bool = Field(default=False, description="Read every restored file again and compare it.")
    dry_run: bool = Field(default=False, description="Say what would be restored, and write nothing.")
    retry_lock: float = Field(default=0.0, ge=0, description="Seconds to wait for a locked repository.")
    threads: int | None = Field(default=None, ge=1, le=64, description="Threads that write files.")


class HealOptions(Bandwidth):
    """One run that brings replicas of a repository to hold the same."""

    repo: list[str] = Field(min_length=2, description="The replicas: folders, URLs or block:NAME.")
    dry_run: bool = Field(default=False, description="Say what would be copied, and copy nothing.")
    read_data: bool = Field(default=False, description="Read every pack too, not only names and sizes.")
    retry_lock: float = Field(default=0.0, ge=0, description="Seconds to wait for a locked repository.")

"""Every error BackupIQ raises on purpose, as one tree.

An error carries a stable ``code`` for programs, whether trying again can help (``retryable``), the HTTP status a
service would answer with, the exit code the command line ends with, a message that is safe to show to a person and
says what to do next, and ``details`` for the log. Secrets and contents of files never enter either of them.
"""

from __future__ import annotations

from typing import Any, ClassVar


class BackupIQError(Exception):
    """Base of all errors of this package.

    ``message`` is one line for a person; ``details`` are plain JSON values for the log.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    summary: ClassVar[str] = "Something unexpected happened inside BackupIQ."
    hint: ClassVar[str] = "Run the command again with --debug and report what it prints."

    def __init__(self, message: str | None = None, **details: Any) -> None:
        self.message = message or f"{self.summary} {self.hint}"
        self.details = details
        super().__init__(self.message)

    def to_dict(self) -> dict[str, Any]:
        """The error as plain JSON values: code, message, retryable, http_status, exit_code, details."""
        return {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
            "http_status": self.http_status,
            "exit_code": self.exit_code,
            "details": self.details,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.details))


def _rebuild(kind: type[BackupIQError], message: str, details: dict[str, Any]) -> BackupIQError:
    return kind(message, **details)


# --- what the person asked for -------------------------------------------------------------------------------------


class ConfigurationError(BackupIQError):
    code, http_status = "configuration", 400
    summary = "The configuration cannot be used."
    hint = "Correct the setting that the message names."


class MissingConfigurationError(ConfigurationError):
    code = "configuration.missing"
    summary = "A setting that is needed is not there."
    hint = "Give it as an option, in the environment or in the profile."


class ValidationError(BackupIQError):
    code, http_status = "validation", 422
    summary = "A value that was given is not valid."
    hint = "Correct the value that the message names."


class UnknownDestinationError(ValidationError):
    code = "validation.destination"
    summary = "The destination is not one that BackupIQ knows."
    hint = "Give a folder, a URL such as s3://bucket/prefix, or block:NAME."


class SnapshotNotFoundError(BackupIQError):
    code, http_status = "snapshot.not_found", 404
    summary = "There is no such snapshot."
    hint = "List the snapshots with `backupiq snapshots`."


class AmbiguousSnapshotError(SnapshotNotFoundError):
    code, http_status = "snapshot.ambiguous", 409
    summary = "More than one snapshot begins with that id."
    hint = "Give more characters of the id."


class PathNotInSnapshotError(BackupIQError):
    code, http_status = "snapshot.path_not_found", 404
    summary = "The snapshot holds no such path."
    hint = "List what it holds with `backupiq ls`."


# --- reading the files to back up ----------------------------------------------------------------------------------


class DiscoveryError(BackupIQError):
    code = "discovery"
    summary = "The folder to back up cannot be walked."
    hint = "Check that it exists and can be read."


class SourceNotFoundError(DiscoveryError):
    code, http_status = "discovery.not_found", 404
    summary = "The file or folder to back up does not exist."
    hint = "Check the path."


class SourcePermissionError(DiscoveryError):
    code, http_status = "discovery.permission", 403
    summary = "The file or folder to back up may not be read."
    hint = "Run as a user who may read it, or exclude it."


class SourceReadError(DiscoveryError):
    code = "discovery.read"
    summary = "A file could not be read."
    hint = "Check the disk that holds it; the rest of the backup is complete."


# --- resources of this machine -------------------------------------------------------------------------------------


class ResourceError(BackupIQError):
    code, http_status = "resource", 503
    summary = "This machine has run out of something that is needed."
    hint = "Free it and run the command again; what was stored is kept."


class DiskFullError(ResourceError):
    code, http_status = "resource.disk_full", 507
    summary = "A disk of this machine is full."
    hint = "Free space on it and run the command again; what was stored is kept."


class TooManyOpenFilesError(ResourceError):
    code, retryable = "resource.open_files", True
    summary = "This process may not open more files."
    hint = "Raise the limit (ulimit -n) and run the command again."


class OutOfMemoryError(ResourceError):
    code = "resource.memory"
    summary = "There is not enough memory."
    hint = "Free memory or back up fewer files at once."


# --- destinations --------------------------------------------------------------------------------------------------


class StorageError(BackupIQError):
    code, http_status = "storage", 502
    summary = "The destination answered with an error."
    hint = "Check the destination and run the command again."


class StorageConnectionError(StorageError):
    code, retryable, http_status = "storage.connection", True, 503
    summary = "The destination cannot be reached."
    hint = "Check the network and the address, then run the command again."


class StorageTimeoutError(StorageConnectionError):
    code, http_status = "storage.timeout", 504
    summary = "The destination did not answer in time."
    hint = "Run the command again; what was stored is kept."


class StorageThrottledError(StorageError):
    code, retryable, http_status = "storage.throttled", True, 429
    summary = "The destination asks to be called less often."
    hint = "Wait a while and run the command again."


class StorageAuthenticationError(StorageError):
    code, http_status = "storage.authentication", 401
    summary = "The destination refused the credentials."
    hint = "Check or renew the credentials."


class StoragePermissionError(StorageError):
    code, http_status = "storage.permission", 403
    summary = "The destination does not allow this."
    hint = "Grant the rights to list, read, write and delete below the destination's prefix."


class StorageQuotaError(StorageError):
    code, http_status = "storage.quota", 507
    summary = "The destination is full."
    hint = "Free space there or raise its quota, then run the command again; what was stored is kept."


class StorageNotFoundError(StorageError):
    code, http_status = "storage.not_found", 404
    summary = "The destination does not hold that object."
    hint = "Check the repository with `restic check`."


class StorageConflictError(StorageError):
    code, http_status = "storage.conflict", 409
    summary = "The destination holds that object already."
    hint = "Another run may have just written it; run the command again."


class StorageNeedsThawError(StorageError):
    code, http_status = "storage.needs_thaw", 409
    summary = "The object lies in an archive class and must be brought back first."
    hint = "Ask the provider to restore it, then run the command again."


class StorageCorruptError(StorageError):
    code = "storage.corrupt"
    summary = "The destination returned other bytes than were stored there."
    hint = "Restore the object from another replica or an earlier copy."


class StorageUnsupportedError(StorageError):
    code, http_status = "storage.unsupported", 501
    summary = "The destination cannot do this."
    hint = "Use another destination for it."


# --- repositories --------------------------------------------------------------------------------------------------


class RepositoryError(BackupIQError):
    code = "repository"
    summary = "The repository cannot be used."
    hint = "Check it with `restic check`."


class RepositoryMissingError(RepositoryError):
    code, http_status, exit_code = "repository.missing", 404, 10
    summary = "There is no repository at that place."
    hint = "Check the place, or create one with `backupiq init --to DEST`."


class RepositoryExistsError(RepositoryError):
    code, http_status = "repository.exists", 409
    summary = "There is a repository at that place already."
    hint = "Use it, or choose another place."


class RepositoryLockedError(RepositoryError):
    code, retryable, http_status, exit_code = "repository.locked", True, 423, 11
    summary = "Another program has locked the repository."
    hint = "Wait for it (--retry-lock 10m), or remove locks of dead programs with `backupiq unlock`."


class RepositoryDamagedError(RepositoryError):
    code = "repository.damaged"
    summary = "A file of the repository is damaged."
    hint = "Check the repository with `restic check --read-data`; nothing was changed."


class WrongPasswordError(RepositoryError):
    code, http_status, exit_code = "repository.wrong_password", 401, 12
    summary = "The password opens none of the repository's keys."
    hint = "Check the password."


class UnsupportedVersionError(RepositoryError):
    code, http_status = "repository.unsupported_version", 501
    summary = "The repository has a format version that BackupIQ does not know."
    hint = "Version 2 is supported; bring an older one up with `restic migrate upgrade_repo_v2`."


class CryptoError(RepositoryDamagedError):
    code = "repository.crypto"
    summary = "Encrypted data failed its authentication check."
    hint = "It was damaged or changed; check the repository with `restic check --read-data`."


class PackError(RepositoryDamagedError):
    code = "repository.pack"
    summary = "A pack of the repository is damaged."


class IndexDamagedError(RepositoryDamagedError):
    code = "repository.index"
    summary = "An index of the repository is damaged."
    hint = "Build it anew with `restic repair index` (`restic rebuild-index` before 0.16)."


class TreeError(RepositoryDamagedError):
    code = "repository.tree"
    summary = "A folder listing (tree) in the repository is damaged."


class SnapshotDamagedError(RepositoryDamagedError):
    code = "repository.snapshot"
    summary = "A snapshot of the repository is damaged."


class KeyFileError(RepositoryDamagedError):
    code = "repository.key"
    summary = "A key file of the repository is damaged."
    hint = "Restore the file below keys/ from a copy of the repository."


class BlobMissingError(RepositoryDamagedError):
    code = "repository.blob_missing"
    summary = "The repository's index does not name a piece of data that is needed."


class LockLostError(RepositoryError):
    code, retryable = "repository.lock_lost", True
    summary = "The lock on the repository could not be kept."
    hint = "Run the command again; what was stored is kept."


class KeyInUseError(RepositoryError):
    code, http_status = "repository.key_in_use", 409
    summary = "That key cannot be removed: it is the one in use."
    hint = "Open the repository with another password to remove it."


# --- restoring -----------------------------------------------------------------------------------------------------


class RestoreError(BackupIQError):
    code = "restore"
    summary = "Something could not be restored."
    hint = "The messages above name each item."


class RestoreConflictError(RestoreError):
    code, http_status = "restore.conflict", 409
    summary = "The target holds something that is in the way."
    hint = "Restore into an empty folder, or move what is in the way."


class UnsafePathError(RestoreError):
    code, http_status = "restore.unsafe_path", 422
    summary = "A name would lead out of the target."
    hint = "The snapshot or the target has been tampered with; nothing outside the target was written."


class RestoreWriteError(RestoreError):
    code = "restore.write"
    summary = "A file could not be written."
    hint = "Check the target's disk and rights, then run the command again."


# --- running -------------------------------------------------------------------------------------------------------


class RunError(BackupIQError):
    code = "run"
    summary = "The run did not complete."
    hint = "Run the command again; what was stored is kept."


class PartialBackupError(RunError):
    code, http_status, exit_code = "run.partial", 207, 3
    summary = "The snapshot is complete but for files that could not be read."
    hint = "The messages above name them."


class DegradedRunError(RunError):
    code, http_status, exit_code = "run.degraded", 207, 4
    summary = "The run is complete, but not at every destination."
    hint = "The next run, or `backupiq heal`, brings the others up to date."


class CircuitOpenError(RunError):
    code, http_status = "run.circuit_open", 503
    summary = "The destination failed too often and is left alone for a while."
    hint = "It is tried again after its cool-down."


class RetryExhaustedError(RunError):
    code, http_status = "run.retry_exhausted", 503
    summary = "The destination failed every time it was tried."
    hint = "Check the destination and run the command again; what was stored is kept."


class CancelledRunError(RunError):
    code, http_status, exit_code = "run.cancelled", 499, 130
    summary = "The run was cancelled."
    hint = "The next run goes on from here."


class HookError(RunError):
    code = "run.hook"
    summary = "A hook before the run failed, so nothing was backed up."
    hint = "Correct it, or take it out of the profile."


class OrchestrationError(RunError):
    code, retryable, http_status = "run.orchestration", True, 503
    summary = "Prefect's API cannot be used."
    hint = "Check PREFECT_API_URL, or unset it to use the embedded server."


# --- the catalog ---------------------------------------------------------------------------------------------------


class CatalogError(BackupIQError):
    code = "catalog"
    summary = "The catalog cannot be used."
    hint = "It can be built anew from the repository; no restore needs it."


def all_errors() -> list[type[BackupIQError]]:
    """Every class of the tree, parents before children, in the order of this file."""
    found: list[type[BackupIQError]] = []

    def visit(kind: type[BackupIQError]) -> None:
        found.append(kind)
        for child in kind.__subclasses__():
            visit(child)

    visit(BackupIQError)
    return found

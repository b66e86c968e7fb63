"""Figures as Prometheus knows them, kept in one text file: short runs add theirs to those of the runs before.

The file is in Prometheus' text format, so whatever reads that (node_exporter's textfile collector, promtool, a person)
reads it as it is. Nothing is kept elsewhere: counters go on from what the file says.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from backupiq.errors import ConfigurationError, ResourceError
from backupiq.state import write_private
from backupiq.telemetry.text import printable

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[tuple[str, str], ...]

MOST_LABELS = 200
"""Sets of labels of one metric; further ones are counted together as `OTHER`."""
MOST_LABEL = 200
"""Characters of a label's value."""
OTHER = "(other)"
MAX_FILE_BYTES = 4 << 20
LOCK_SECONDS = 5.0
LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, what it says, its labels, and for a histogram the upper ends of its buckets."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def samples(self) -> tuple[str, ...]:
        """The names that its lines begin with."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)


@dataclass(slots=True, eq=False)
class Figures:
    """The values of a set of metrics, by the name of the line and its labels. Used by one thread at a time.

    Invariants: a metric has at most `MOST_LABELS` sets of labels, the one of `OTHER` beside them; a counter or a
    histogram never goes down, but for `remove`.
    """

    families: Mapping[str, Family]
    values: dict[str, dict[Labels, float]] = field(default_factory=dict)

    def get(self, name: str, **labels: str) -> float | None:
        """A value; None when there is none."""
        return self.values.get(name, {}).get(_labels(labels))

    def all(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Every set of labels of a counter or gauge, with its value."""
        return [(dict(labels), value) for labels, value in self.values.get(name, {}).items()]

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._line(name, self.families[name].samples[0], labels, lambda _: value)

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter. A negative amount is none: counters do not go down."""
        self._line(name, self.families[name].samples[0], labels, lambda before: before + max(0.0, amount))

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Count a value in a histogram."""
        self.merge(name, bucketed(value, self.families[name].buckets), value, 1, **labels)

    def merge(self, name: str, counts: Iterable[int], total: float, number: int, **labels: str) -> None:
        """Add values that were counted elsewhere: how many fell into each bucket, their sum and their number.

        ``counts`` has one number for each bucket of the metric and a last one for what is above them all.
        """
        family = self.families[name]
        reached = 0.0
        for end, count in zip((*family.buckets, math.inf), counts, strict=True):
            reached += count
            self._line(name, f"{name}_bucket", {**labels, "le": _le(end)}, _plus(reached))
        self._line(name, f"{name}_sum", labels, _plus(total))
        self._line(name, f"{name}_count", labels, _plus(number))

    def remove(self, **labels: str) -> int:
        """Forget every value that has all of these labels; how many lines went."""
        wanted = set(_labels(labels))
        gone = 0
        for name, lines in self.values.items():
            kept = {key: value for key, value in lines.items() if not wanted <= set(key)}
            gone += len(lines) - len(kept)
            self.values[name] = kept
        return gone

    def _line(self, name: str, sample: str, labels: dict[str, str], change: Callable[[float], float]) -> None:
        family = self.families[name]
        le = labels.get("le", "")
        if {*labels} - {"le"} != set(family.labels):
            raise ValueError(f"{name} has the labels {family.labels}, not {tuple(labels)}")
        lines = self.values.setdefault(sample, {})
        key = _labels(labels)
        most = MOST_LABELS * (len(family.buckets) + 1 if sample.endswith("_bucket") else 1)
        if key not in lines and len(lines) >= most:
            key = _labels(dict.fromkeys(family.labels, OTHER) | ({"le": le} if le else {}))
        lines[key] = change(lines.get(key, 0.0))

    def render(self) -> bytes:
        """All of it in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry())

    def registry(self) -> CollectorRegistry:
        """All of it for prometheus_client's own functions."""
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry

    def collect(self) -> Iterator[Metric]:
        """All of it, metric by metric in the order of the table, as a registry asks for it."""
        from prometheus_client.core import Metric

        for family in self.families.values():
            metric = Metric(family.name.removesuffix("_total"), family.help, family.kind)
            for sample in family.samples:
                lines = self.values.get(sample, {})
                for labels, value in sorted(lines.items(), key=_place):
                    metric.add_sample(sample, dict(labels), value)
            if metric.samples:
                yield metric

    @classmethod
    def parse(cls, data: bytes, families: Mapping[str, Family]) -> Figures:
        """What `render` gave; metrics that are not known any more are passed over. ValueError when it is damaged."""
        from prometheus_client.parser import text_string_to_metric_families

        known = {sample: family for family in families.values() for sample in family.samples}
        found = cls(families)
        for metric in text_string_to_metric_families(data.decode()):
            for line in metric.samples:
                family = known.get(line.name)
                if family is None or {*line.labels} - {"le"} != set(family.labels):
                    continue
                found.values.setdefault(line.name, {})[_labels(line.labels)] = float(line.value)
        return found


def bucketed(value: float, ends: tuple[float, ...]) -> list[int]:
    """A one in the bucket that the value belongs to, and zeros; the last place is above all buckets."""
    place = next((n for n, end in enumerate(ends) if value <= end), len(ends))
    return [int(n == place) for n in range(len(ends) + 1)]


def _plus(amount: float) -> Callable[[float], float]:
    return lambda before: before + amount


def _le(end: float) -> str:
    return "+Inf" if math.isinf(end) else str(float(end))


def _labels(labels: Mapping[str, str]) -> Labels:
    return tuple(sorted((name, printable(value)[:MOST_LABEL]) for name, value in labels.items()))


def _place(line: tuple[Labels, float]) -> tuple[Labels, float]:
    labels = dict(line[0])
    return _labels({name: value for name, value in labels.items() if name != "le"}), float(labels.get("le", "0"))


# --- the file ------------------------------------------------------------------------------------------------------


def load(path: Path, families: Mapping[str, Family]) -> Figures:
    """The figures in the file; none when it is not there. ConfigurationError when it is damaged or cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError("too long")
        return Figures.parse(data, families)
    except FileNotFoundError:
        return Figures(families)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"The figures in {path} cannot be read ({reason}); check the file.") from error
    except (ValueError, KeyError, IndexError):
        raise ConfigurationError(f"The figures in {path} are damaged; remove the file, and they begin anew.") from None


@contextlib.contextmanager
def changing(
    path: Path,
    families: Mapping[str, Family],
    *,
    public: Path | None = None,
    longest_wait: float = LOCK_SECONDS,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[Figures]:
    """The figures of the file, to be changed; written back, complete or not at all, when the block has ended.

    Of several processes one changes them at a time. Damaged figures begin anew. ``public`` is a second file that gets
    the same and that every user may read (0644). Raises OSError, and ResourceError when another process has held the
    lock for ``longest_wait`` seconds.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(path.with_name(f".{path.name}.lock"), longest_wait, sleep):
        try:
            figures = load(path, families)
        except ConfigurationError:
            figures = Figures(families)
        yield figures
        data = figures.render()
        write_private(path, data)
        if public is not None:
            write_public(public, data)


def write_public(path: Path, data: bytes) -> None:
    """Write the file in one step, readable by everybody; its folder has to be there. OSError."""
    # Not *.prom: the textfile collector must not read a half.
    temporary = path.with_name(f".{path.name}-{os.urandom(8).hex()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


@contextlib.contextmanager
def _locked(path: Path, longest_wait: float, sleep: Callable[[float], object]) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for look in range(max(1, int(longest_wait / LOOK_SECONDS))):
            if look:
                sleep(LOOK_SECONDS)
            if _try_lock(descriptor):
                break
        else:
            raise ResourceError(f"Another program has been writing figures to {path.parent} for too long.")
        yield
    finally:
        os.close(descriptor)  # which lets go of the lock, too


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # what the two systems answer when another one holds it
        return False
    return True

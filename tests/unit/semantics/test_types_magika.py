"""Ties that a model settles: which files it is shown, and which of its answers count."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from backupiq.errors import MissingConfigurationError
from backupiq.semantics import magika_tie
from backupiq.semantics.magika_tie import Tie, settle
from backupiq.semantics.types import HEAD_BYTES, detect


@dataclasses.dataclass(frozen=True)
class Output:
    label: str


@dataclasses.dataclass(frozen=True)
class Answer:
    output: Output
    score: float


class Model:
    """Answers as Magika does, the same for every file."""

    def __init__(self, label: str, score: float) -> None:
        self.answer = Answer(Output(label), score)
        self.asked: list[bytes] = []

    def identify_bytes(self, content: bytes) -> Answer:
        self.asked.append(content)
        return self.answer


def tie(name: bytes, head: bytes = b"nothing telling\n") -> Tie:
    return Tie(name, head, detect(name, head, len(head)))


def test_the_models_answer_counts_among_the_languages_of_the_extension() -> None:
    settled = settle([tie(b"a.pl")], Model("prolog", 0.5))
    assert (settled[0].name, settled[0].detected_by, settled[0].confidence) == ("Prolog", "magika", 50)


@pytest.mark.parametrize(
    ("label", "score"), [("python", 0.99), ("prolog", 0.1), ("txt", 0.99), ("unknown", 0.99), ("?", 0.99)]
)
def test_an_answer_that_the_extension_does_not_allow_or_that_is_unsure_does_not_count(label: str, score: float) -> None:
    one = tie(b"a.pl")
    assert settle([one], Model(label, score)) == [one.found]


@pytest.mark.parametrize(("score", "expected"), [(0.9, "C#"), (0.5, "Text")])
def test_without_a_name_the_model_has_to_be_surer(score: float, expected: str) -> None:
    assert settle([tie(b"nameless")], Model("cs", score))[0].name == expected


def test_what_is_no_tie_is_not_shown_to_the_model() -> None:
    model = Model("python", 1.0)
    ties = [tie(b"a.rb"), tie(b"a.pl", b"use strict;\n"), Tie(b"a.pl", b"", detect(b"a.pl", b"", 0)), tie(b"a.png")]
    assert settle(ties, model) == [one.found for one in ties]
    assert model.asked == []


def test_every_tie_is_answered_in_order_and_only_its_head_is_shown() -> None:
    model = Model("prolog", 0.9)
    ties = [tie(b"a.pl" if at % 2 else b"a.rb", b"nothing\n" * HEAD_BYTES) for at in range(99)]
    settled = settle(ties, model)
    assert [one.name for one in settled] == ["Prolog" if at % 2 else "Ruby" for at in range(99)]
    assert {len(one) for one in model.asked} == {HEAD_BYTES}


def test_without_magika_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "magika", None)
    magika_tie.magika.cache_clear()
    with pytest.raises(MissingConfigurationError, match=r'pip install "backupiq\[magika\]"'):
        settle([tie(b"a.pl")])
    assert settle([tie(b"a.rb")])[0].name == "Ruby"

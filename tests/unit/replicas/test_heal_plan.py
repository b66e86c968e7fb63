"""The plan: what is copied where, in which order, and that doing it makes all replicas hold the same."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from backupiq.replicas.heal_plan import MOST_LISTED, CopyAction, Reason, differing_sizes, plan_heal
from backupiq.replicas.objects import ORDER
from backupiq.replicas.survey import ReplicaListing
from backupiq.repository.repository import FileType, file_key

NAMES = [f"{number:02x}" * 32 for number in range(8)]
KEYS = ["config", *(file_key(kind, name) for kind in ORDER if kind is not FileType.CONFIG for name in NAMES)]
PACK, INDEX = file_key(FileType.PACK, NAMES[0]), file_key(FileType.INDEX, NAMES[0])

copies = st.one_of(st.none(), st.sampled_from(["right", "short", "long", "flipped"]))
"""What a replica holds of an object."""
worlds = st.lists(st.dictionaries(st.sampled_from(KEYS), copies), min_size=1, max_size=4)


def listings_of(world: list[dict[str, str | None]]) -> tuple[dict[str, ReplicaListing], dict[str, set[str]]]:
    sizes = {"right": 100, "flipped": 100, "short": 60, "long": 140}
    listings = {
        f"r{number}": ReplicaListing({key: sizes[copy] for key, copy in held.items() if copy is not None})
        for number, held in enumerate(world)
    }
    damaged = {
        f"r{number}": {key for key, copy in held.items() if copy not in (None, "right")}
        for number, held in enumerate(world)
    }
    return listings, damaged


@given(worlds)
def test_doing_the_plan_makes_every_replica_hold_every_object_that_one_holds_right(
    world: list[dict[str, str | None]],
) -> None:
    listings, damaged = listings_of(world)
    plan = plan_heal(listings, damaged)
    state = {f"r{number}": dict(held) for number, held in enumerate(world)}
    for action in plan.actions:
        assert action.sources
        assert all(state[source][action.key] == "right" for source in action.sources)
        assert state[action.target].get(action.key) != "right"
        state[action.target][action.key] = "right"
    lost = {found.key for found in plan.unhealable}
    for key in KEYS:
        held = {replica.get(key) for replica in world}
        if "right" in held:
            assert all(replica[key] == "right" for replica in state.values())
            assert key not in lost
        else:
            assert (key in lost) == bool(held - {None})


@given(worlds)
def test_the_plan_names_each_copy_once_in_the_order_of_filling(world: list[dict[str, str | None]]) -> None:
    listings, damaged = listings_of(world)
    actions = plan_heal(listings, damaged).actions
    assert len({(action.key, action.target) for action in actions}) == len(actions)
    ranks = [ORDER.index(action.kind) for action in actions]
    assert ranks == sorted(ranks)


@given(worlds)
def test_without_having_read_anything_the_plan_brings_names_and_sizes_together(
    world: list[dict[str, str | None]],
) -> None:
    listings, _ = listings_of(world)
    plan = plan_heal(listings)
    state = {name: dict(listing.objects) for name, listing in listings.items()}
    for action in plan.actions:
        state[action.target][action.key] = action.size
    assert len({tuple(sorted(held.items())) for held in state.values()}) == 1
    assert plan.unhealable == ()


def test_reasons_tell_what_is_wrong() -> None:
    listings = {
        "good": ReplicaListing({PACK: 100}),
        "gone": ReplicaListing({}),
        "short": ReplicaListing({PACK: 60}),
        "long": ReplicaListing({PACK: 140}),
        "flipped": ReplicaListing({PACK: 100}),
    }
    plan = plan_heal(listings, {name: {PACK} for name in ("short", "long", "flipped")})
    assert {action.target: action.reason for action in plan.actions} == {
        "gone": Reason.MISSING,
        "short": Reason.TRUNCATED,
        "long": Reason.DAMAGED,
        "flipped": Reason.DAMAGED,
    }
    assert {action.sources for action in plan.actions} == {("good",)}
    assert plan.bytes == 400


def test_only_the_targets_that_were_asked_for_are_filled() -> None:
    listings = {"a": ReplicaListing({PACK: 1}), "b": ReplicaListing({INDEX: 2}), "c": ReplicaListing({})}
    plan = plan_heal(listings, targets=["c"])
    assert [(action.key, action.target) for action in plan.actions] == [(PACK, "c"), (INDEX, "c")]


def test_of_copies_of_different_sizes_the_largest_is_tried_first_and_all_are_to_be_read() -> None:
    listings = {"a": ReplicaListing({PACK: 60}), "b": ReplicaListing({PACK: 100}), "c": ReplicaListing({INDEX: 1})}
    plan = plan_heal(listings, targets=["c"])
    assert plan.actions[0] == CopyAction(PACK, 100, "c", ("b", "a"), Reason.MISSING)
    assert differing_sizes(listings) == {"a": [(PACK, 60)], "b": [(PACK, 100)], "c": []}


def test_the_plan_is_shown_in_lines_and_in_json() -> None:
    other = file_key(FileType.PACK, NAMES[1])
    listings = {
        "/a": ReplicaListing({PACK: 100, other: 100, "config": 9, INDEX: 7}),
        "/b": ReplicaListing({INDEX: 7}),
    }
    plan = plan_heal(listings, {"/a": {INDEX}, "/b": {INDEX}})
    assert plan.lines() == [
        "/a: nothing to copy",
        "/b: 1 config missing, 2 packs missing",
        f"{INDEX}: no replica holds it right (damaged at /a, /b)",
    ]
    document = json.loads(json.dumps(plan.to_dict()))
    assert document["objects"] == 3
    assert document["bytes"] == 209
    assert document["replicas"]["/b"] == {"missing": {"config": 1, "data": 2}, "truncated": {}, "damaged": {}}
    assert document["unhealable"] == [{"object": INDEX, "damaged_at": ["/a", "/b"]}]
    assert document["actions"][0] == {
        "object": "config",
        "bytes": 9,
        "target": "/b",
        "sources": ["/a"],
        "reason": "missing",
    }


def test_long_plans_are_shown_as_their_beginning_and_a_number() -> None:
    many = {f"data/{name[:2]}/{name}": 1 for name in (f"{n:064x}" for n in range(MOST_LISTED + 5))}
    plan = plan_heal({"a": ReplicaListing(many), "b": ReplicaListing({})}, {"a": set(many)})
    assert len(plan.lines()) == 2 + MOST_LISTED + 1
    assert plan.lines()[-1].startswith("and 5 more")
    document = plan_heal({"a": ReplicaListing(many), "b": ReplicaListing({})}).to_dict()
    assert len(document["actions"]) == MOST_LISTED
    assert document["objects"] == MOST_LISTED + 5

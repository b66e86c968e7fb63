"""Which snapshots enter and leave the catalog, and which lineages are built anew."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backupiq.catalog.rows import SnapshotInfo
from backupiq.catalog.store import CatalogedSnapshot
from backupiq.catalog.update import plan_update, tells_of_a_project


def info(number: int, time_ns: int, host: str = "laptop") -> SnapshotInfo:
    return SnapshotInfo(f"{number:064x}", time_ns, host, "anna", ("/h",), (), f"{number:064x}")


def known(*infos: SnapshotInfo) -> dict[str, CatalogedSnapshot]:
    return {each.hex_id: CatalogedSnapshot(each.hex_id, each.lineage, each.order, each.tree) for each in infos}


one, two, three = info(1, 10), info(2, 20), info(3, 30)


def test_new_snapshots_enter_oldest_first() -> None:
    plan = plan_update(known(one), [three, one, two])
    assert (plan.dropped, plan.forgotten, plan.new) == ([], [], [two, three])


def test_forgotten_ones_leave() -> None:
    plan = plan_update(known(one, two, three), [three])
    assert (plan.dropped, plan.forgotten, plan.new) == ([], [one.hex_id, two.hex_id], [])


def test_a_lineage_whose_newest_is_forgotten_is_built_anew() -> None:
    plan = plan_update(known(one, two, three), [one, two])
    assert (plan.dropped, plan.forgotten, plan.new) == ([one.lineage], [three.hex_id], [one, two])


def test_a_snapshot_before_the_newest_builds_its_lineage_anew_and_no_other() -> None:
    other = info(9, 5, "desktop")
    plan = plan_update(known(one, three, other), [one, two, three, other])
    assert (plan.dropped, plan.forgotten, plan.new) == ([one.lineage], [], [one, two, three])


def test_damaged_snapshots_are_neither_new_nor_forgotten() -> None:
    plan = plan_update(known(one, two), [two], damaged={one.hex_id, three.hex_id})
    assert (plan.dropped, plan.forgotten, plan.new) == ([], [], [])


@given(st.data())
def test_after_the_plan_the_catalog_holds_what_is_there_in_order(data: st.DataObject) -> None:
    every = [info(number, data.draw(st.integers(0, 3)), data.draw(st.sampled_from("ab"))) for number in range(6)]
    before = data.draw(st.lists(st.sampled_from(every), unique_by=lambda each: each.hex_id))
    there = data.draw(st.lists(st.sampled_from(every), unique_by=lambda each: each.hex_id))
    plan = plan_update(known(*before), there)
    left = [each for each in before if each.lineage not in plan.dropped and each.hex_id not in plan.forgotten]
    assert {each.hex_id for each in left + plan.new} == {each.hex_id for each in there}
    assert len(left) + len(plan.new) == len(there)
    for each in plan.new:
        assert all(each.order > other.order for other in left if other.lineage == each.lineage)
        left.append(each)


def test_folders_with_manifests_git_or_what_can_be_made_again_are_looked_at_as_a_whole() -> None:
    for name in (b"package.json", b".git", b"node_modules", b"CACHEDIR.TAG", b"shop.csproj", b"Dockerfile"):
        assert tells_of_a_project(b"/h", [b"a.txt", name]), name
    assert not tells_of_a_project(b"/h", [b"notes.txt", b"package", b"git", b"photo.jpg", b"\xff"])

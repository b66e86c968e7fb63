"""Which replica is asked first."""

from __future__ import annotations

from backupiq.replicas.health import FIRST_COOL_DOWN, LONGEST_COOL_DOWN, MOST_WRONG_KEYS, ReplicaHealth


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_replicas_are_asked_in_the_order_in_which_they_were_named() -> None:
    assert ReplicaHealth(["b", "a", "c"]).order() == ["b", "a", "c"]


def test_one_that_failed_comes_last_until_its_cool_down_is_over() -> None:
    clock = Clock()
    health = ReplicaHealth(["a", "b"], clock=clock)
    assert health.failed("a")
    assert not health.failed("a"), "known already"
    assert health.order() == ["b", "a"]
    clock.now += 2 * FIRST_COOL_DOWN
    assert health.order() == ["a", "b"]


def test_cool_downs_double_up_to_a_limit_and_success_forgets_them() -> None:
    clock = Clock()
    health = ReplicaHealth(["a", "b"], clock=clock)
    for _ in range(100):
        health.failed("a")
    clock.now += LONGEST_COOL_DOWN - 1
    assert health.order() == ["b", "a"]
    health.succeeded("a")
    assert health.order() == ["a", "b"]
    health.failed("a")
    clock.now += FIRST_COOL_DOWN
    assert health.order() == ["a", "b"]


def test_a_wrong_object_puts_a_replica_last_for_that_object_only() -> None:
    health = ReplicaHealth(["a", "b", "c"])
    assert health.wrong("a", "x")
    assert not health.wrong("a", "x")
    assert health.order("x") == ["b", "c", "a"]
    assert health.order("y") == ["a", "b", "c"]
    assert health.order("x", among=["a", "c"]) == ["c", "a"]


def test_a_replica_that_is_down_is_asked_before_one_that_holds_the_object_wrong() -> None:
    health = ReplicaHealth(["a", "b"])
    health.wrong("a", "x")
    health.failed("b")
    assert health.order("x") == ["b", "a"]


def test_only_so_many_wrong_objects_are_remembered() -> None:
    health = ReplicaHealth(["a", "b"])
    for number in range(MOST_WRONG_KEYS + 1):
        health.wrong("a", str(number))
    assert health.order("0") == ["a", "b"]
    assert health.order("1") == ["b", "a"]

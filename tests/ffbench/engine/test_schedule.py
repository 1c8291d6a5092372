from __future__ import annotations

import random

from ffbench.engine.schedule import Place, Schedule


def test_a_worker_stays_with_its_group_and_others_take_other_groups() -> None:
    plan = Schedule([["a", "b", "a", "b", "c"]])
    one = plan.next(None, [])
    two = plan.next(None, [Place(0, 0)])
    assert (one, two) == (Place(0, 0), Place(0, 1))
    assert plan.next(one, [two]) == Place(0, 2)
    assert plan.next(Place(0, 2), [two]) == Place(0, 4), "its group is done, the other's is taken"
    assert plan.next(Place(0, 4), [two]) == Place(0, 3), "nothing else is left but the other's group"
    assert plan.next(None, []) is None


def test_the_longest_group_is_helped() -> None:
    plan = Schedule([["a", "b", "a", "b", "b", "b"]])
    assert plan.next(None, [Place(0, 0), Place(0, 1)]) == Place(0, 1)


def test_jobs_come_one_after_the_other() -> None:
    plan = Schedule([["a"], ["a", "a"]])
    assert [plan.next(None, []) for _ in range(4)] == [Place(0, 0), Place(1, 0), Place(1, 1), None]
    plan.put_back([Place(0, 0), Place(1, 1)])
    assert plan.next(Place(1, 0), []) == Place(1, 1), "a worker that serves a job stays with it"
    assert plan.next(Place(1, 1), []) == Place(0, 0)


def test_what_was_not_begun_keeps_its_order() -> None:
    plan = Schedule([["a"] * 4])
    taken = [plan.next(None, []) for _ in range(3)]
    plan.put_back([place for place in taken if place])
    assert [place.task for _ in range(4) if (place := plan.next(None, []))] == [0, 1, 2, 3]


def test_a_task_is_given_up_after_two_deaths() -> None:
    plan = Schedule([["a", "b"]])
    place = plan.next(None, [])
    assert place is not None
    assert not plan.died([place])
    assert place in (plan.next(None, []), plan.next(None, []))
    assert plan.died([place])


def test_a_batch_is_shared_out_and_after_a_death_each_is_alone() -> None:
    plan = Schedule([["a"] * 6, ["a"]], [4, 4])
    one = plan.batch(None, [], 2)
    assert one == [Place(0, 0), Place(0, 1), Place(0, 2)], "the other worker is to get some"
    assert not plan.died(one)
    assert [plan.batch(None, [], 1) for _ in range(4)] == [
        [Place(0, 0)],
        [Place(0, 1)],
        [Place(0, 2)],
        [Place(0, 3), Place(0, 4), Place(0, 5)],
    ]
    assert not plan.died([Place(0, 0)])
    assert plan.batch(None, [], 1) == [Place(0, 0)]
    assert plan.died([Place(0, 0)])
    assert plan.batch(Place(0, 5), [], 1) == [Place(1, 0)]


def test_every_task_is_given_once_whatever_happens() -> None:
    chance = random.Random(1)
    for _ in range(200):
        groups = [[chance.choice("abcd") for _ in range(chance.randrange(12))] for _ in range(3)]
        plan, done, at = Schedule(groups), [], {}
        while plan.left:
            worker = chance.randrange(3)
            if worker in at:
                place = at.pop(worker)
                if chance.random() < 0.3 and not plan.died([place]):
                    continue
                plan.ended()
                done.append(place)
            elif (place := plan.next(None, at.values())) is not None:
                at[worker] = place
        assert sorted(done) == [Place(j, t) for j, names in enumerate(groups) for t in range(len(names))]

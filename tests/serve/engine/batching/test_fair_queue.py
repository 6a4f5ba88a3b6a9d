"""Owners take turns."""

from vlm_serve.engine.batching.fair_queue import FairQueue


def filled(*items):
    queue = FairQueue()
    for item in items:
        queue.put(item[0], item)
    return queue


def taken(queue):
    return [queue.take() for _ in range(len(queue))]


def test_owners_take_turns_and_keep_their_order():
    assert taken(filled("a1", "a2", "a3", "b1", "c1", "b2")) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_one_who_comes_again_waits_for_the_others():
    queue = filled("a1", "b1")
    assert queue.first() == "a1"
    assert queue.take() == "a1"
    queue.put("a", "a2")
    assert taken(queue) == ["b1", "a2"]
    assert queue.first() is None


def test_items_are_taken_out():
    queue = filled("a1", "a2", "b1", "c1")
    assert queue.remove_if(lambda item: item in ("a1", "b1")) == ["a1", "b1"]
    assert list(queue) == taken(queue) == ["a2", "c1"]


def test_the_next_is_of_an_owner_with_the_fewest_in_use():
    in_use = ["a", "a", "b"]
    queue = FairQueue(lambda: in_use)
    for item in ("a3", "b2", "c1", "c2", "d1"):
        queue.put(item[0], item)
    order = []
    while queue:
        first = queue.first()
        item = queue.take()
        assert first == item
        order.append(item)
        in_use.append(item[0])
    assert order == ["c1", "d1", "b2", "c2", "a3"]


def test_who_has_most_loses_the_oldest():
    queue = FairQueue()
    queue.put("modest", "m")
    for i in range(4):
        queue.put("busy", i)
    assert [queue.drop_of_most() for _ in range(3)] == [0, 1, 2]
    assert (len(queue), set(queue)) == (2, {"m", 3})

"""What is dropped: of the owner who keeps most, the least recently used."""

import random

from vlm_core.states.owned_lru import OwnedLru


def kept(items, *names):
    """Which of owner/key pairs are kept; asking for them would be a use."""
    return [key in items._of_owner.get(owner, ()) for owner, key in names]


def test_the_owner_with_most_loses_by_bytes_and_by_number():
    items = OwnedLru()
    items.put("large", "a", 1, 100)
    for key in "bcd":
        items.put("many", key, 1, 10)
    items.put("small", "e", 1, 20)
    assert items.drop_of_most_values() == ("many", "b")
    assert items.drop_of_most_bytes() == ("large", "a")
    assert (len(items), items.nbytes) == (3, 40)
    assert kept(items, ("many", "c"), ("many", "d"), ("small", "e")) == [True] * 3


def test_one_owner_s_are_dropped_in_the_order_of_their_use():
    items = OwnedLru()
    for key in "abc":
        items.put("", key, key, 1)
    assert items.get("", "a") == "a"
    assert items.get("another", "b") is None
    assert [items.drop_of_most_bytes()[1] for _ in range(3)] == ["b", "c", "a"]


def test_a_key_is_replaced_and_taken_out():
    items = OwnedLru()
    items.put("x", "a", 1, 10)
    items.put("x", "a", 2, 30)
    assert (len(items), items.nbytes, items.get("x", "a")) == (1, 30, 2)
    assert items.pop("y", "a") is None
    assert items.pop("x", "a") == 2
    assert items.pop("x", "a") is None
    assert (len(items), items.nbytes) == (0, 0)
    items.put("x", "a", 1, 10)
    items.clear()
    assert (len(items), items.nbytes) == (0, 0)


def test_an_owner_within_an_equal_share_loses_nothing_to_others():
    random_numbers = random.Random(0)
    for _ in range(50):
        limit, owners, items = 1000, 4, OwnedLru()
        own = [random_numbers.randint(1, 50) for _ in range(5)]  # at most 250, a share of four
        for i, size in enumerate(own):
            items.put("modest", i, None, size)
        for i in range(200):
            owner = f"other {random_numbers.randrange(owners - 1)}"
            items.put(owner, i, None, random_numbers.randint(1, 400))
            while items.nbytes > limit:
                items.drop_of_most_bytes()
        assert all(kept(items, *(("modest", i) for i in range(5))))
        assert items.nbytes <= limit

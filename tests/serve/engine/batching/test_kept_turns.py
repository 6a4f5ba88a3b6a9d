"""Conversations that wait for being read: one owner's don't push out another's."""

from types import SimpleNamespace

from vlm_serve.engine.batching.kept_turns import MOST, KeptTurns


def test_one_owner_s_conversations_don_t_push_out_another_s():
    preparer = SimpleNamespace(reader=SimpleNamespace(cache=object()))
    turns, read = KeptTurns(preparer, None), []
    turns._steps = lambda prepared, answer: iter([read.append((prepared.request.owner, answer))])
    for owner, count in (("modest", 1), ("busy", 2 * MOST)):
        for i in range(count):
            turns.add(SimpleNamespace(conversation=object(), request=SimpleNamespace(owner=owner)), i)
    while turns.step():
        pass
    assert read == [("modest", 0), *(("busy", i) for i in range(MOST + 1, 2 * MOST))]

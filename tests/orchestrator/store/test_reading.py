"""Bulk reads: what is compared item by item was measured in one way."""

from orchestrator.store.reading import read_item_scores, read_results
from orchestrator.store.store import Store
from orchestrator.study.experiment import Protocol
from tests.orchestrator.store.test_store import PROTOCOL, experiment, result


def scored(bits: int, protocol: Protocol, score: float):
    made = result(bits)
    ((_, measurement),) = made.measurements
    measurement.items["acc"][:] = score
    made.measurements = [(protocol, measurement)]
    return made


def test_items_of_a_model_are_of_one_protocol(tmp_path):
    """Contexts differ, the number of items does not."""
    store = Store.create(f"sqlite:///{tmp_path}/t.db")
    longer = Protocol("sotu_blank", "task", PROTOCOL.settings | {"context": 64}, "sotu_blank")
    store.record(scored(3, PROTOCOL, 0), scored(4, PROTOCOL, 0), scored(4, longer, 1))
    ids = [experiment(bits).id for bits in (3, 4, 5)]

    def read(*which: int) -> dict[int, float]:
        found = read_item_scores(store, [ids[i] for i in which], "sotu_blank", "acc")
        return {ids.index(id_): float(scores[0]) for id_, scores in found.items()}

    assert read(0, 1, 2) == {0: 0, 1: 0}  # two experiments have the one, one the other
    assert read(1) == {1: 0}  # whatever is asked for together
    store.record(scored(5, longer, 1))
    assert read(0, 1, 2) == {1: 1, 2: 1}  # two each: the newer
    newest = read_item_scores(store, ids, "sotu_blank", "acc", longer.id)
    assert {ids.index(id_) for id_ in newest} == {1, 2}
    older = read_item_scores(store, ids, "sotu_blank", "acc", PROTOCOL.id)
    assert {ids.index(id_) for id_ in older} == {0, 1}


def test_rows_lie_alike_whoever_was_done_first(tmp_path):
    frames = []
    for name, order in (("a", (3, 4, 16)), ("b", (16, 3, 4))):
        store = Store.create(f"sqlite:///{tmp_path}/{name}.db")
        for bits in order:
            store.record(result(bits))
        frames.append(read_results(store))
    assert len(frames[0]) == 3 and frames[0].equals(frames[1])

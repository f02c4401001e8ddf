"""The runs of the tables, at the paper's sizes, and how the tables' numbers are computed."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from experiments import printed
from experiments.assembly import assemble, mean_of, methods_in, read_table
from experiments.methods import SIZES
from experiments.study import Places, Study, Subject, choose_annotated, evenly
from experiments.tables import DEFAULT_METHODS, PLATEAU, figure_3, runs_of, table_1, table_2, table_3
from lib.core.annotation.slices import AnnotatedSlice, keep_slices
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.volume import Volume
from project import PROJECT

SHAPES = ((248, 244, 64), (245, 244, 56), (246, 244, 59))


def subject(shape: tuple[int, int, int], slices: Places) -> Subject:
    truth = np.full(shape, 3, np.uint8)
    return Subject(Volume(truth[None], np.eye(4)), truth, slices)


@pytest.fixture(scope="module")
def study() -> Study:
    subjects = {
        f"s{number + 1}": subject(shape, choose_annotated(shape, number)) for number, shape in enumerate(SHAPES)
    }
    return Study(LabelScheme(("inside", "tubule"), "outside"), subjects)


def flat(slices: dict[str, Any]) -> set[tuple[str, AnnotatedSlice]]:
    return {(name, place) for name, places in slices.items() for place in places}


def test_table_1_parts_all_77_slices_uniformly(study: Study) -> None:
    rows = table_1(study)
    tests = [flat(row.test) for row in rows]
    assert sorted(len(test) for test in tests) == [25, 26, 26]
    assert len(set().union(*tests)) == 77
    for row, test in zip(rows, tests, strict=True):
        assert flat(row.training) == set().union(*tests) - test
        # Each subset has a third of the slices along each axis of each volume.
        lines = Counter((name, place.axis) for name, place in test)
        for name, known in study.subjects.items():
            for axis in range(3):
                whole = sum(place.axis == axis for place in known.slices)
                assert abs(lines[name, axis] - whole / 3) < 1


def test_table_2_takes_ever_more_slices_of_one_volume(study: Study) -> None:
    rows = {row.name: row for row in table_2(study)}
    labelled = np.zeros((3, 4))
    for number, (name, known) in enumerate(study.subjects.items()):
        before: set[Any] = set()
        of_volume = [row for row in rows.values() if name in row.training]
        used = set().union(*(row.training[name] for row in of_volume))
        for column, counts in enumerate(printed.TABLE_2_SLICES):
            row = rows[f"{name}-{'_'.join(map(str, counts))}"]
            assert list(row.training) == list(row.test) == [name]
            places = set(row.training[name])
            assert tuple(sum(place.axis == axis for place in places) for axis in range(3)) == counts
            assert before <= places
            before = places
            assert set(row.test[name]) == set(known.slices) - used
            assert row.test[name]
            annotation = keep_slices(known.truth, places)
            labelled[number, column] = 100 * np.count_nonzero(annotation) / annotation.size
        plateau = rows[f"{name}-{'_'.join(map(str, PLATEAU))}"]
        assert len(plateau.training[name]) == sum(PLATEAU)
    np.testing.assert_allclose(labelled.mean(axis=0), printed.TABLE_2_LABELLED, atol=0.3)


def test_table_2_refuses_volumes_that_leave_no_slice_to_test() -> None:
    # All annotated slices belong to the largest training set.
    shape = (40, 40, 40)
    counts = enumerate(printed.TABLE_2_SLICES[-1])
    most = tuple(AnnotatedSlice(axis, index) for axis, n in counts for index in evenly(shape[axis], n))
    with pytest.raises(InputError, match="thin: 40 × 40 × 40 voxels leave no slice to test"):
        table_2(
            Study(LabelScheme(("a",), "b"), {"thin": subject(shape, tuple(AnnotatedSlice(*place) for place in most))})
        )


def test_table_3_leaves_one_volume_out(study: Study) -> None:
    rows = table_3(study)
    assert [list(row.test) for row in rows] == [["s1"], ["s2"], ["s3"]]
    assert [list(row.training) for row in rows] == [["s2", "s3"], ["s1", "s3"], ["s1", "s2"]]
    assert sum(len(flat(row.test)) for row in rows) == 77
    assert all(flat(row.training) | flat(row.test) == flat(rows[0].training) | flat(rows[0].test) for row in rows)


def test_figure_3_shows_the_last_volume_whole(study: Study) -> None:
    (row,) = figure_3(study)
    assert len(flat(row.training)) == 77
    assert row.test == {"s3": tuple(AnnotatedSlice(2, index) for index in range(59))}


def test_runs_are_every_row_by_every_method_and_seed(study: Study) -> None:
    runs = list(runs_of("table2", study, DEFAULT_METHODS["table2"], SIZES["paper"], seeds=[0, 3], steps=None))
    assert Counter(run.method for run in runs) == {"3d_bn": 30, "default": 30, "interpolation": 15}
    assert {run.steps for run in runs} == {9_700}
    assert {run.seed for run in runs} == {0, 3}
    assert len({run.key for run in runs}) == len(runs)
    left_out = list(runs_of("table3", study, ["3d_bn", "interpolation"], SIZES["small"], seeds=[0], steps=7))
    assert {(run.method, run.steps) for run in left_out} == {("3d_bn", 7)}


def record(row: str, method: str, seed: int, iou: float) -> dict[str, Any]:
    classes = {"inside": iou - 0.1, "tubule": iou + 0.1}
    return {"row": row, "method": method, "seed": seed, "mean_iou": iou, "iou": classes, "labelled_percent": 5.0}


def test_numbers_are_means_over_seeds_and_then_rows(study: Study) -> None:
    records = [record(f"subset_{n}", "3d_bn", seed, 0.5 + 0.1 * n + 0.02 * seed) for n in (1, 2, 3) for seed in (0, 1)]
    records += [record("subset_1", "default", 0, 0.9)]
    table = assemble("table1", study, records, printed_too=True)
    assert [row["3d_bn"] for row in table["rows"]] == pytest.approx([0.61, 0.71, 0.81])
    assert table["rows"][0]["seeds"]["3d_bn"] == pytest.approx([0.6, 0.62])
    assert table["rows"][0]["classes"]["3d_bn"] == pytest.approx({"inside": 0.51, "tubule": 0.71})
    assert table["average"]["3d_bn"] == pytest.approx(0.71)
    assert table["average_seeds"]["3d_bn"] == pytest.approx([0.7, 0.72])
    # There is no average unless all rows have a number.
    assert "default" not in table["average"]
    assert [row["paper"]["3d_bn"] for row in table["rows"]] == [0.855, 0.871, 0.863]
    assert table["average"]["paper"] == {"3d_no_bn": 0.842, "3d_bn": 0.863, "2d_bn": 0.796}
    assert table["annotated_slices"] == {"s1": [7, 5, 21], "s2": [6, 7, 12], "s3": [4, 5, 10]}
    assert "paper" not in assemble("table1", study, records, printed_too=False)["rows"][0]


def test_a_class_without_iou_is_left_out_of_the_mean(study: Study) -> None:
    records = [record("s1", "3d_bn", seed, 0.5) for seed in (0, 1)]
    records[0]["iou"]["inside"] = None
    (row, *_) = assemble("table3", study, records, printed_too=False)["rows"]
    assert row["classes"]["3d_bn"] == pytest.approx({"inside": 0.4, "tubule": 0.6})
    records[1]["iou"]["inside"] = None
    (row, *_) = assemble("table3", study, records, printed_too=False)["rows"]
    assert row["classes"]["3d_bn"]["inside"] is None


def test_table_2_has_the_mean_over_the_volumes(study: Study) -> None:
    records = [
        record(f"s{number}-1_1_1", "3d_bn", seed, 0.1 * number + 0.03 * seed - 0.015)
        for number in (1, 2, 3)
        for seed in (0, 1)
    ]
    records.append(record("s1-2_2_1", "3d_bn", 0, 0.7))
    rows = assemble("table2", study, records, printed_too=True)["rows"]
    assert rows[0]["slices"] == [1, 1, 1]
    assert rows[0]["3d_bn"] == pytest.approx(0.2)
    assert rows[0]["volumes"]["3d_bn"] == pytest.approx({"s1": 0.1, "s2": 0.2, "s3": 0.3})
    assert rows[0]["seeds"]["3d_bn"] == pytest.approx([0.185, 0.215])
    assert rows[0]["classes"]["3d_bn"] == pytest.approx({"inside": 0.1, "tubule": 0.3})
    assert rows[0]["paper"]["volumes"] == [0.331, 0.483, 0.475]
    assert "3d_bn" not in rows[1]
    assert assemble("table2", study, records, printed_too=True)["average"] == {}
    assert rows[1]["volumes"]["3d_bn"] == {"s1": 0.7}
    assert "paper" not in rows[4]


def test_averages_printed_in_the_paper_are_those_of_its_rows() -> None:
    for name, rows in (("table1", printed.TABLE_1), ("table3", printed.TABLE_3)):
        for method, average in printed.AVERAGES[name].items():
            assert np.mean([row[method] for row in rows]) == pytest.approx(average, abs=6e-4)


def test_committed_tables_are_read() -> None:
    """They have the numbers of experiments/README.md."""
    table = read_table(PROJECT / "experiments" / "results" / "small" / "table1.json")
    assert methods_in(table) == ["2d_bn", "3d_no_bn", "3d_bn", "default", "pytorch3dunet", "nnunetv2"]
    average = {method: round(mean_of(table["average"], method) or 0, 3) for method in methods_in(table)}
    assert list(average.values()) == [0.861, 0.680, 0.860, 0.848, 0.809, 0.492]
    assert mean_of(table["average"], "interpolation") is None

"""Which volumes a study uses, which of their slices count as annotated, and what is refused."""

from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest
import torch

from dense_volumes import save, write_balls
from experiments import study as module
from experiments.study import Source, Subject, checksum_of_code, evenly, load_study
from lib.core.errors import InputError
from lib.core.volumes.volume import Volume
from lib.phantom.specimen import PAPER_SPECIMENS, make_phantom


def source(folder: Path | None, cache: Path, labels: str = "", halved: bool = False) -> Source:
    return Source(folder, labels, halved, cache)


@pytest.fixture
def balls(tmp_path: Path) -> Path:
    write_balls(tmp_path / "balls")
    return tmp_path / "balls"


@pytest.mark.parametrize(("length", "count"), [(248, 7), (244, 5), (64, 21), (12, 3), (5, 5), (9, 1)])
def test_slices_are_spread_evenly(length: int, count: int) -> None:
    places = np.array(evenly(length, count))
    assert len(places) == count
    gaps = np.diff([-0.5 - (places[0] + 0.5), *places, 2 * length - 0.5 - (places[-1] + 0.5)])
    # The distance to the border is half of the distance between slices, up to rounding.
    assert np.abs(gaps - length / count).max() <= 2
    assert (np.diff(places) >= length // count).all()


def test_volumes_of_a_folder_are_annotated_at_most_every_third_slice(balls: Path, tmp_path: Path) -> None:
    study = load_study(source(balls, tmp_path, "ball"))
    assert study.scheme.foreground == ("ball",)
    assert list(study.subjects) == ["ball_1", "ball_2"]
    for name, counts in (("ball_1", (7, 5, 4)), ("ball_2", (6, 6, 4))):
        subject = study.subjects[name]
        assert tuple(sum(place.axis == axis for place in subject.slices) for axis in range(3)) == counts
        truth = np.asarray(nibabel.load(balls / "labels" / f"{name}.nii.gz").dataobj)
        np.testing.assert_array_equal(subject.truth, np.where(truth == 1, 1, 2))


def test_annotated_slices_are_the_truth_on_them(balls: Path, tmp_path: Path) -> None:
    subject = load_study(source(balls, tmp_path)).subjects["ball_1"]
    annotation = subject.annotated("ball_1", subject.slices[:2]).annotation
    on = np.zeros(subject.truth.shape, bool)
    for axis, index in subject.slices[:2]:
        np.moveaxis(on, axis, 0)[index] = True
    np.testing.assert_array_equal(annotation, np.where(on, subject.truth, 0))


def test_halved_phantom_is_the_mean_and_the_majority_of_eight_voxels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = module.dataclasses.replace(PAPER_SPECIMENS[0], shape=(40, 36, 24))
    monkeypatch.setattr(module, "PAPER_SPECIMENS", (small, module.dataclasses.replace(small, seed=5)))
    study = load_study(source(None, tmp_path / "cache", halved=True))
    subject = study.subjects["kidney_1"]
    image, truth = make_phantom(small)
    assert subject.volume.shape == (20, 18, 12)
    np.testing.assert_allclose(subject.volume.spacing, (3.52, 3.52, 4.08))
    blocks = truth.reshape(20, 2, 18, 2, 12, 2).transpose(0, 2, 4, 1, 3, 5).reshape(20, 18, 12, 8)
    votes = np.stack([(blocks == value).sum(axis=-1) for value in (1, 2, 0)], axis=-1)
    clear = votes.max(axis=-1) > 4
    np.testing.assert_array_equal(subject.truth[clear], votes.argmax(axis=-1)[clear] + 1)
    means = image.reshape(3, 20, 2, 18, 2, 12, 2).mean(axis=(2, 4, 6))
    # Before sampling, the volume is smoothed a little wider than the eight voxels.
    assert np.corrcoef(subject.volume.array.ravel(), means.ravel())[0, 1] > 0.97

    made = (tmp_path / "cache" / "kidney_1.npz").stat().st_mtime_ns
    load_study.cache_clear()
    again = load_study(source(None, tmp_path / "cache", halved=True))
    np.testing.assert_array_equal(again.subjects["kidney_1"].truth, subject.truth)
    assert (tmp_path / "cache" / "kidney_1.npz").stat().st_mtime_ns == made


def test_halved_phantom_is_the_same_with_any_number_of_threads() -> None:
    image = np.random.default_rng(0).integers(0, 4096, (3, 248, 244, 64)).astype(np.uint16)
    made = module._Made(image, np.ones(image.shape[1:], np.uint8), (1.76, 1.76, 2.04))
    threads, halved = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            halved.append(module._halved(made).image)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(*halved)


def test_checksums_tell_volumes_and_truths_apart(balls: Path, tmp_path: Path) -> None:
    before = [subject.checksum for subject in load_study(source(balls, tmp_path)).subjects.values()]
    truth = np.asarray(nibabel.load(balls / "labels" / "ball_2.nii.gz").dataobj).astype(np.uint8)
    truth[0, 0, 0] = 1
    save(balls / "labels" / "ball_2.nii.gz", truth)
    load_study.cache_clear()
    after = [subject.checksum for subject in load_study(source(balls, tmp_path)).subjects.values()]
    assert len({*before, *after}) == 3
    assert before[0] == after[0]


def test_checksums_tell_grids_apart() -> None:
    values = np.arange(60, dtype=np.int16)

    def of(shape: tuple[int, ...], voxel: float) -> int:
        truth = np.ones(shape, np.uint8)
        return Subject(Volume(values.reshape(1, *shape), np.diag([1, 1, voxel, 1])), truth, ()).checksum

    assert of((3, 4, 5), 1.0) == of((3, 4, 5), 1.0)
    assert len({of((3, 4, 5), 1.0), of((4, 3, 5), 1.0), of((3, 4, 5), 2.0)}) == 3


def test_folder_without_labels_is_refused(balls: Path, tmp_path: Path) -> None:
    for path in (balls / "labels").iterdir():
        path.unlink()
    (balls / "labels").rmdir()
    with pytest.raises(InputError, match=r"labels: no such folder"):
        load_study(source(balls, tmp_path))


def test_classes_without_a_name_are_refused(balls: Path, tmp_path: Path) -> None:
    truth = np.asarray(nibabel.load(balls / "labels" / "ball_2.nii.gz").dataobj).astype(np.uint8)
    truth[0, 0, 0] = 3
    save(balls / "labels" / "ball_2.nii.gz", truth)
    with pytest.raises(InputError, match=r"ball_2\.nii\.gz: the value 3, but --labels ball names 1 classes"):
        load_study(source(balls, tmp_path, "ball"))


def test_different_numbers_of_channels_are_refused(balls: Path, tmp_path: Path) -> None:
    image = np.zeros((24, 20, 12, 2), np.int16)
    save(balls / "images" / "ball_2.nii.gz", image)
    with pytest.raises(InputError, match=r"ball_2: 2 channel\(s\), but ball_1 has 1"):
        load_study(source(balls, tmp_path))


def test_volumes_too_thin_to_annotate_are_refused(balls: Path, tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        path = balls / folder / "ball_2.nii.gz"
        save(path, np.asarray(nibabel.load(path).dataobj)[:4, :4, :2].astype(np.uint8))
    with pytest.raises(InputError, match=r"ball_2.*4 × 4 × 2 voxels leave 2 slices to annotate; expected at least 3"):
        load_study(source(balls, tmp_path))


SOURCE = '''"""Says what."""
LIMIT = 3


class Way:
    """Says more."""

    def go(self, name: str) -> str:
        """Says how."""
        return "go " + name
'''


@pytest.mark.parametrize(
    ("before", "after", "is_alike"),
    [
        ("Says how", "Tells how", True),
        ("Says more", "", True),
        ("LIMIT = 3", "# Why three.\nLIMIT = (3)", True),
        ("LIMIT = 3", "LIMIT = 4", False),
        ('"go "', '"went "', False),
    ],
)
def test_code_is_the_same_whatever_comments_and_docstrings_say(
    before: str, after: str, is_alike: bool, tmp_path: Path
) -> None:
    checksums = []
    for source_code in (SOURCE, SOURCE.replace(before, after)):
        made = ModuleType("made")
        made.__file__ = str(tmp_path / "made.py")
        Path(made.__file__).write_text(source_code, encoding="utf-8")
        checksums.append(checksum_of_code(made))
    assert (checksums[0] == checksums[1]) == is_alike

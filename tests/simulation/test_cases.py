"""Volumes with dense label maps, read from folders."""

import nibabel
import numpy as np
import pytest

from dense_volumes import save
from lib.core.errors import InputError
from lib.core.volumes.reading import write_label_map
from lib.simulation.cases import label_scheme, read_cases


def test_only_volumes_with_truth_are_used(dense_studies):
    assert list(read_cases(dense_studies / "images", dense_studies / "labels")) == ["ball_1", "ball_2"]


def test_volumes_by_channel_have_truths_without_number(dense_studies):
    for number in (1, 2):
        image = dense_studies / "images" / f"ball_{number}.nii.gz"
        array = np.asarray(nibabel.load(image).dataobj)
        image.unlink()
        for channel in range(2):
            save(dense_studies / "images" / f"ball_{number}_000{channel}.nii.gz", array + np.int16(channel))
    cases = read_cases(dense_studies / "images", dense_studies / "labels")
    assert list(cases) == ["ball_1", "ball_2"]
    for number, case in enumerate(cases.values(), start=1):
        assert [path.name for path in case.files] == [f"ball_{number}_000{channel}.nii.gz" for channel in range(2)]
        assert (case.volume.array[1] == case.volume.array[0] + 1).all()
    case.files[1].unlink()
    with pytest.raises(InputError, match="ball_2_0001"):
        read_cases(dense_studies / "images", dense_studies / "labels")


def test_a_truth_may_be_of_another_format(dense_studies):
    before = read_cases(dense_studies / "images", dense_studies / "labels")
    labels = dense_studies / "labels"
    write_label_map(labels / "ball_1.nrrd", before["ball_1"].truth.astype(np.uint8), before["ball_1"].volume.affine)
    (labels / "ball_1.nii.gz").unlink()
    cases = read_cases(dense_studies / "images", labels)
    assert cases["ball_1"].truth_file == labels / "ball_1.nrrd"
    np.testing.assert_array_equal(cases["ball_1"].truth, before["ball_1"].truth)


def test_one_volume_is_too_few(dense_studies):
    (dense_studies / "labels" / "ball_2.nii.gz").unlink()
    with pytest.raises(InputError, match="at least 2"):
        read_cases(dense_studies / "images", dense_studies / "labels")


def test_truth_on_another_grid_is_refused(dense_studies):
    save(dense_studies / "labels" / "ball_2.nii.gz", np.zeros((24, 20, 10), np.uint8))
    with pytest.raises(InputError, match="ball_2"):
        read_cases(dense_studies / "images", dense_studies / "labels")


def test_classes_are_named_by_number_or_by_the_given_names(dense_studies):
    cases = read_cases(dense_studies / "images", dense_studies / "labels")
    assert label_scheme("", cases).foreground == ("class_1",)
    assert label_scheme("ball, other", cases).foreground == ("ball", "other")
    cases["ball_1"].truth[0, 0, 0] = 3
    assert label_scheme("ball,other,third", cases).foreground == ("ball", "other", "third")
    with pytest.raises(InputError, match=r"labels/ball_1\.nii\.gz: the value 3, but --labels ball names 1 classes"):
        label_scheme("ball", cases)


def test_gaps_between_classes_without_names_are_refused(dense_studies):
    cases = read_cases(dense_studies / "images", dense_studies / "labels")
    cases["ball_2"].truth[0, 0, 0] = 100
    with pytest.raises(InputError, match=r"labels/ball_2\.nii\.gz: the value 100, but no volume has the value 2"):
        label_scheme("", cases)
    # Some volumes may lack a class that others have.
    cases["ball_2"].truth[0, 0, 0] = 3
    cases["ball_1"].truth[0, 0, 0] = 2
    assert label_scheme("", cases).foreground == ("class_1", "class_2", "class_3")

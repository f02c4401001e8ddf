import nibabel
import numpy as np

from lib.phantom.samples import make_samples
from lib.phantom.specimen import Specimen

SPECIMENS = (Specimen((40, 36, 32), seed=1), Specimen((40, 36, 32), seed=2))


def test_samples_are_made_once_and_truth_is_kept_apart(tmp_path):
    images, truth = tmp_path / "datastore", tmp_path / "truth"
    assert make_samples(images, truth, SPECIMENS)
    names = sorted(path.name for path in images.iterdir())
    assert len(names) == 2
    assert sorted(path.name for path in truth.iterdir()) == names
    for name in names:
        image, labels = nibabel.load(images / name), nibabel.load(truth / name)
        assert image.shape[:3] == labels.shape == (40, 36, 32)
        assert np.asanyarray(labels.dataobj).max() <= 2

    before = {path: path.stat().st_mtime_ns for path in images.iterdir()}
    assert not make_samples(images, truth, SPECIMENS)
    assert {path: path.stat().st_mtime_ns for path in images.iterdir()} == before


def test_missing_samples_are_made_again(tmp_path):
    images, truth = tmp_path / "datastore", tmp_path / "truth"
    make_samples(images, truth, SPECIMENS)
    (images / "kidney_1.nii.gz").unlink()
    assert make_samples(images, truth, SPECIMENS)
    assert (images / "kidney_1.nii.gz").exists()
    (truth / "kidney_2.nii.gz").unlink()
    assert make_samples(images, truth, SPECIMENS)
    assert (truth / "kidney_2.nii.gz").exists()

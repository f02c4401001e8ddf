from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import data_sets
from benchmarks.data_sets import FEWER_PHOTONS, folder_of
from lib.core.errors import InputError
from lib.core.volumes.reading import read_label_map, read_volume
from lib.phantom.specimen import SAMPLE_SPECIMENS, make_phantom
from lib.simulation.cases import read_cases


def test_a_noisy_phantom_has_the_truth_of_the_phantom_and_more_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    specimen = replace(SAMPLE_SPECIMENS[0], shape=(64, 64, 32))
    monkeypatch.setattr(data_sets, "SAMPLE_SPECIMENS", [specimen])
    image, truth = make_phantom(specimen)
    with folder_of("noisy_phantom") as folder:
        noisy = read_volume(folder / "images" / "kidney_1.nii.gz").array
        np.testing.assert_array_equal(read_label_map(folder / "labels" / "kidney_1.nii.gz").array, truth)
    # Between neighbours, mostly noise differs. Shot noise grows with the root of the light's reciprocal.
    more = np.diff(noisy[0].astype(float), axis=0).std() / np.diff(image[0].astype(float), axis=0).std()
    assert 2 < more < 2 * FEWER_PHOTONS**0.5


def test_a_brain_is_cut_into_volumes_with_both_tissues() -> None:
    pytest.importorskip("nilearn")
    with folder_of("mni152") as folder:
        cases = read_cases(folder / "images", folder / "labels")
        assert list(cases) == ["brain_1", "brain_2", "brain_3"]
        for case in cases.values():
            assert case.volume.spacing == pytest.approx((2, 2, 2))
            assert set(np.unique(case.truth)) == {0, 1, 2}
            brightness = [case.volume.array[0][case.truth == tissue].mean() for tissue in (0, 1, 2)]
            assert brightness == sorted(brightness)


def test_data_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_sets, "REAL_DATA", tmp_path)
    with pytest.raises(InputError, match=f"there is no {tmp_path}/organoid/images"), folder_of("organoid"):
        pass

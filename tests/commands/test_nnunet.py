"""Datasets of nnU-Net v2 imported and exported; voxels are compared by nibabel and SimpleITK.

nnU-Net's rules are those of its ``verify_dataset_integrity``, written down here once more.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from lib.commands.nnunet import export_dataset, import_dataset
from lib.commands.project import check_text
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.reading import read_volume, write_label_map
from lib.server.store.annotations import AnnotationReader
from project import APP
from saved_volumes import AFFINES, save_nifti
from serving import SHAPE, paint, snapshot, stored, write_image, write_label
from stores import SCHEME, open_store, submit

LABELS = {"background": 0, "inside": 1, "tubule": 2, "ignore": 3}


def voxels(path: Path) -> NDArray[Any]:
    return np.asarray(nibabel.Nifti1Image.from_filename(path).dataobj)


def as_in_nnunet(annotation: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An annotation of two classes with nnU-Net's numbers."""
    return np.choose(annotation, [3, 1, 2, 0]).astype(np.uint8)


def write_dataset(folder: Path, channels: int = 1, **changes: object) -> Path:
    """Two cases: one of ``paint``, one whose label is dense."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for seed, case in enumerate(("one", "two")):
        for channel in range(channels):
            write_image(folder / f"imagesTr/{case}_{channel:04d}.nii.gz", seed=10 * seed + channel)
    write_label(folder / "labelsTr/one.nii.gz", as_in_nnunet(paint()))
    write_label(folder / "labelsTr/two.nii.gz", as_in_nnunet(np.where(paint() == 0, 3, paint()).astype(np.uint8)))
    names = {str(number): "CT" for number in range(channels)}
    description = {"channel_names": names, "labels": LABELS, "numTraining": 2, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**description, **changes}))
    return folder


def verify(folder: Path) -> dict[str, Any]:
    """Check a dataset as nnU-Net does; return its description."""
    description: dict[str, Any] = json.loads((folder / "dataset.json").read_text())
    assert {"labels", "channel_names", "numTraining", "file_ending"} <= description.keys()
    ending, labels, channels = description["file_ending"], description["labels"], description["channel_names"]
    assert ending in (".nii.gz", ".nrrd", ".mha")
    assert labels["background"] == 0
    assert sorted(labels.values()) == list(range(len(labels)))
    assert labels.get("ignore", max(labels.values())) == max(labels.values())
    assert list(channels) == [str(number) for number in range(len(channels))]
    images = [path.name for path in (folder / "imagesTr").iterdir() if path.name.endswith(ending)]
    assert len(images) == len(list((folder / "imagesTr").iterdir()))
    cases = {name[: -len(ending) - 5] for name in images}
    assert len(cases) == description["numTraining"]
    for case in cases:
        label = sitk.ReadImage(str(folder / f"labelsTr/{case}{ending}"))
        assert set(np.unique(sitk.GetArrayFromImage(label))) <= set(labels.values())
        files = sorted(name for name in images if re.fullmatch(rf"{re.escape(case)}_\d\d\d\d{re.escape(ending)}", name))
        assert files == [f"{case}_{number:04d}{ending}" for number in range(len(channels))]
        for file in files:
            image = sitk.ReadImage(str(folder / "imagesTr" / file))
            assert image.GetSize() == label.GetSize()
            for place in ("GetSpacing", "GetOrigin", "GetDirection"):
                np.testing.assert_allclose(getattr(image, place)(), getattr(label, place)(), atol=1e-5)
            assert not np.isnan(sitk.GetArrayFromImage(image)).any()
    return description


@pytest.mark.parametrize("channels", [1, 2])
def test_there_and_back(tmp_path: Path, channels: int) -> None:
    dataset = write_dataset(tmp_path / "Dataset001_There", channels)
    studies, back = tmp_path / "studies", tmp_path / "Dataset002_Back"
    said = import_dataset(dataset, studies, "outside", None)
    assert "images: 2, with annotation: 2" in said
    assert (stored(studies, "final", "one") == paint()).all()
    assert stored(studies, "final", "two").all()
    for path in (dataset / "imagesTr").iterdir():
        assert (studies / path.name).read_bytes() == path.read_bytes()

    export_dataset(studies, back)
    assert verify(back)["labels"] == LABELS
    for path in [*(dataset / "imagesTr").iterdir(), *(dataset / "labelsTr").iterdir()]:
        again = back / path.relative_to(dataset)
        assert (voxels(again) == voxels(path)).all()
        affines = [nibabel.Nifti1Image.from_filename(of).affine for of in (again, path)]
        np.testing.assert_allclose(*affines, atol=1e-5)


def test_an_imported_project_is_one_that_a_server_opens(tmp_path: Path) -> None:
    studies = tmp_path / "my studies"
    words = shlex.split(import_dataset(write_dataset(tmp_path / "d"), studies, "outside", None).splitlines()[1])
    assert words[words.index("--studies") + 1] == str(studies)
    conf = {words[place + 1]: words[place + 2] for place, word in enumerate(words) if word == "--conf"}
    assert conf == {"labels": "inside,tubule", "background": "outside"}
    assert check_text(studies) == ("images: 2, labels as they were stored: 6, faults: 0", True)
    kept = snapshot(studies / "labels")
    store = open_store(studies, LabelScheme.parse(conf["labels"], conf["background"]))
    assert store.get_labeled_images() == ["one", "two"]
    assert store.current("one")["client_id"] == "nnU-Net"
    assert (store.annotated_volume("one", SCHEME)[1] == paint()).all()
    assert snapshot(studies / "labels") == kept


@pytest.mark.parametrize("formats", [("nrrd",), ("tif", "mha"), ("nii.gz",)])
def test_any_project_is_exported(tmp_path: Path, formats: tuple[str, ...]) -> None:
    """Of one ending or of several, of several channels in one file, oblique and left-handed."""
    studies, target = tmp_path / "studies", tmp_path / "Dataset003_x"
    studies.mkdir()
    places = ["straight"] if "tif" in formats else ["oblique", "left-handed"]
    for number, ending in enumerate([*formats, formats[0]]):
        affine = AFFINES[places[number % len(places)]]
        array = np.random.default_rng(number).integers(0, 200, SHAPE).astype(np.uint8)
        write_label_map(studies / f"v{number}.{ending}", array, affine)
    write_image(studies / "unpainted.nii.gz")
    store = open_store(studies)
    for number in range(len(formats) + 1):
        image = read_volume(store.get_image_uri(f"v{number}"))
        submit(store, tmp_path, paint()[:: 1 - 2 * (number % 2)], f"v{number}", image.affine)
    before = snapshot(studies)
    assert "cases: " + str(len(formats) + 1) + ", images without annotation, which were left out: 1" in export_dataset(
        studies, target
    )
    assert snapshot(studies) == before
    ending = verify(target)["file_ending"]
    assert ending == (f".{formats[0]}" if len(formats) == 1 else ".nii.gz")
    for number in range(len(formats) + 1):
        image = read_volume(store.get_image_uri(f"v{number}"))
        again = read_volume(target / f"imagesTr/v{number}_0000{ending}")
        label = read_volume(target / f"labelsTr/v{number}{ending}")
        assert (again.array == image.array).all()
        np.testing.assert_allclose(again.affine, image.affine, atol=1e-5)
        assert (label.array[0] == as_in_nnunet(paint()[:: 1 - 2 * (number % 2)])).all()


def test_channels_of_one_file_are_separated(tmp_path: Path) -> None:
    studies, target = tmp_path / "studies", tmp_path / "Dataset003_x"
    studies.mkdir()
    array = np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32)
    array[0, 0, 0] = np.nan
    save_nifti(studies / "a.nii.gz", array[..., None, :], AFFINES["straight"], intent="vector")
    store = open_store(studies)
    submit(store, tmp_path, np.where(paint() == 0, 3, paint()).astype(np.uint8), "a", AFFINES["straight"])
    export_dataset(studies, target)
    description = verify(target)
    assert description["channel_names"] == {"0": "channel_0", "1": "channel_1"}
    assert description["labels"] == {"background": 0, "inside": 1, "tubule": 2}
    for channel in range(2):
        found = voxels(target / f"imagesTr/a_{channel:04d}.nii.gz")
        assert (found.ravel()[1:] == array[..., channel].ravel()[1:]).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": {"background": 0, "a": [1, 2], "b": 2}}, r"label 'a' is a region \(\[1, 2\]\)"),
        ({"labels": {"a": 1, "b": 2}}, "'background' is None; nnU-Net expects 0"),
        ({"labels": {"background": 0, "a": 1, "b": 3}}, "without gaps"),
        ({"labels": {"background": 0, "ignore": 1, "b": 2, "c": 3}}, "'ignore' last"),
        (
            {"labels": {"background": 0, "a": 1, "ignore": 2}},
            r"one\.nii\.gz: has voxels of value 3, which dataset\.json",
        ),
        ({"labels": {"background": 0, "a": 1, "x,y": 2, "ignore": 3}}, "a name has a comma"),
        (
            {"labels": {"background": 0, "a": 1, "outside": 2, "ignore": 3}},
            "given twice.*or the background by --backgr",
        ),
        ({"labels": {"background": 0, "a": 1, "b;c": 2, "ignore": 3}}, r"dataset\.json: .*'b;c'.*rename the label"),
        ({"numTraining": 3}, "2 cases, but dataset.json says numTraining 3"),
        ({"file_ending": ".png"}, r"file_ending '\.png'; expected one of"),
        ({"channel_names": {"0": "a", "1": "b"}}, r"'one' has one_0000\.nii\.gz; dataset\.json has 2 channel_names"),
        ({"channel_names": None}, r"dataset\.json: channel_names: "),
        ({"dataset": {"one": {}}}, "lists its files in 'dataset'"),
    ],
)
def test_wrong_descriptions_are_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    dataset = write_dataset(tmp_path / "d", **changes)
    with pytest.raises(InputError, match=said):
        import_dataset(dataset, tmp_path / "studies", "outside", None)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_missing_files_are_named(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", 2)
    (dataset / "labelsTr/two.nii.gz").rename(tmp_path / "two.nii.gz")
    with pytest.raises(InputError, match=r"labelsTr/two\.nii\.gz: no such file"):
        import_dataset(dataset, tmp_path / "studies", "outside", None)
    (tmp_path / "two.nii.gz").rename(dataset / "labelsTr/two.nii.gz")
    (dataset / "imagesTr/one_0001.nii.gz").unlink()
    with pytest.raises(InputError, match=r"one_0001\.nii\.gz: no such file"):
        import_dataset(dataset, tmp_path / "studies", "outside", None)
    (dataset / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"dataset\.json: No such file"):
        import_dataset(dataset, tmp_path / "studies", "outside", None)


def test_a_value_to_ignore(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", labels={"background": 0, "inside": 1, "tubule": 2})
    with pytest.raises(InputError, match="--ignore 2: this value is 'tubule'"):
        import_dataset(dataset, tmp_path / "studies", "outside", 2)
    import_dataset(dataset, tmp_path / "studies", "outside", 3)
    assert (stored(tmp_path / "studies", "final", "one") == paint()).all()


def test_a_label_without_any_labelled_voxel_is_no_annotation(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d")
    write_label(dataset / "labelsTr/two.nii.gz", np.full(SHAPE, 3, np.uint8))
    assert "with annotation: 1" in import_dataset(dataset, tmp_path / "studies", "outside", None)
    assert AnnotationReader(str(tmp_path / "studies")).get_labeled_images() == ["one"]


def test_existing_targets_are_refused(tmp_path: Path) -> None:
    dataset, studies = write_dataset(tmp_path / "d"), tmp_path / "studies"
    import_dataset(dataset, studies, "outside", None)
    before = snapshot(tmp_path)
    for again in (
        lambda: import_dataset(dataset, studies, "outside", None),
        lambda: export_dataset(studies, dataset),
    ):
        with pytest.raises(InputError, match="exists already and isn't empty"):
            again()
    assert snapshot(tmp_path) == before


def test_names_that_nnunet_uses_itself_are_refused(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    import_dataset(write_dataset(tmp_path / "d"), studies, "outside", None)
    for path in studies.glob("labels/*/*.json"):
        path.write_text(path.read_text().replace('"tubule"', '"ignore"'))
    (studies / "datastore_v2.json").unlink(missing_ok=True)
    (studies / "datastore_v2.journal").unlink()
    with pytest.raises(InputError, match="the class 'ignore' has a name"):
        export_dataset(studies, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["import-nnunet", "export-nnunet"])
def test_the_command_line_and_a_kill(tmp_path: Path, command: str) -> None:
    dataset, studies, out = write_dataset(tmp_path / "d"), tmp_path / "studies", tmp_path / "made" / "Dataset009_x"
    import_dataset(dataset, studies, "outside", None)
    words = (
        [str(dataset), "--studies", str(out)] if command.startswith("import") else [str(out), "--studies", str(studies)]
    )
    process = subprocess.Popen([sys.executable, str(APP), command, *words])
    while not any(out.parent.glob(".writing-*/*")):
        assert process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    done = subprocess.run([sys.executable, str(APP), command, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert str(out) in done.stdout
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert (out / ("one_0000.nii.gz" if command.startswith("import") else "dataset.json")).is_file()
    done = subprocess.run([sys.executable, str(APP), command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "exists already" in done.stderr

"""Clicks in 3D Slicer on slices of a prediction; positions are checked on the image as Slicer reads it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import requests
import SimpleITK as sitk
from numpy.typing import NDArray

from lib.core.labels import LabelScheme
from lib.core.volumes.reading import read_volume
from lib.server.store.datastore import AnnotationStore
from serving import PATIENCE, SHAPE, Server, parts, publish, snapshot, stored, write_image
from slicer_volumes import in_slicer

pytestmark = pytest.mark.slow

SCHEME = LabelScheme(("inside", "tubule"), "outside")
SMALL = (5, 4, 6)
NUMBERS = np.arange(np.prod(SMALL), dtype=np.int16).reshape(SMALL)
"""The value of each voxel is its number in the file, whatever order a reader gives them."""

RIGHT = np.array([[0.5, 0, 0, -7], [0, 0.5, 0, 11], [0, 0, 1.25, 3], [0, 0, 0, 1]])
LEFT = RIGHT * [[-1], [1], [1], [1]]
DOWNWARDS = RIGHT @ np.diag([1, 1, -1, 1])
SAGITTAL = RIGHT[[2, 0, 1, 3]]
OBLIQUE = np.array([[0.48, -0.1, 0.2, 5], [0.14, 0.46, -0.3, 6], [0, 0.17, 1.2, 7], [0, 0, 0, 1]])
OBLIQUE[:3, :3] = np.linalg.qr(OBLIQUE[:3, :3])[0] * [0.5, 0.5, 1.25]


def write_nifti(path: Path, affine: NDArray[np.float64], channels: int = 1, vector: bool = False) -> None:
    array = NUMBERS if channels == 1 else np.stack([NUMBERS, *[NUMBERS % 7] * (channels - 1)], axis=3)
    image = nibabel.Nifti1Image(array[:, :, :, None] if vector else array, affine)
    if vector:
        image.header.set_intent("vector")
    nibabel.save(image, path)


def write_nrrd(path: Path, affine: NDArray[np.float64], channels: int = 1) -> None:
    lps = np.diag([-1, -1, 1, 1]) @ affine
    header = {"space": "left-posterior-superior", "space origin": lps[:3, 3]}
    directions = lps[:3, :3].T
    if channels == 1:
        nrrd.write(str(path), NUMBERS, {**header, "space directions": directions, "kinds": ["domain"] * 3})
        return
    directions = np.vstack([[np.nan] * 3, directions])
    array = np.stack([NUMBERS, *[NUMBERS % 7] * (channels - 1)])
    nrrd.write(str(path), array, {**header, "space directions": directions, "kinds": ["vector", *["domain"] * 3]})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of all orientations, each with a prediction of every class everywhere."""
    folder = tmp_path_factory.mktemp("studies")
    for name, affine in (("right", RIGHT), ("left", LEFT), ("down", DOWNWARDS), ("sagittal", SAGITTAL)):
        write_nifti(folder / f"{name}.nii.gz", affine)
        write_nrrd(folder / f"{name} as nrrd.nrrd", affine)
    write_nifti(folder / "oblique.nii.gz", OBLIQUE)
    for name, affine in (("right", RIGHT), ("left", LEFT)):
        write_nifti(folder / f"{name} misread.nii.gz", affine, channels=2)
        write_nifti(folder / f"{name} vector.nii.gz", affine, channels=2, vector=True)
        write_nrrd(folder / f"{name} channels.nrrd", affine, channels=2)
    store = AnnotationStore(str(folder), SCHEME)
    for seed, image in enumerate(store.list_images()):
        prediction = np.random.default_rng(seed).integers(0, 3, SMALL).astype(np.uint8)
        store.save_prediction(image, prediction, prediction, read_volume(store.get_image_uri(image)).affine, {})
    for name in ("run", "unpredicted", "of others", "of another size", "of another image", "damaged", "without tubule"):
        write_image(folder / f"{name}.nii.gz")
    store.refresh()
    affine = read_volume(folder / "run.nii.gz").affine
    store.save_prediction("of another size", np.ones(SMALL, np.uint8), np.ones(SMALL, np.uint8), affine, {})
    of_another = {"image": 1}
    store.save_prediction("of another image", np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint8), affine, of_another)
    store.save_prediction("without tubule", np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint8), affine, {})
    store.save_prediction("damaged", np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint8), affine, {})
    (folder / "labels/prediction/damaged.nii.gz").write_bytes(b"x")
    others = AnnotationStore(str(folder), LabelScheme(("vessel",), "rest"))
    others.save_prediction("of others", np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint8), affine, {})
    return folder


@pytest.fixture(scope="module")
def server(served: Path, start_server: Callable[..., Server]) -> Server:
    return start_server(served).wait()


@pytest.fixture
def unchanged(served: Path) -> Iterator[None]:
    """Check that the test changes no stored file."""
    before = snapshot(served)
    yield
    assert snapshot(served) == before


def click(server: Server, image: str, label: str, k: object, **params: object) -> requests.Response:
    """Send the plugin's request for a click."""
    point = {"label": label, "foreground": [[1, 1, k]], "background": [], "slice": k}
    return server.infer(
        image, "accept_slice", **{**point, "result_extension": ".nrrd", "result_dtype": "uint8", **params}
    )


def on_slicers_grid(file: Path, affine: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Lay a result over the image in world coordinates, as Slicer does on import."""
    result = sitk.ReadImage(str(file))
    laid = np.zeros(SMALL, np.uint8)
    to_voxel = np.linalg.inv(affine)
    for voxel in np.ndindex(result.GetSize()):
        x, y, z = result.TransformIndexToPhysicalPoint(voxel)
        place = (to_voxel @ [-x, -y, z, 1])[:3]
        np.testing.assert_allclose(place, np.rint(place), atol=1e-3)
        laid[tuple(np.rint(place).astype(int))] = result[voxel]
    return laid


# This test comes first, before there is a model.


def test_offered_once_there_is_a_model(server: Server, served: Path) -> None:
    assert server.client.info()["models"] == {}
    publish(served / "models", SCHEME)
    info = server.client.info()
    task = info["models"]["accept_slice"]
    # Because of these, the plugin lists the task in its section for clicks, and sends the slice of a click.
    assert (task["type"], task["dimension"]) == ("deepgrow", 2)
    # The plugin runs the first model with one of these labels on every image that it loads.
    assert not set(task["labels"]) & set(info["labels"])
    assert "red" in task["description"]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "name",
    [
        "right.nii.gz",
        "left.nii.gz",
        "down.nii.gz",
        "sagittal.nii.gz",
        "oblique.nii.gz",
        "right as nrrd.nrrd",
        "left as nrrd.nrrd",
        "down as nrrd.nrrd",
        "sagittal as nrrd.nrrd",
        "right misread.nii.gz",
        "left misread.nii.gz",
        "right vector.nii.gz",
        "left vector.nii.gz",
        "right channels.nrrd",
        "left channels.nrrd",
    ],
)
def test_the_slice_clicked_on_is_filled(server: Server, served: Path, tmp_path: Path, name: str) -> None:
    numbers, affine = in_slicer(served / name)
    image = name.split(".")[0]
    prediction = stored(served, "prediction", image).ravel()[numbers]
    for label, value in (("inside", 1), ("tubule", 2), ("outside", 0)):
        for k in (0, 2, SMALL[2] - 1):
            expected = np.zeros(SMALL, np.uint8)
            expected[:, :, k] = prediction[:, :, k] == value
            params, file = parts(click(server, image, label, k), tmp_path)
            # The plugin clears slice k of its segment, then adds the whole result to the segment.
            np.testing.assert_array_equal(on_slicers_grid(file, affine), expected)
            assert params["voxels"] == expected.sum()


def test_a_slice_of_the_prediction_of_run_is_accepted(server: Server, served: Path, tmp_path: Path) -> None:
    reply = click(server, "run", "inside", 5)
    assert (reply.status_code, "press Run first" in reply.text) == (400, True)
    parts(server.infer("run"), tmp_path)
    prediction = stored(served, "prediction", "run")
    for label, value in (("inside", 1), ("tubule", 2), ("outside", 0)):
        if not (prediction[:, :, 5] == value).any():
            assert click(server, "run", label, 5).status_code == 400
            continue
        for ending in (".nrrd", ".nii.gz"):
            _, file = parts(click(server, "run", label, 5, result_extension=ending), tmp_path)
            result = sitk.GetArrayFromImage(sitk.ReadImage(str(file))).T
            np.testing.assert_array_equal(result[:, :, 5], prediction[:, :, 5] == value)
            assert not np.delete(result, 5, axis=2).any()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("image", "label", "k", "words"),
    [
        ("unpredicted", "inside", 5, ["'unpredicted'", "press Run first"]),
        ("of others", "inside", 5, ["vessel (predicted)", "tubule (predicted)", "press Run"]),
        ("of another size", "inside", 5, ["of another size.nii.gz", "press Run"]),
        ("of another image", "inside", 5, ["belongs to an earlier image of this name", "press Run"]),
        ("damaged", "inside", 5, ["damaged.nii.gz", "press Run"]),
        ("without tubule", "tubule", 5, ["predicts no tubule in slice 5", "nothing is changed"]),
        ("without tubule", "outside", 5, ["predicts no outside in slice 5"]),
        ("right", "inside (predicted)", 2, ["'inside (predicted)'", "inside, tubule, outside"]),
        ("right", "nucleus", 2, ["'nucleus'", "inside, tubule, outside"]),
        ("right", "inside", 6, ["slice 6", "0 … 5"]),
        ("right", "inside", -1, ["slice -1", "0 … 5"]),
        ("right", "inside", None, ["slice None", "0 … 5"]),
        ("right", "inside", 2.5, ["slice 2.5", "0 … 5"]),
    ],
)
def test_impossible_clicks_are_refused(server: Server, image: str, label: str, k: object, words: list[str]) -> None:
    reply = click(server, image, label, k)
    assert reply.status_code == 400
    assert all(word in reply.json()["detail"] for word in words), reply.text
    assert server.get("/info/").status_code == 200


@pytest.mark.usefixtures("unchanged")
def test_other_senseless_requests_are_refused(server: Server, served: Path) -> None:
    assert click(server, "nobody", "inside", 2).status_code == 404
    reply = click(server, "right", "inside", 2, result_extension=".tif")
    assert (reply.status_code, ".nrrd" in reply.text) == (400, True)
    with (served / "right.nii.gz").open("rb") as file:
        reply = requests.post(
            f"{server.url}/infer/accept_slice",
            data={"params": '{"label": "inside", "slice": 2}'},
            files={"file": ("mine.nii.gz", file)},
            timeout=PATIENCE,
        )
    assert (reply.status_code, "only in images of the studies folder" in reply.text) == (400, True)
    reply = requests.post(f"{server.url}/batch/infer/accept_slice", json={}, timeout=PATIENCE)
    assert (reply.status_code, "whole images" in reply.text) == (404, True)

"""Label images that are written box by box, read back by zarr and JSON as the NGFF specification says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.volumes import growing_labels
from lib.core.volumes.boxes import boxes, grown
from lib.core.volumes.growing_labels import GrowingLabels
from lib.core.volumes.ome_zarr import OmeZarrSource
from ome_zarr_files import numbered, read_attributes, save

zarr = pytest.importorskip("zarr", reason="zarr needs Python 3.11")

NAMES, COLORS = {0: "out", 1: "inside", 2: "tubule"}, {1: (255, 0, 0), 2: (0, 127, 255)}
SHAPE, SIDES = (22, 17, 11), (8, 16, 8)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_labels, "CHUNK", 8)


def source(folder: Path, version: str, letters: str = "zyx") -> OmeZarrSource:
    sizes = dict(zip("xyz", SHAPE, strict=True), c=2, t=3)
    image = numbered(*(sizes[letter] for letter in letters))
    coarser = image[tuple(slice(None, None, 1 if letter in "tc" else 2) for letter in letters)]
    scales = [[1 if letter in "tc" else scale for letter in letters] for scale in (0.5, 1)]
    path = save(folder / "a.zarr", [image, coarser], letters, version, scales)
    return OmeZarrSource(path / "t0001" if "t" in letters else path, (0.5, 0.5, 0.5) if "t" in letters else None)


def labels_of(seed: int = 0) -> NDArray[np.uint8]:
    labels = np.random.default_rng(seed).integers(0, 3, SHAPE).astype(np.uint8)
    labels[:, :, 8:] = 0
    return labels


def opened(folder: Path, image: OmeZarrSource, made_from: Any = "a") -> GrowingLabels:
    return GrowingLabels(folder / "a.ome.zarr", image, made_from, {"sides": SIDES})


def write(growing: GrowingLabels, labels: NDArray[np.uint8], most: int = 100) -> int:
    """Write up to so many of the boxes that are missing; return how many were written."""
    growing.begin(NAMES, COLORS)
    missing = [box for box in boxes(SHAPE, SIDES) if not growing.is_done(box)][:most]
    for box in missing:
        growing.note(box, growing.write(box, labels[box]))
    return len(missing)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("letters", ["zyx", "cxzy", "tczyx"])
def test_labels_are_read_back(tmp_path: Path, version: str, letters: str) -> None:
    image, labels = source(tmp_path, version, letters), labels_of()
    level = image.level
    if level:
        labels = labels[::2, ::2, ::2]
    growing = opened(tmp_path / "out", image)
    assert growing.voxels is None
    growing.begin(NAMES, COLORS)
    for box in boxes(image.geometry.shape, SIDES):
        growing.note(box, growing.write(box, labels[box]))
    growing.finish()
    assert growing.voxels == {value: int((labels == value).sum()) for value in (0, 1, 2)}

    place = tmp_path / "out/a.ome.zarr"
    assert [path.name for path in place.parent.iterdir()] == ["a.ome.zarr"]
    attributes = read_attributes(place, version)
    group = zarr.open_group(place, mode="r", zarr_format=2 if version == "0.4" else 3)
    kept = "".join(letter for letter in letters if letter in "xyz")
    (multiscale,) = attributes["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == list(kept)
    for number, data in enumerate(multiscale["datasets"]):
        found = group[data["path"]][:].transpose([kept.index(letter) for letter in "xyz"])
        # Each voxel of a coarser level begins where one of the finest does.
        step = 2**number
        np.testing.assert_array_equal(found, labels[::step, ::step, ::step])
        scale = data["coordinateTransformations"][0]["scale"]
        assert scale == [0.5 * 2 ** (level + number)] * 3
    assert attributes["image-label"]["colors"][1] == {"label-value": 2, "rgba": [0, 127, 255, 255]}
    again = OmeZarrSource(place)
    np.testing.assert_array_equal(again.read()[0], labels)
    np.testing.assert_allclose(again.geometry.affine, image.geometry.affine)


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    image, labels = source(tmp_path, "0.5"), labels_of()
    assert write(opened(tmp_path, image), labels, most=5) == 5
    growing = GrowingLabels(tmp_path / "a.ome.zarr", image, "a", {"sides": (16, 16, 16)})
    assert tuple(growing.settings["sides"]) == SIDES
    assert write(growing, labels) == 12 - 5
    growing.finish()
    np.testing.assert_array_equal(OmeZarrSource(tmp_path / "a.ome.zarr").read()[0], labels)
    assert opened(tmp_path, image).voxels == growing.voxels


def test_what_is_made_from_something_else_begins_again(tmp_path: Path) -> None:
    image, old, new = source(tmp_path, "0.5"), labels_of(1), labels_of(2)
    write(opened(tmp_path, image), old)
    opened_again = opened(tmp_path, image, "b")
    assert write(opened_again, new) == 12
    opened_again.finish()
    np.testing.assert_array_equal(OmeZarrSource(tmp_path / "a.ome.zarr").read()[0], new)
    assert opened(tmp_path, image, "a").voxels is None


@pytest.mark.parametrize("call", range(3))
def test_a_kill_while_it_is_finished_loses_nothing(tmp_path: Path, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before the coarser levels are written, before their sync, and before the renaming."""
    image, labels = source(tmp_path, "0.5"), labels_of()
    growing = opened(tmp_path, image)
    write(growing, labels)
    what = ["nearest_voxels", "_sync", "replace_folder"][call]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(growing_labels, what, killed)
        with pytest.raises(KeyboardInterrupt):
            growing.finish()
    again = opened(tmp_path, image)
    if again.voxels is None:
        assert write(again, labels) == 0
    again.finish()
    np.testing.assert_array_equal(OmeZarrSource(tmp_path / "a.ome.zarr").read()[0], labels)
    assert again.voxels == {value: int((labels == value).sum()) for value in (0, 1, 2)}


@pytest.mark.parametrize(
    ("unit", "most", "expected"),
    [((8, 8, 8), 8**3, (8, 8, 8)), ((8, 8, 8), 10_000, (24, 17, 24)), ((1, 30, 40), 5_000, (4, 30, 40))],
)
def test_boxes_grow_to_near_cubes(unit: Any, most: int, expected: Any) -> None:
    shape = (100, 17, 90) if unit[0] == 8 else (100, 30, 40)
    sides = grown(unit, shape, most)
    assert np.prod(np.minimum(sides, shape)) <= most
    assert tuple(min(pair) for pair in zip(sides, shape, strict=True)) == expected
    count = np.zeros(shape, int)
    for box in boxes(shape, sides):
        count[box] += 1
    assert (count == 1).all()


def test_others_help_only_with_what_is_begun_and_the_first_one_notes_what_is_done(tmp_path: Path) -> None:
    image, labels = source(tmp_path, "0.5"), labels_of()
    every = list(boxes(SHAPE, SIDES))
    first, other = opened(tmp_path, image), opened(tmp_path, image)
    with pytest.raises(InputError, match="no unfinished label image"):
        other.join()
    first.begin(NAMES, COLORS)
    for box in every:
        other = opened(tmp_path, image)
        other.join()
        voxels = other.write(box, labels[box])
        assert voxels == {value: int((labels[box] == value).sum()) for value in np.unique(labels[box])}
        assert not first.is_done(box)
        first.note(box, voxels)
        assert first.is_done(box)
    (first.folder / "0/c.0123.partial").write_bytes(b"left by a process that was killed")
    first.finish()
    assert not list(first.place.rglob("*.partial"))
    # A process that nobody waits for any more must not write into what another model has begun.
    opened(tmp_path, image, "b").begin(NAMES, COLORS)
    with pytest.raises(InputError, match="no unfinished label image"):
        opened(tmp_path, image).join()

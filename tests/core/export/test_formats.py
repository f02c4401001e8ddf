"""What other software computes by the exported files has the labels that *Run* gives."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from exported import AFFINE, MACHINE, VOXEL, agreement, image, labels_of_run, train_model
from lib.core.errors import InputError
from lib.core.export.package import WRITERS, Package
from lib.core.export.preprocessing import preprocessing
from lib.core.export.segmentation import Segmentation
from lib.core.inference.segmenter import Segmenter
from lib.core.model.model import Model
from lib.core.volumes.reading import read_volume
from lib.core.volumes.volume import Volume

LEAST = 0.9995
"""Share of equal labels. The same numbers are computed in another order."""

PLANS: dict[str, dict[str, Any]] = {
    "resampled": {"statistics": "running", "spacing": (1.9, 1.1, 1.5)},
    "own voxels": {"statistics": "running", "spacing": VOXEL, "channels": 1},
    "residual": {"statistics": "running", "network": "residual", "spacing": VOXEL},
}


@pytest.fixture(scope="module", params=PLANS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a trained model."""
    return train_model(tmp_path_factory.mktemp("models"), **PLANS[request.param])


def channels_of(model: Path) -> int:
    return Model.load(model).plan.channels


def python(*arguments: object, cwd: Path, without: tuple[str, ...] = ()) -> str:
    """Run Python without this software, and without some packages; return what it printed."""
    start = "import sys, runpy; sys.argv = sys.argv[1:]; sys.modules.update(dict.fromkeys(%r)); "
    command = [sys.executable, "-c", start % (without,) + "runpy.run_path(sys.argv[0], run_name='__main__')"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*command, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, env={**environment, "HOME": str(cwd)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("shape", "masked", "times"), [((33, 25, 15), 0, 1), ((21, 24, 18), 6, 1), ((37, 21, 13), 2, 4)]
)
def test_onnx_by_the_runner_with_onnxruntime_and_numpy_only(
    model: Path, tmp_path: Path, shape: tuple[int, int, int], masked: int, times: int
) -> None:
    """Images in one piece, one of them masked, and a long one in several small pieces."""
    Package.of(model).write(tmp_path / "out", "onnx")
    if times > 1:
        facts = tmp_path / "out/preprocessing.json"
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "piece": 56}))
    array = np.tile(image(shape, channels_of(model), seed=4, masked=masked), (1, times, 1, 1))
    np.save(tmp_path / "image.npy", array)
    others = ("torch", "monai", "scipy", "skimage", "nibabel", "SimpleITK", "onnx", "lib")
    arguments = (tmp_path / "out/run.py", "image.npy", "labels.npy", *VOXEL)
    python(*arguments, cwd=tmp_path, without=others)
    found = np.load(tmp_path / "labels.npy")
    assert found.dtype == np.uint8
    assert agreement(found, labels_of_run(model, Volume(array, AFFINE))) >= LEAST


def test_torchscript_with_torch_only(model: Path, tmp_path: Path) -> None:
    Package.of(model).write(tmp_path / "out", "torchscript")
    array = image((33, 25, 15), channels_of(model), seed=4, masked=6)
    np.save(tmp_path / "image.npy", array)
    script = tmp_path / "use.py"
    script.write_text(
        "import numpy, torch\n"
        "model = torch.jit.load('out/model.ts')\n"
        f"labels = model.segment(torch.as_tensor(numpy.load('image.npy')), {list(VOXEL)})\n"
        "numpy.save('labels.npy', labels.numpy())\n"
    )
    python(script, cwd=tmp_path, without=("monai", "scipy", "lib"))
    assert agreement(np.load(tmp_path / "labels.npy"), labels_of_run(model, Volume(array, AFFINE))) >= LEAST


def test_rounding_in_half_precision_changes_few_labels(model: Path) -> None:
    """Where the processor computes in bfloat16, *Run* does, and these networks have hardly learnt anything."""
    package = Package.of(model)
    array = image((71, 52, 31), channels_of(model), seed=4)
    run = Segmenter.of(Model.load(model)).segment(Volume(array, AFFINE), MACHINE)
    segmentation = Segmentation(package.frozen.network, preprocessing(package.plan))
    assert agreement(segmentation.segment(torch.as_tensor(array), list(VOXEL)).numpy(), run) >= 0.99


def write_images(folder: Path, channels: int) -> list[Path]:
    """Write two images as NIfTI, with channels in the fourth and in the fifth axis."""
    folder.mkdir()
    array = np.moveaxis(image((33, 25, 15), channels, seed=4, masked=6), 0, -1)
    paths = []
    for name, shape in (("a", (33, 25, 15, channels)), ("b", (33, 25, 15, 1, channels))):
        nifti = nibabel.Nifti1Image(array.reshape(shape) if channels > 1 else array[..., 0], AFFINE)
        nifti.header.set_xyzt_units("mm")
        if len(shape) == 5:
            nifti.header.set_intent("vector")
        nibabel.save(nifti, folder / f"{name}.nii.gz")
        paths.append(folder / f"{name}.nii.gz")
    return paths


def check_segmented(model: Path, path: Path, result: Path) -> None:
    volume, found = read_volume(path), nibabel.load(result)
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_allclose(found.affine, volume.affine, atol=1e-5)
    assert agreement(np.asarray(found.dataobj), labels_of_run(model, volume)) >= LEAST


@pytest.mark.slow
def test_a_bundle_by_monai_bundle_run(model: Path, tmp_path: Path) -> None:
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    Package.of(model).write(bundle, "bundle")
    paths = write_images(tmp_path / "images", channels_of(model))
    command = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", bundle, "--output_dir", out]
    configs = ["--config_file", bundle / "configs/inference.json", "--meta_file", bundle / "configs/metadata.json"]
    words = [*command, *configs, "--dataset_dir", tmp_path / "images"]
    done = subprocess.run(list(map(str, words)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in paths:
        name = path.name.partition(".")[0]
        check_segmented(model, path, out / name / f"{name}_seg.nii.gz")


READER = """
import sys
import torch
from monai.bundle import ConfigParser

bundle, image, out = sys.argv[1:]
parser = ConfigParser()
parser.read_config(bundle + "/configs/inference.json")
parser["bundle_root"], parser["output_dir"], parser["dataset_dir"] = bundle, out, "nowhere"
parser["datalist"] = [image]
parser["device"] = parser["inferer"]["device"] = torch.device("cpu")
parser["dataloader"]["num_workers"] = 0
parser.get_parsed_content("evaluator").run()
"""


@pytest.mark.slow
def test_a_bundle_by_a_program_that_sets_its_parts(model: Path, tmp_path: Path) -> None:
    """As 3D Slicer's extension MONAIAuto3DSeg does, from another folder than the bundle's."""
    Package.of(model).write(tmp_path / "bundle", "bundle")
    path = write_images(tmp_path / "images", channels_of(model))[0]
    (tmp_path / "reader.py").write_text(READER)
    python("reader.py", tmp_path / "bundle", path, tmp_path / "out", cwd=tmp_path)
    check_segmented(model, path, tmp_path / "out/a/a_seg.nii.gz")


def test_a_bundle_has_what_monai_requires(model: Path, tmp_path: Path) -> None:
    from monai.bundle import ConfigWorkflow

    Package.of(model).write(tmp_path / "bundle", "bundle")
    configs = tmp_path / "bundle/configs"
    workflow = ConfigWorkflow(
        str(configs / "inference.json"), str(configs / "metadata.json"), workflow_type="infer", logging_file=False
    )
    workflow.parser["bundle_root"] = str(tmp_path / "bundle")
    workflow.initialize()
    assert not workflow.check_properties()
    channels = json.loads((configs / "metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    assert channels["channel_def"] == {"0": "background", "1": "ball", "2": "shell"}


VALIDATE = """
import sys
import numpy
from bioimageio.core import predict, test_model
from bioimageio.spec import InvalidDescr, load_description

model = load_description(sys.argv[1])
assert not isinstance(model, InvalidDescr), model.validation_summary
tested = test_model(model)
assert tested.status == "passed", tested
found = predict(model=model, inputs=numpy.load(sys.argv[2])[None].astype("float32"))
numpy.save(sys.argv[3], found.members["probabilities"].data.to_numpy()[0].argmax(axis=0))
"""


@pytest.mark.slow
def test_bioimageio_validates_and_runs_there(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("bioimageio.core", reason="needs pip install --no-deps -r requirements-bioimageio.txt")
    Package.of(model, licence="CC-BY-4.0").write(tmp_path / "out", "bioimageio")
    working = Model.load(model).plan.spacing
    array = image((33, 25, 15), channels_of(model), seed=4)
    # The package says that it needs images of the network's voxel size.
    volume = Volume(array, np.diag([*(working or VOXEL), 1]))
    np.save(tmp_path / "image.npy", array)
    (tmp_path / "validate.py").write_text(VALIDATE)
    python("validate.py", tmp_path / "out/bioimageio.yaml", "image.npy", "labels.npy", cwd=tmp_path)
    found = np.load(tmp_path / "labels.npy")
    assert agreement(found, labels_of_run(model, volume)) >= LEAST
    page = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert ("resample it to this voxel size" in page) == (working is not None)


def test_what_is_there_stays(model: Path, tmp_path: Path) -> None:
    package = Package.of(model)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("precious")
    for kind in WRITERS:
        with pytest.raises(InputError, match="exists already and isn't empty"):
            package.write(tmp_path / "out", kind)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]
    with pytest.raises(InputError, match="--as: 'caffe'; give one of bundle, onnx, bioimageio, torchscript"):
        package.write(tmp_path / "new", "caffe")
    with pytest.raises(InputError, match=r"--licence 'ask me': BioImage\.IO needs an SPDX identifier"):
        Package.of(model, licence="ask me").write(tmp_path / "new", "bioimageio")
    assert not (tmp_path / "new").exists()

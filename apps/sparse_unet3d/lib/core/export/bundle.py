"""A MONAI bundle: ``monai.bundle run`` segments images by it, and so does what reads ``configs/inference.json``."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

from lib.core.software import VERSION

from .card import ModelCard
from .freezing import Frozen
from .torchscript import save_segmentation

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"

USE = """
## Use

```sh
python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json \\
    --bundle_root . --dataset_dir IMAGES --output_dir RESULTS
```

This segments each `.nii.gz` in `IMAGES`. The label map is `RESULTS/NAME/NAME_seg.nii.gz`. Programs may set `datalist`
to other files that MONAI reads. The packages that it needs are in `configs/metadata.json`. MONAI takes the lengths in a
file for millimetres, whatever unit the file states.
"""

INFERENCE = {
    "imports": ["$import glob", "$import os", "$import torch", "$from monai.data import MetaTensor"],
    "bundle_root": ".",
    "dataset_dir": "$@bundle_root + '/images'",
    "output_dir": "$@bundle_root + '/results'",
    "datalist": "$sorted(glob.glob(os.path.join(@dataset_dir, '*.nii.gz')))",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "network_def": "$torch.jit.load(@bundle_root + '/models/model.ts', map_location=@device)",
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image", "dtype": None, "ensure_channel_first": True},
            {
                "_target_": "Lambdad",
                "keys": "image",
                "func": "$lambda x: MetaTensor(@network_def.prepare(x.as_tensor().reshape(x.shape[:4]), "
                "[float(size) for size in x.pixdim]), meta={**x.meta, 'shape': x.shape[1:4]})",
            },
        ],
    },
    "dataset": {
        "_target_": "Dataset",
        "data": "$[{'image': image} for image in @datalist]",
        "transform": "@preprocessing",
    },
    "dataloader": {
        "_target_": "DataLoader",
        "dataset": "@dataset",
        "batch_size": 1,
        "shuffle": False,
        "num_workers": 0,
    },
    # One window, the whole image: the network itself computes a large image piece by piece.
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [-1, -1, -1], "sw_batch_size": 1, "device": "@device"},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {
                "_target_": "Lambda",
                "func": "$lambda d: {**d, 'pred': MetaTensor(@network_def.back(d['pred'].as_tensor(), "
                "list(d['image'].meta['shape'])).argmax(dim=0, keepdim=True), meta=d['image'].meta)}",
            },
            {
                "_target_": "SaveImaged",
                "keys": "pred",
                "output_dir": "@output_dir",
                "output_postfix": "seg",
                "output_ext": ".nii.gz",
                "output_dtype": "uint8",
                "resample": False,
            },
        ],
    },
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
        "amp": False,
    },
    "run": ["$@evaluator.run()"],
}


def write_bundle(folder: Path, frozen: Frozen, facts: dict[str, Any], card: ModelCard) -> None:
    """Write a bundle into a folder: ``configs``, ``models/model.ts`` and ``docs/README.md``."""
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir()
    save_segmentation(folder / "models/model.ts", frozen, facts)
    for file, values in (("inference", INFERENCE), ("metadata", _metadata(facts, card))):
        (folder / f"configs/{file}.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    (folder / "docs/README.md").write_text(card.to_markdown() + USE, encoding="utf-8")


def _metadata(facts: dict[str, Any], card: ModelCard) -> dict[str, Any]:
    needed = card.exported_by
    shape = {"num_channels": facts["channels"], "spatial_shape": ["*", "*", "*"], "dtype": "float32"}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: f"training run {card.run}, epoch {card.epoch}"},
        "monai_version": needed["monai"],
        "pytorch_version": needed["torch"].partition("+")[0],
        "numpy_version": needed["numpy"],
        "required_packages_version": {
            "nibabel": metadata.version("nibabel"),
            "pytorch-ignite": metadata.version("pytorch-ignite"),
        },
        "name": f"Segmentation of {', '.join(card.classes)}",
        "task": "Segmentation of 3-D images",
        "description": f"Segments {', '.join(card.classes)}. {card.statistics}",
        "authors": "those who trained it",
        "copyright": card.licence or "no licence is stated",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "intensity",
                    "modality": "n/a",
                    **shape,
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": {str(channel): f"channel {channel}" for channel in range(facts["channels"])},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    **shape,
                    "num_channels": len(facts["classes"]),
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": {str(value): name for value, name in enumerate(facts["classes"])},
                }
            },
        },
    }

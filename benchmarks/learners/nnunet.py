"""nnU-Net (nnunetv2) with an ignore label, and its own plan, preprocessing, augmentation and training step."""

import json
import os
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from numpy.typing import NDArray

from benchmarks.learning import Task, Trial
from lib.core.labels import IGNORED
from lib.core.training.cases import TrainingCase

NUMBER, NAME = 1, "Dataset001_task"
CONFIGURATION = "3d_fullres"
PROCESSES = 2
"""Processes for preprocessing; its default is 8, for larger computers."""

AUGMENTING_PROCESSES = 1
"""Processes that draw patches in parallel with the training step."""

OVERLAP = 0.25


def learn(trial: Trial, seed: int) -> None:
    """Plan, preprocess and train on all volumes (fold ``all``)."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (its patches are drawn from numpy's global generator)
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        for name in ("raw", "preprocessed", "results"):
            (folder / name).mkdir()
            os.environ[f"nnUNet_{name}"] = str(folder / name)
        os.environ["nnUNet_n_proc_DA"] = str(AUGMENTING_PROCESSES)  # noqa: SIM112 (its own name)
        _write(folder / "raw" / NAME, trial.task)
        extract_fingerprints([NUMBER], num_processes=PROCESSES)
        plans = plan_experiments([NUMBER])
        preprocess([NUMBER], plans, (CONFIGURATION,), (PROCESSES,))
        trainer = get_trainer_from_args(str(NUMBER), CONFIGURATION, "all", device=torch.device(trial.device))
        _train(trainer, trial)


def _train(trainer: nnUNetTrainer, trial: Trial) -> None:
    trainer.on_train_start()
    loaders = (trainer.dataloader_train, trainer.dataloader_val)
    segmenter = _Segmenter(trainer)
    try:
        while trial.goes_on(segmenter.segment):
            # Its learning rate falls to 0 over 1000 epochs of 250 steps; here it falls to 0 over the budget.
            part = min(1.0, trial.clock.seconds / trial.budget)
            trainer.lr_scheduler.step(part * trainer.num_epochs)
            trainer.network.train()
            trainer.train_step(next(trainer.dataloader_train))
    finally:
        for loader in loaders:
            if isinstance(loader, NonDetMultiThreadedAugmenter):
                loader._finish()


class _Segmenter:
    """Its sliding window over the preprocessed volumes, and the way back to their own grids."""

    def __init__(self, trainer: nnUNetTrainer) -> None:
        self._trainer = trainer
        self._predictor = nnUNetPredictor(
            tile_step_size=1 - OVERLAP, use_mirroring=False, device=trainer.device, allow_tqdm=False
        )
        self._predictor.manual_initialization(
            trainer.network,
            trainer.plans_manager,
            trainer.configuration_manager,
            None,
            trainer.dataset_json,
            type(trainer).__name__,
            None,
        )
        dataset, _ = trainer.get_tr_and_val_datasets()
        self._loaded = {name: dataset.load_case(name) for name in dataset.identifiers}

    def segment(self, case: TrainingCase) -> NDArray[np.uint8]:
        """Segment one of the cases."""
        trainer = self._trainer
        image, _, _, properties = self._loaded[case.id]
        trainer.set_deep_supervision_enabled(False)
        with torch.no_grad():
            logits = self._predictor.predict_sliding_window_return_logits(torch.from_numpy(np.array(image[:])))
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
        labels = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits,
            trainer.plans_manager,
            trainer.configuration_manager,
            trainer.label_manager,
            properties,
            num_threads_torch=torch.get_num_threads(),
        )
        # Its axes are z, y, x.
        classes: NDArray[np.uint8] = np.asarray(labels).transpose(2, 1, 0).astype(np.uint8)
        return classes


def _write(folder: Path, task: Task) -> None:
    """Write the task in its raw format, the ignored value being the number of classes."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    for case in task.cases:
        affine = np.diag([*case.volume.spacing, 1.0])
        for channel, values in enumerate(case.load().array):
            image = nibabel.Nifti1Image(values.astype(np.float32), affine)
            nibabel.save(image, folder / "imagesTr" / f"{case.id}_{channel:04d}.nii")
        targets = task.scheme.targets(case.annotation)
        labels = np.where(targets == IGNORED, task.classes, targets).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "labelsTr" / f"{case.id}.nii")
    names = ("background", *task.scheme.foreground, "ignore")
    description = {
        "channel_names": {str(channel): f"channel {channel}" for channel in range(task.channels)},
        "labels": {name: value for value, name in enumerate(names)},
        "numTraining": len(task.cases),
        "file_ending": ".nii",
    }
    (folder / "dataset.json").write_text(json.dumps(description))

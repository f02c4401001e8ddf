"""The learners, which all learn from the same annotated slices: a file for each software, used as its users would.

Each file has functions ``learn(trial, seed)``. They learn ``trial.task`` until the trial is over, and let the trial
score the model after each step. Each file imports what its software needs at its top.
"""

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Learner:
    """A learner.

    Attributes:
        entry: ``module:function`` below this package.
        imports: code that its process runs before it sees the annotation; this time counts.
        setup: how the software is used, in words.
        package: module of an alternative that has to be installed for it.
        published: whether its result stays the same until another one replaces it.
        at_once: whether it has one result, not ever better ones.
        tuned: whether somebody who knows the software chose its settings, rather than its authors.
    """

    entry: str
    imports: str
    setup: str
    package: str | None = None
    published: bool = False
    at_once: bool = False
    tuned: bool = False

    @property
    def is_installed(self) -> bool:
        """Whether the package is there that it needs."""
        try:
            return self.package is None or find_spec(self.package) is not None
        except ModuleNotFoundError:
            # The package that should contain the module is missing.
            return False


TUNED = (
    "{}, on a processor of half its width, masked cross-entropy and Dice, AdamW, falling learning rate, averaged "
    "weights, bfloat16, our working grid and held-out slices, which choose the class weights and whether to mirror"
)

SERVER = "import monailabel.interfaces.utils.app, main"
"""What the server's process of a training imports. A rented machine may lack MONAI Label, whose start then doesn't
count."""

LEARNERS = {
    "ours": Learner(
        "ours:learn",
        SERVER if find_spec("monailabel") else "import lib.core.training.run",
        "as the server trains; what is scored is the published model",
        published=True,
    ),
    "pytorch3dunet": Learner(
        "pytorch3dunet:learn",
        "import pytorch3dunet.train",
        "UNet3D (f_maps 32, gcr), cross-entropy with ignore_index, Adam and augmentation of its example configurations",
        "pytorch3dunet",
    ),
    "nnunetv2": Learner(
        "nnunet:learn",
        "import nnunetv2.experiment_planning.plan_and_preprocess_entrypoints, nnunetv2.run.run_training",
        "3d_fullres of its own plan with its ignore label, fold all; its learning rate falls to 0 over the budget",
        "nnunetv2",
    ),
    "monai_basicunet": Learner(
        "monai:learn_basicunet",
        "import monai.data, monai.inferers, monai.networks.nets, monai.transforms",
        "BasicUNet with its default features, masked cross-entropy, Adam, MONAI's transforms",
        "monai",
    ),
    "monai_dynunet": Learner(
        "monai:learn_dynunet",
        "import monai.data, monai.inferers, monai.networks.nets, monai.transforms",
        "DynUNet with kernels and strides by nnU-Net's rules, masked cross-entropy, Adam, MONAI's transforms",
        "monai",
    ),
    "monai_basicunet_tuned": Learner(
        "tuned:learn_basicunet",
        "import monai.data, monai.inferers, monai.networks.nets, monai.transforms",
        TUNED.format("BasicUNet"),
        "monai",
        tuned=True,
    ),
    "monai_dynunet_tuned": Learner(
        "tuned:learn_dynunet",
        "import monai.data, monai.inferers, monai.networks.nets, monai.transforms",
        TUNED.format("DynUNet with kernels and strides by nnU-Net's rules"),
        "monai",
        tuned=True,
    ),
    "pytorch3dunet_tuned": Learner(
        "tuned:learn_pytorch3dunet",
        "import pytorch3dunet.train, monai.data, monai.inferers, monai.transforms",
        TUNED.format("ResidualUNet3D of four levels"),
        "pytorch3dunet",
        tuned=True,
    ),
    "random_forest": Learner(
        "forest:learn",
        "import skimage.feature, sklearn.ensemble",
        "100 trees on features of six scales, as in ilastik; our working grid and held-out slices, which choose the "
        "class weights and the size of the leaves",
        "sklearn",
        at_once=True,
    ),
    "biomedisa": Learner(
        "biomedisa:learn",
        "import biomedisa.interpolation, mpi4py.MPI, pyopencl",
        "smart interpolation along all axes with its defaults, by OpenCL on the processor; channels are averaged",
        "biomedisa",
        at_once=True,
    ),
    "interpolation": Learner(
        "interpolation:learn",
        "import itk; itk.MorphologicalContourInterpolator",
        "morphological contour interpolation between the painted slices; nothing is learnt",
        "itk.itkMorphologicalContourInterpolatorPython",
        at_once=True,
    ),
}

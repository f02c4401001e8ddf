"""The model card: what an exported model was made from, what is known of its quality, and who may use it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from lib.core.errors import InputError
from lib.core.model.model import Model
from lib.core.model.origin import PaintVersion
from lib.core.software import software

UNKNOWN = "not recorded, since an earlier version of this software trained the model"


@dataclass(frozen=True)
class ImageSlices:
    """How much of an image a model has learnt from.

    Attributes:
        trained: annotated slices that it was trained on.
        held_out: annotated slices that were held out, and planes of blocks.
    """

    trained: int
    held_out: int


@dataclass(frozen=True)
class ModelCard:
    """What people have to know of an exported model.

    Attributes:
        sha256: of the model file, in hexadecimal digits.
        classes: names of the foreground classes, in the order of labels from 1.
        background: what people painted as background, label 0.
        channels: of the images.
        voxel_mm: median voxel size of the training images along X, Y, Z; None if it isn't known.
        working_mm: voxel size at which the network works; None if it is each image's own.
        network: its architecture, width and number of parameters.
        statistics: which statistics are frozen, and when labels equal those of *Run*.
        images: the training images by name.
        metric: name of the score, ``validation IoU`` on held-out slices, or ``training IoU`` if none were held out.
        score: mean foreground IoU, 0 … 1.
        scored_with: the statistics of batch normalisation by which the scores were measured.
        iou: IoU by class, None for a class that isn't in the scored slices; None if it isn't known.
        run: when the training started.
        epoch: the epoch after which the weights were taken.
        seed: of the training; None if it isn't known.
        trained_by: versions of the software that trained it; None if they aren't known.
        exported_by: versions of the software that exported it.
        licence: of the model, e.g. an SPDX identifier; empty if nobody has stated one.
        paint: versions of annotations that went into it; None if they aren't told.
    """

    sha256: str
    classes: tuple[str, ...]
    background: str
    channels: int
    voxel_mm: tuple[float, ...] | None
    working_mm: tuple[float, ...] | None
    network: str
    statistics: str
    images: dict[str, ImageSlices]
    metric: str
    score: float
    scored_with: str
    iou: dict[str, float | None] | None
    run: str
    epoch: int
    seed: int | None
    trained_by: dict[str, str] | None
    exported_by: dict[str, str]
    licence: str
    paint: tuple[PaintVersion, ...] | None

    @classmethod
    def of(cls, model: Model, sha256: str, statistics: str, licence: str, provenance: bool) -> "ModelCard":
        """Describe a model.

        Args:
            model: the model.
            sha256: of its file.
            statistics: see above.
            licence: see above.
            provenance: whether to tell which versions of annotations went into it, and by whom.

        Raises:
            InputError: ``provenance``, but the model doesn't know.
        """
        plan, split, origin = model.plan, model.split, model.origin
        if provenance and (origin is None or origin.paint is None):
            raise InputError(
                "--provenance: the model doesn't record all versions of the annotations that it has learnt from, since "
                "an earlier version of this software, or a program, trained it; leave --provenance out, or train afresh"
            )
        names = sorted({*split.training, *split.validation, *split.blocks})
        return cls(
            sha256=sha256,
            classes=plan.scheme.foreground,
            background=plan.scheme.background,
            channels=plan.channels,
            voxel_mm=plan.voxel_size,
            working_mm=plan.spacing,
            network=f"{plan.network}, width {plan.width}, {sum(of.numel() for of in model.network.parameters())} "
            "parameters",
            statistics=statistics,
            images={
                name: ImageSlices(
                    len(split.training.get(name, ())),
                    len(split.validation.get(name, ()))
                    + sum(block.last - block.first + 1 for block in split.blocks.get(name, ())),
                )
                for name in names
            },
            metric=model.metric,
            score=model.score,
            scored_with=plan.statistics,
            iou=dict(origin.iou) if origin else None,
            run=model.run,
            epoch=model.epoch,
            seed=origin.seed if origin else None,
            trained_by=dict(origin.software) if origin else None,
            exported_by=software(),
            licence=licence,
            paint=origin.paint if provenance and origin else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON values; what isn't known is null, and so is ``paint`` if it isn't told."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Return the card as a page for people."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield f"# Segmentation of {', '.join(self.classes)}"
        yield ""
        yield "A network that segments images like those that it was trained on. It learnt from annotated slices, by"
        yield "Sparse U-Net for 3D Slicer, which follows Çiçek et al. 2016 (https://arxiv.org/abs/1606.06650). It was"
        yield "never tested for medical decisions."
        yield ""
        yield from _table(("label", "class"), enumerate([f"{self.background} (background)", *self.classes]))
        yield from _table(("what", "of this model"), self._facts())
        yield "## Frozen statistics"
        yield ""
        yield self.statistics
        yield ""
        yield "The network computes in float32. Where Run uses half precision, as on most GPUs, rounding gives some"
        yield "voxels at the borders of classes another label."
        yield ""
        yield "## Quality"
        yield ""
        if self.metric == "training IoU":
            yield "No slice was held out, so the scores are those of slices that it was trained on, and say little."
        else:
            yield "Scores of slices that it wasn't trained on. They are slices of the training images."
        yield f"They were measured with {self.scored_with} statistics of batch normalisation."
        yield ""
        if self.iou is None:
            yield f"IoU by class: {UNKNOWN}."
            yield ""
        scores = [(name, "not in these slices" if of is None else f"{of:.3f}") for name, of in (self.iou or {}).items()]
        yield from _table(("class", self.metric), [*scores, ("mean", f"{self.score:.3f}")])
        yield "## Training"
        yield ""
        rows = [(name, of.trained, of.held_out) for name, of in self.images.items()]
        total = ("all", sum(row[1] for row in rows), sum(row[2] for row in rows))
        yield from _table(("image", "slices trained on", "slices held out"), [*rows, total])
        if self.paint is not None:
            yield "## Provenance"
            yield ""
            yield "All versions of annotations that the network has learnt from, in this training and in those that it"
            yield "continued:"
            yield ""
            of_paint = [(v.image, v.version, v.by or "unnamed", v.time or "unknown", v.sha256) for v in self.paint]
            yield from _table(("image", "version", "by", "time", "SHA-256 of the file"), of_paint)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "channels of the image", self.channels
        yield "voxels of the training images (mm)", _by(self.voxel_mm) if self.voxel_mm else UNKNOWN
        yield "voxels of the network (mm)", _by(self.working_mm) if self.working_mm else "each image's own"
        yield "network", self.network
        yield "training", f"run {self.run}, epoch {self.epoch}"
        yield "seed", UNKNOWN if self.seed is None else self.seed
        yield "trained by", _versions(self.trained_by) if self.trained_by else UNKNOWN
        yield "exported by", _versions(self.exported_by)
        yield "model file (SHA-256)", self.sha256
        yield "licence", self.licence or "none stated: ask those who trained it before you use it"


def _table(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
    yield ""


def _by(sizes: tuple[float, ...]) -> str:
    return " × ".join(f"{size:.6g}" for size in sizes)


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())

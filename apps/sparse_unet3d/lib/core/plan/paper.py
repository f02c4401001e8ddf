"""A plan compared with the paper: what the paper states, where the plan differs, and what the paper leaves open."""

import dataclasses

from lib.core.network.architectures import PAPER

from .plan import LONGEST_GRADIENT, PAPER_TILE, PAPER_WIDTH, Plan


def as_in_paper(plan: Plan) -> Plan:
    """Return the plan with everything that the paper states about training and testing; width and spacing stay."""
    return dataclasses.replace(
        plan,
        recipe="paper",
        tile=PAPER_TILE,
        context=plan.architecture.tiles.context,
        statistics="tile",
        test_tile=PAPER_TILE,
        centres="voxels",
        class_balance=1.0,
        decay=0.0,
        nesterov=False,
        averaging=0.0,
        half_precision=False,
    )


def differences(plan: Plan) -> list[str]:
    """List how the network and its training differ from the paper, and why."""
    found = {
        f"width {plan.width} instead of {PAPER_WIDTH}: a step takes a fraction of the time": plan.width != PAPER_WIDTH,
        f"tile {plan.tile} instead of {PAPER_TILE}: more output and thus more labelled voxels in a step's time": (
            plan.tile != PAPER_TILE
        ),
        f"{plan.context} voxels of context around a training tile's output instead of "
        f"{plan.architecture.tiles.context}, and convolutions padded with zeros in training: a step takes a fraction "
        "of the time": plan.is_padded,
        f"class weights are the numbers of voxels to the power of -{plan.class_balance:.2g}, and training tiles are "
        "centred on all classes equally often, instead of class weights that alone give each class the same influence: "
        "rare classes are learnt sooner": (plan.class_balance, plan.centres) != (1, "voxels"),
        f"the learning rate falls to 0 as (1 - progress)^{plan.decay:g}: the last steps change less": plan.decay > 0,
        "the average of the last steps' weights is used: scores vary less, and high scores come sooner": (
            plan.averaging > 0
        ),
        "half precision where the device supports it natively: it is faster": plan.half_precision,
        f"batch normalisation by {plan.statistics} statistics outside training, instead of each tile's own: scores "
        "were higher, and tiles join without seams": plan.statistics != "tile",
        f"test tile {plan.test_tile} instead of {PAPER_TILE}": plan.statistics == "tile"
        and plan.test_tile != PAPER_TILE,
        f"unpainted voxels in annotated slices count as {plan.scheme.background}": plan.unpainted == "background",
        "no batch normalisation": not plan.batch_norm,
        "a 2-D network": plan.dims == 2,
        f"the network {plan.network} instead of the paper's": plan.network != PAPER.name,
        "soft Dice added to weighted cross-entropy: scores were higher": plan.loss == "dice_cross_entropy",
    }
    return [what for what, differs in found.items() if differs]


def choices(plan: Plan) -> list[str]:
    """List what the paper leaves open, and what was chosen."""
    deformation, grey_values = plan.augmentation.deformation, plan.augmentation.grey_values
    momentum = f"{'Nesterov ' if plan.nesterov else ''}momentum {plan.momentum:g}"
    centres = "on each class equally often" if plan.centres == "classes" else "on each labelled voxel equally often"
    return [
        f"learning rate {plan.learning_rate:g}, {momentum}; no weight decay",
        "the training options set the number of steps (the paper: 70 000); each step takes one tile",
        f"training tiles are centred {centres}; beyond the image's border, they show its mirror image",
        f"rotation up to ±{deformation.rotation:g}° about each axis, scaling by up to {deformation.scaling:.0%}",
        f"grey values: a smooth rising curve, its slope changed by a factor of e^±{grey_values.slope_sd:g}, its "
        f"offset by {grey_values.offset_sd:g} (standard deviations; the image's range is 0 … 1)",
        "deformed labels are taken from the nearest voxel",
        "tiles in which the image is constant are drawn again",
        "intensities: each channel's percentiles 0.5 and 99.5 become 0 and 1; large constant parts don't count",
        "weights are initialised as in He et al. 2015; an up-convolution starts as nearest-neighbour up-sampling, with "
        "the same weight for all voxels that come from one feature",
        "cross-entropy is divided by the sum of the weights",
        f"with batch normalisation, gradients are clipped to a norm of {LONGEST_GRADIENT:g}",
        "steps whose gradient isn't finite are skipped",
    ]

"""The options that ``monailabel start_server --conf KEY VALUE`` gives to the app."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from lib.core.annotation.slices import Unpainted
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.loss.losses import LOSSES
from lib.core.network.architectures import ARCHITECTURES
from lib.core.network.batch_norm import Statistics
from lib.core.plan.options import PlanOptions, Recipe
from lib.core.volumes.voxel_size import set_size_without_metadata, set_wanted_spacing
from lib.server.dicomweb.address import check_address, default_project, is_address
from lib.server.slicer.segments import check_class_names
from lib.server.store.decoding import default_limit
from lib.server.store.masks import ZeroMeans

KEYS = {
    "labels": "foreground classes in order, separated by commas (inside,tubule)",
    "background": "class painted where there is nothing of interest (outside)",
    "models": "folder for trained models (models in the studies folder)",
    "project": "folder for all that belongs to the project, if --studies is the address of a DICOM archive (a folder "
    "in the working folder, named after the address)",
    "width": "feature maps of the first convolution (32 on a GPU, as in the paper; fewer on a CPU)",
    "spacing": "working voxel size in mm, three numbers separated by commas "
    "(the image's own if its voxels are nearly cubes)",
    "statistics": "statistics that batch normalisation uses at inference: tile, volume, running or mixed (mixed, "
    "until volume or running is clearly better on the held-out slices)",
    "recipe": "how to train: quick, or paper for training as in the paper (quick)",
    "network": f"the network: {' or '.join(ARCHITECTURES)} (unet, the paper's)",
    "loss": f"what training minimises: {' or '.join(LOSSES)} (dice_cross_entropy; cross_entropy with recipe paper)",
    "voxel": "voxel size along X, Y, Z in mm of image files that state none, three numbers separated by commas (1,1,1)",
    "memory": "gigabytes of memory that segmenting may take (part of what is free)",
    "upload": "gigabytes that an uploaded file may have, and that reading it may take in memory (a fourth of the "
    "computer's memory, at most 8)",
    "unlabelled": "which voxels of a ready-made mask in labels/final are unlabelled: 0 (those of value 0) or none (0 "
    "is the background class); needed only if the mask itself doesn't show it",
    "hosts": "names by which others reach this server, separated by commas, besides this computer's own",
    "create": "whether to make a missing studies folder: yes or no (no)",
    "unpainted": "what unpainted voxels in annotated slices count as: unlabelled or background (unlabelled)",
}
"""Known keys and their meaning, with the default in brackets."""

FOREIGN_KEYS = {"server_mode"}
"""Keys that MONAI Label itself reads."""


@dataclass(frozen=True)
class Conf:
    """The settings that ``--conf`` gives to the server.

    Attributes:
        scheme: the label scheme.
        folder: the studies folder, or the project folder if the images come from an archive.
        archive: address of the DICOM archive that has the images; None: they are in the folder.
        models: folder of the project's models.
        plan: options of the plan; planning decides those that are None.
        memory: bytes that a computation may take; None: part of what is free when the computation starts.
        upload: bytes that an uploaded file may have, and that decoding it may take in memory.
        unlabelled: what value 0 means in ready-made masks; None: not specified.
        create: whether to make a missing studies folder.
        voxel: voxel size along X, Y, Z in mm of image files that state none.
        hosts: names by which clients reach the server, besides this computer's own.
    """

    scheme: LabelScheme
    folder: Path
    archive: str | None
    models: Path
    plan: PlanOptions
    memory: int | None
    upload: int
    unlabelled: ZeroMeans | None = None
    create: bool = False
    voxel: tuple[float, float, float] | None = None
    hosts: tuple[str, ...] = ()

    def use_voxel_sizes(self) -> None:
        """Read images by these settings in this process, and in those that it starts from now on."""
        set_size_without_metadata(self.voxel)
        set_wanted_spacing(self.plan.spacing)

    @classmethod
    def parse(cls, conf: Mapping[str, str], studies: str) -> "Conf":
        """Read ``--conf`` options.

        Args:
            conf: the options as texts.
            studies: studies folder, or the address of a DICOM archive.

        Raises:
            InputError: a key is unknown, a value is invalid, or ``studies`` is no address that can be used.
        """
        archive = check_address(studies) if is_address(studies) else None
        if "project" in conf and not archive:
            raise InputError(
                f"--conf project {conf['project']}: --studies {studies} is a folder, which holds the whole project; "
                "leave this option out"
            )
        folder = Path(conf.get("project") or default_project(archive)).absolute() if archive else Path(studies)
        unknown = sorted(set(conf) - set(KEYS) - FOREIGN_KEYS)
        if unknown:
            known = "; ".join(f"{key}: {meaning}" for key, meaning in KEYS.items())
            raise InputError(f"--conf {', '.join(unknown)}: no such option. The options are {known}")
        scheme = LabelScheme.parse(conf.get("labels", "inside,tubule"), conf.get("background", "outside"))
        check_class_names(scheme)
        return cls(
            scheme=scheme,
            folder=folder,
            archive=archive,
            models=Path(conf.get("models") or folder / "models").absolute(),
            plan=PlanOptions(
                width=_whole_number(conf, "width"),
                spacing=_numbers(conf, "spacing"),
                statistics=cast(Statistics | None, conf.get("statistics")),
                recipe=cast(Recipe, conf.get("recipe", "quick")),
                network=conf.get("network", "unet"),
                loss=conf.get("loss"),
                unpainted=cast(Unpainted, conf.get("unpainted", "unlabelled")),
            ),
            memory=_gigabytes(conf, "memory"),
            upload=_gigabytes(conf, "upload") or default_limit(),
            unlabelled=cast(ZeroMeans, _one_of(conf, "unlabelled", get_args(ZeroMeans))),
            voxel=_voxel(conf),
            create=_one_of(conf, "create", ("yes", "no")) == "yes",
            hosts=_hosts(conf),
        )


def _gigabytes(conf: Mapping[str, str], key: str) -> int | None:
    """Read a number of gigabytes; return bytes."""
    if key not in conf:
        return None
    try:
        size = float(conf[key])
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:
        raise InputError(f"--conf {key} {conf[key]}: not a number of gigabytes; give one, e.g. --conf {key} 8")
    return int(size * 1e9)


def _one_of(conf: Mapping[str, str], key: str, choices: Sequence[str]) -> str | None:
    if key in conf and conf[key] not in choices:
        raise InputError(f"--conf {key} {conf[key]}: give one of {', '.join(choices)}")
    return conf.get(key)


def _whole_number(conf: Mapping[str, str], key: str) -> int | None:
    if key not in conf:
        return None
    try:
        return int(conf[key])
    except ValueError as error:
        raise InputError(f"--conf {key} {conf[key]}: not a whole number; give one, e.g. --conf {key} 8") from error


def _numbers(conf: Mapping[str, str], key: str) -> tuple[float, ...] | None:
    if key not in conf:
        return None
    try:
        return tuple(float(number) for number in conf[key].split(","))
    except ValueError as error:
        raise InputError(f"--conf {key} {conf[key]}: not numbers; give three, e.g. --conf {key} 1,1,2.5") from error


def _voxel(conf: Mapping[str, str]) -> tuple[float, float, float] | None:
    match _numbers(conf, "voxel"):
        case None:
            return None
        case (x, y, z) if all(0 < size < math.inf for size in (x, y, z)):
            return x, y, z
        case _:
            raise InputError(
                f"--conf voxel {conf['voxel']}: give three sizes above 0 in mm, e.g. --conf voxel 0.001,0.001,0.003"
            )


def _hosts(conf: Mapping[str, str]) -> tuple[str, ...]:
    hosts = tuple(host.strip().lower() for host in conf.get("hosts", "").split(",") if host.strip())
    for host in hosts:
        if not re.fullmatch(r"(\*\.)?[a-z0-9_.-]+|[0-9a-f:.]+", host):
            raise InputError(f"--conf hosts {host!r}: give names or addresses alone, e.g. --conf hosts lab.example.org")
    return hosts

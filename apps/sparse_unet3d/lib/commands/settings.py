"""The options of a project whose classes are those that its people painted."""

import json
from collections.abc import Sequence
from pathlib import Path

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model
from lib.server.conf import Conf


def project_settings(studies: Path, conf: Sequence[str]) -> Conf:
    """Read the options, and add the classes if they aren't among them.

    Raises:
        InputError: an option isn't possible, there is no such folder, or its classes aren't known.
    """
    if not studies.is_dir():
        raise InputError(f"{studies}: there is no such folder; give the folder of a project")
    options = dict[str, str]()
    for option in conf:
        key, equals, value = option.partition("=")
        if not equals:
            raise InputError(f"--conf {option}: give KEY=VALUE, e.g. --conf width=8")
        options[key] = value
    settings = Conf.parse(options, str(studies))
    if "labels" in options:
        return settings
    scheme = _known_scheme(studies, settings.models)
    return Conf.parse({**options, "labels": ",".join(scheme.foreground), "background": scheme.background}, str(studies))


def _known_scheme(studies: Path, models: Path) -> LabelScheme:
    """Return the classes of the published model, or else of the newest annotation.

    Raises:
        InputError: there is neither.
    """
    folder = ModelFolder(models)
    if folder.is_published():
        return Model.load(folder.published).plan.scheme
    found = sorted((studies / "labels/final").glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(found):
        try:
            names: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))["label_names"]
            *foreground, background = sorted(names, key=lambda name: names[name])
            return LabelScheme.parse(",".join(foreground), background)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    raise InputError(
        f"{studies}: nothing is annotated yet, so the classes aren't known; paint some slices in 3D Slicer, or name "
        "the classes by --conf labels=NAMES --conf background=NAME"
    )

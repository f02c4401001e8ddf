"""Files whose format needs a package that isn't installed: they are listed, say so, and don't stop the others."""

import sys
from pathlib import Path

import numpy as np
import pytest

from imaris_files import write_imaris
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.server.store.datastore import AnnotationStore
from lif_files import Series, lif
from nd2_files import nd2
from serving import write_image


def test_other_images_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.nii.gz")
    voxels = np.ones((2, 3, 4, 5), np.uint16)
    (tmp_path / "b.lif").write_bytes(lif(Series("x", voxels, "tzyx")))
    (tmp_path / "c.nd2").write_bytes(nd2(voxels))
    write_imaris(tmp_path / "d.ims", [voxels[:, None]])
    for package in ("liffile", "nd2", "h5py"):
        monkeypatch.setitem(sys.modules, package, None)
    store = AnnotationStore(str(tmp_path), LabelScheme(("inside",), "outside"))
    assert sorted(store.list_images()) == ["a", "b", "c", "d"]
    assert store.header_notes() == []
    store.check_image("a")
    for image, package in (("b", "liffile"), ("c", "nd2"), ("d", "h5py")):
        with pytest.raises(InputError, match=rf"{image}\..* needs the package {package}; .* press Next Sample again"):
            store.check_image(image)
        assert store.is_unreadable(image)

"""Addresses of archives in place of a studies folder."""

from pathlib import Path

import pytest

from lib.core.errors import InputError
from lib.server.conf import Conf
from lib.server.dicomweb.address import check_address, default_project, is_address


@pytest.mark.parametrize(
    ("studies", "expected"),
    [("http://store/dicom-web", True), ("HTTP:/store", True), ("dicom://store:104", True), ("C:\\data", False)],
)
def test_what_is_an_address(studies: str, expected: bool) -> None:
    assert is_address(studies) == expected
    assert not is_address("/data/http/images")


@pytest.mark.parametrize(
    ("studies", "said"),
    [
        ("dicom://store:104", "neither a folder nor the address of a DICOM archive"),
        ("HTTP:/store", "e.g. http://archive.example.org:8042/dicom-web"),
        ("http://store:port/dicom-web", "neither a folder"),
        ("http://store/dicom-web?limit=3", "neither a folder"),
        ("http://ann:secret@store/dicom-web", "MONAI_LABEL_DICOMWEB_PASSWORD"),
    ],
)
def test_other_addresses_are_refused(studies: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        Conf.parse({}, studies)
    assert said in str(error.value)
    assert "secret" not in str(error.value)


def test_the_project_folder_is_named_after_the_address(tmp_path: Path) -> None:
    assert check_address("http://store:8042/dicom-web/") == "http://store:8042/dicom-web"
    assert default_project("http://store:8042/dicom-web") == Path("store-8042-dicom-web")
    assert default_project("https://../..") == Path()
    conf = Conf.parse({}, "https://store/dicom-web/")
    assert (conf.folder, conf.archive) == (Path.cwd() / "store-dicom-web", "https://store/dicom-web")
    assert conf.models == Path.cwd() / "store-dicom-web/models"
    chosen = Conf.parse({"project": str(tmp_path), "models": "/models"}, "https://store/dicom-web")
    assert (chosen.folder, chosen.models) == (tmp_path, Path("/models"))


def test_a_studies_folder_has_no_project_folder() -> None:
    with pytest.raises(InputError, match="--conf project p: --studies /data is a folder"):
        Conf.parse({"project": "p"}, "/data")

"""Files and folders that may not be read, or are gone: each costs itself, and has a verdict."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from medssl_monai.errors import InputError
from medssl_monai.ingest import Reason, ingest
from medssl_monai.ingest.pseudonyms import source_id
from tests.ingest.dicom_fixtures import KEY, phantom, write_series
from tests.ingest.matrix import judged

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A series that may be read, and one in `DOE_JOHN`, that is for the test to close."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made)
        write_series(path / "in" / "open", phantom(seed=1), series="open")
        write_series(path / "in" / "DOE_JOHN", phantom(seed=2), series="closed")
        path.chmod(0o777)
        yield path
        (path / "in" / "DOE_JOHN").chmod(0o700)


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Rights are checked: not so for root, who is another user for the time of the test."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)
    yield
    os.seteuid(was)


@pytest.mark.parametrize(("rights", "unreadable"), [(0, 1), (4, 6), (1, 1)])
def test_folders_without_rights_have_verdicts(
    folder: Path, request: pytest.FixtureRequest, rights: int, unreadable: int
) -> None:
    """Neither listed nor entered; listed, but its files cannot be told from folders; entered, but not listed."""
    ingest([folder / "in" / "open"], folder / "first", key=KEY, progress=False)  # imports what nobody may not read
    closed = folder / "in" / "DOE_JOHN"
    closed.chmod(rights * 0o111)
    request.getfixturevalue("as_nobody")
    summary = ingest([folder / "in"], folder / "store", key=KEY, progress=False)
    assert judged(summary) == {"accepted": 6, "UNREADABLE": unreadable}
    refused = [one for one in summary.verdicts if one.reason is Reason.UNREADABLE]
    assert all("correct its permissions" in one.detail and "DOE" not in one.detail for one in refused)
    if unreadable == 1:
        assert refused[0].source_id == source_id(KEY, closed)
        with pytest.raises(InputError, match="does not exist, or its folder may not be read"):
            ingest([closed / "none"], folder / "other", key=KEY, progress=False)

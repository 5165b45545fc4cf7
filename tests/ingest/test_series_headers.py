"""What was found of a series is packed meanwhile, and comes back as it was."""

from __future__ import annotations

import pickle
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from medssl_monai.ingest import series_headers
from medssl_monai.ingest.dicom.admission import Rules
from medssl_monai.ingest.scan import Found, look_at
from medssl_monai.ingest.series_headers import SeriesHeaders
from medssl_monai.ingest.sources.paths import SourceFile
from tests.ingest.dicom_fixtures import phantom, write_series

SIZES = {"a": 3, "b": 7, "c": 5}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """Files of three series, taken in turns."""
    folder = tmp_path_factory.mktemp("series")
    groups = [write_series(folder / name, phantom(size), series=name) for name, size in SIZES.items()]
    turns = [group[i] for i in range(max(SIZES.values())) for group in groups if i < len(group)]
    return [look_at(SourceFile(path, path), Rules()) for path in turns]


@pytest.mark.parametrize(("at_once", "unpacked"), [(256, 1024), (2, 1024), (256, 4), (3, 2)])
def test_comes_back(found: list[Found], at_once: int, unpacked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_headers, "PACKED_AT_ONCE", at_once)
    monkeypatch.setattr(series_headers, "MOST_UNPACKED", unpacked)
    headers = SeriesHeaders()
    for one in found:
        headers.add(one)
    assert (headers.count(), headers.count(False), headers.count(True)) == (3, 3, 0)
    groups = list(headers.take())
    assert [len(group) for group in groups] == [7, 5, 3]
    assert headers.count() == 0
    for group in groups:
        uid = group[0].instances[0][0].series_uid
        assert group == [one for one in found if one.instances[0][0].series_uid == uid]


def test_little_is_kept_of_a_file(found: list[Found], tmp_path: Path) -> None:
    headers = SeriesHeaders()
    instance = found[0].instances[0][0]
    count = 6000
    for number in range(count):  # each as if read from a file of its own, sharing nothing with another
        path = tmp_path / f"series-{number // 100}" / f"{number:08d}.dcm"
        one = pickle.loads(pickle.dumps(instance))
        one = replace(
            one,
            path=path,
            content=path,
            series_uid=f"1.2.3.{number // 100}",
            sop_uid=f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, str(number)).int}",
            number=number,
            position=(-180.0, -180.0, 2.5 * number),
        )
        headers.add(Found(SourceFile(path, path), ((one, None),)))
    ((kept,),) = headers._packed.select("SELECT sum(length(block)) FROM kept")
    packed = count - sum(map(len, headers._unpacked.values()))
    assert count - packed <= series_headers.MOST_UNPACKED
    assert kept < 150 * packed

"""Which slices may be the second view of a slice, and how one of them is drawn."""

import pickle
from typing import Any

import numpy as np
import pytest

from medssl_monai.errors import ConfigError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.methods.positives import positive_partners, positive_rule
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.epochs import SampleKey
from medssl_monai.transforms import SparKViewsd
from tests.classify.made_pictures import picture
from tests.ingest.dicom_fixtures import KEY, phantom, write_series

SCANS: dict[str, tuple[list[float], dict[str, Any]]] = {
    "with_a_gap": ([0, 2.5, 5, 17.5, 20], {}),
    "thin": ([1, 2, 3, 4, 5], {}),
    "of_another_day": ([0, 2.5, 5], {"StudyDate": "20200102"}),
    "of_no_day": ([0, 2.5, 5], {"StudyDate": None}),
    "of_another_patient": ([0, 2.5, 5], {"PatientID": "another"}),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SliceStore:
    folder = tmp_path_factory.mktemp("scans")
    for number, (name, (heights, tags)) in enumerate(SCANS.items()):
        positions = [[-120.0, -90.0, height] for height in heights]
        hu = phantom(len(heights), seed=number)
        write_series(folder / "in" / name, hu, positions=positions, series=name, **tags)
    picture(folder / "in" / "picture.png", (64, 64))
    build_store([folder / "in"], folder / "store", key=KEY, modality=None, progress=False)
    return SliceStore(folder / "store")


def alike(one: dict[str, Any], other: dict[str, Any], kind: str, within: float) -> bool:
    """The rule, slice by slice."""
    if one is other or one["z_mm"] is None or other["z_mm"] is None or abs(one["z_mm"] - other["z_mm"]) > within + 0.01:
        return False
    if kind == "neighbour":
        return bool(one["series_id"] == other["series_id"])
    scan = ("patient", "study_day")
    return (
        one["series_id"] != other["series_id"]
        and one["study_day"] is not None
        and all(one[name] == other[name] for name in scan)
    )


@pytest.mark.parametrize("kept", [None, np.delete(np.arange(14), [3, 9])])
@pytest.mark.parametrize("filters", [None, [["slice", "!=", 1]]])
@pytest.mark.parametrize("rule", ["neighbour-2.5mm", "neighbour-5mm", "other_series-1mm", "other_series-3mm"])
def test_candidates_are_those_of_the_rule(
    rule: str, filters: Any, kept: Any, store: SliceStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "medssl_monai")
    rows = store.select(filters)
    rows = rows if kept is None else [rows[i] for i in kept]
    partners = positive_partners(rule, store, filters, kept, seed=3)
    assert partners is not None
    kind, within = rule.split("-")[0], float(rule.split("-")[1].removesuffix("mm"))
    wanted = [{n for n, other in enumerate(rows) if alike(one, other, kind, within)} for one in rows]
    assert [set(partners.candidates(index).tolist()) for index in range(len(rows))] == wanted
    having = sum(map(bool, wanted))
    alone = len(rows) - having
    told = f"positives {rule}: {having} of {len(rows)} slices have a partner, and {alone} are paired with themselves"
    assert 0 < having == partners.count() and told in caplog.text
    # Every one is drawn at some time, and each draw depends on the epoch and the slice alone.
    drawn = [{partners(SampleKey(epoch, index)) for epoch in range(60)} for index in range(len(rows))]
    assert drawn == [found or {index} for index, found in enumerate(wanted)]
    keys = [SampleKey(epoch, index) for epoch in (7, 2) for index in range(len(rows))]
    assert [partners(key) for key in keys] == [pickle.loads(pickle.dumps(partners))(key) for key in keys[::-1]][::-1]


def test_items_have_the_partners_pixels(store: SliceStore) -> None:
    data = SliceDataset(store, partners=positive_partners("neighbour-2.5mm", store, seed=3))
    for index in range(len(data)):
        item = data[SampleKey(4, index)]
        shown = data[SampleKey(0, item["partner"])]
        assert item["index"] == index and (item["partner_slice"]["image"] == shown["image"]).all()
    with pytest.raises(ValueError, match="SparKViewsd shows one slice; make the data set without"):
        SparKViewsd(seed=0, image_size=64)(data[0])


def test_what_has_no_partners_is_refused(store: SliceStore) -> None:
    assert positive_partners("same_slice", store, seed=0) is None
    with pytest.raises(ConfigError, match=r"none of 1 slices has such a partner \(pictures never do\); give a larger"):
        positive_partners("neighbour-5mm", store, [["plane", "==", "unknown"]], seed=0)
    with pytest.raises(ConfigError, match="two series of one patient and study day that lie at most 3 mm apart"):
        positive_partners("other_series-3mm", store, [["plane", "==", "unknown"]], seed=0)


@pytest.mark.parametrize("text", ["neighbour", "neighbour-0mm", "neighbour-5", "same_slice-5mm", "none", None])
def test_other_rules_are_refused(text: Any) -> None:
    with pytest.raises(ConfigError, match=r"positives: must be same_slice, neighbour-Xmm .* correct it"):
        positive_rule(text)


@pytest.mark.parametrize("text", ["same_slice", "neighbour-2.5mm", "other_series-10mm"])
def test_rules_are_written_as_they_are_read(text: str) -> None:
    assert str(positive_rule(text)) == text

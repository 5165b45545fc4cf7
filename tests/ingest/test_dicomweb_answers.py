"""What servers answer that is lawful but rare, or wrong: nothing is lost in silence, no series ends a run."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from medssl_monai.errors import InputError
from medssl_monai.ingest import Outcome, Reason, SliceStore
from medssl_monai.ingest.sources.dicomweb import PacsSource
from medssl_monai.ingest.where import whereabouts
from tests.ingest.conftest import Ingest
from tests.ingest.dicom_fixtures import KEY, phantom, uid, write_series
from tests.ingest.matrix import judged
from tests.ingest.small_pacs import SmallPacs, small_pacs

pytest.importorskip("dicomweb_client", reason="needs the extra dicomweb")


@pytest.fixture
def pacs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallPacs]:
    """With five series of three images."""
    monkeypatch.setattr("medssl_monai.ingest.sources.dicomweb.SECONDS_BEFORE_RETRY", 0)
    for number in range(5):
        write_series(tmp_path / "sent" / str(number), phantom(3, seed=number), series=str(number))
    with small_pacs() as running:
        running.add(tmp_path / "sent")
        yield running


@pytest.mark.parametrize("end_status", [200, 404])
def test_servers_that_give_less_than_is_asked_for(pacs: SmallPacs, run: Ingest, end_status: int) -> None:
    pacs.most, pacs.end_status = 2, end_status
    store, summary = run(PacsSource(pacs.address))
    assert judged(summary) == {"accepted": 15}
    assert len(store) == 15


def test_servers_that_ignore_the_offset(pacs: SmallPacs, run: Ingest) -> None:
    """They give the first page for ever; what is in it is taken once."""
    pacs.most, pacs.deaf = 2, True
    listed = list(PacsSource(pacs.address).series())
    assert [len(one.instance_uids) for one in listed] == [2, 2]
    pacs.most = 10**6
    assert judged(run(PacsSource(pacs.address))[1]) == {"accepted": 15}


def test_a_series_that_is_not_listed_or_garbled_costs_itself(pacs: SmallPacs, run: Ingest) -> None:
    """Both are fetched by the next run, when the server has recovered."""
    pacs.unlisted, pacs.garbled = {uid("4")}, {uid("1")}
    pacs.images[uid("empty")] = []
    store, summary = run(PacsSource(pacs.address))
    assert judged(summary) == {"accepted": 9, "NOT_RETRIEVED": 3 + 1 + 1}
    details = {one.detail for one in summary.verdicts if one.reason is Reason.NOT_RETRIEVED}
    assert {detail.partition("(")[2].partition(")")[0] for detail in details} == {
        "status 404",
        "InvalidDicomError",
        "it names none",
    }
    assert not list(store.path.glob(".draft*"))
    pacs.unlisted, pacs.garbled = set(), set()
    del pacs.images[uid("empty")]
    pacs.asked.clear()
    _, again = run(PacsSource(pacs.address))
    assert (again.added, again.skipped) == (2, 3)
    assert sum(f"series/{uid('0')}" in path and "instances" not in path for path in pacs.asked) == 0


def test_names_lead_to_addresses_and_back(pacs: SmallPacs, run: Ingest) -> None:
    """Of fetched series, of what the server did not give, and of what a second run does not fetch."""
    pacs.unlisted = {uid("4")}
    for _ in range(2):
        store, summary = run(PacsSource(pacs.address), names=True)
        expected = {f"{pacs.address}/studies/1.2/series/{uid(str(n))}": uid(str(n)) for n in range(5)}
        assert {name.path: name.series_uid for name in summary.names} == expected
        for name in summary.names:
            assert [one.id for one in whereabouts(store, name.series_id, summary.names)] == [name.series_id]
            assert [one.id for one in whereabouts(store, name.path, key=KEY)] == [name.series_id]
    assert b"1.2" not in (store.path / "verdicts.jsonl").read_bytes()


def test_a_server_that_fell_silent_ends_the_run(pacs: SmallPacs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl_monai.ingest.sources.dicomweb.ATTEMPTS", 1)
    series = PacsSource(pacs.address).series()
    assert next(series).series_uid == uid("0")
    pacs.drops = 100
    with pytest.raises(InputError, match="QIDO-RS did not answer"):
        next(series)


def test_a_full_disk_is_not_the_server_s_fault(
    pacs: SmallPacs, run: Ingest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "PLANTED")

    monkeypatch.setattr(Dataset, "save_as", full)
    with pytest.raises(InputError, match=r"store: cannot be written \(No space left on device\); free space") as caught:
        run(PacsSource(pacs.address))
    assert "PLANTED" not in str(caught.value)
    assert not (tmp_path / "store").exists() or not list((tmp_path / "store").iterdir())


def test_nothing_that_is_asked_is_logged(pacs: SmallPacs, run: Ingest, caplog: pytest.LogCaptureFixture) -> None:
    """Repeated requests and warnings of servers are, by the libraries, and their addresses name patients."""
    caplog.set_level(logging.DEBUG)
    pacs.drops = 2
    run(PacsSource(pacs.address, {"PatientID": "PLANTED-ID-4711"}))
    assert "PLANTED" not in caplog.text
    assert uid("0") not in caplog.text
    list(PacsSource(pacs.address, {"PatientID": "PLANTED-ID-4711"}).series())
    assert "PLANTED" not in caplog.text
    logging.getLogger("urllib3.connectionpool").warning("another's request")
    assert "another's request" in caplog.text


def test_series_without_answers_are_no_stored_ones(pacs: SmallPacs, run: Ingest) -> None:
    """A stored series that is not listed any more stays stored, and is not said to be rejected."""
    run(PacsSource(pacs.address))
    pacs.unlisted = {uid("4")}
    store, summary = run(PacsSource(pacs.address))
    assert judged(summary) == {"accepted": 12, "NOT_RETRIEVED": 1}
    assert {one.outcome for one in SliceStore(store.path).verdicts} == {Outcome.ACCEPTED}
    assert len(store) == 15

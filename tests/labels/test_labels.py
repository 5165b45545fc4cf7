import json
import logging
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.errors import LabelError
from medssl_monai.ingest.lookup import MissingSourceError
from medssl_monai.labels.labelled_slices import labelled_slices
from medssl_monai.labels.table import LabelTable, read_labels

HEADING = "source,slice,label,patient,split\n"


class FakeStore:
    """Two series of three slices by known patients, and one whose patient is unknown."""

    place = "store"
    series: ClassVar[dict[str, str]] = {"sa": "pa", "sb": "pb", "sc": "sc"}

    def select(self, filters: Any = None) -> list[dict[str, Any]]:
        ((column, operator, wanted),) = filters
        assert (column, operator) == ("series_id", "in")
        return [
            {"series_id": series, "slice": number, "patient": self.series[series], "z_mm": 5.0 * number}
            for series in wanted
            for number in range(3)
        ]


def _find_series(store: FakeStore, source: str | Path, key: bytes | None = None) -> str:
    name = Path(source).name.removesuffix(".nii.gz")
    if name not in store.series:
        raise MissingSourceError(f"the source {name} is not in the store; ingest it")
    return name


@pytest.fixture(autouse=True)
def fake_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl_monai.labels.labelled_slices.find_series", _find_series)


def _write(folder: Path, text: str, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def _resolve(table: LabelTable, split: str | None = None, without_missing: bool = False) -> list[dict[str, Any]]:
    return labelled_slices(table, FakeStore(), None, split=split, without_missing=without_missing)  # type: ignore[arg-type]


def test_csv_and_json_say_the_same(tmp_path: Path) -> None:
    rows = [
        {"source": "sb", "slice": 2, "label": "liver", "patient": "B", "split": "test"},
        {"source": "sa", "slice": None, "label": "lung", "patient": "A", "split": "train"},
    ]
    from_json = read_labels(_write(tmp_path, json.dumps(rows), "labels.json"))
    from_csv = read_labels(_write(tmp_path, "\ufeff" + HEADING + 'sb, 2, "liver",B,test\n\nsa,,lung,A,train\n'))
    assert from_json.rows == from_csv.rows
    assert from_csv.classes == ("liver", "lung")
    assert from_csv.has_split and from_csv.has_patient and from_csv.statements == ()


def test_sources_that_are_paths_are_joined_with_the_tables_folder(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    text = "source,label\nhere,a\ngone/ct,a\n/abs/ct,a\n1.2.840.10008.1,a\nsabc,a\n"
    sources = [row.source for row in read_labels(_write(tmp_path, text)).rows]
    assert sources == [str(tmp_path / "here"), str(tmp_path / "gone/ct"), "/abs/ct", "1.2.840.10008.1", "sabc"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,slice\nsa,0\n", "row 1: the column 'label' is missing, found source, slice; add it"),
        ("label\nlung\n", "row 1: the column 'source' is missing"),
        ("source;label\nsa;lung\n", "the cells are separated by ';', and those of a label table by commas"),
        ("source\tlabel\nsa\tlung\n", r"the cells are separated by '\\t'"),
        (HEADING, "at least one row, found none"),
        ("", "at least one row"),
        ("source,Slice,label\nsa,0,lung\n", "heading: the column 'Slice' must be written 'slice'; rename it"),
        ("source,label,PATIENT \nsa,lung,A\n", "heading: the column 'PATIENT' must be written 'patient'"),
        ("source,slice,label,slice\nsa,0,lung,1\n", "heading: the column 'slice' appears 2 times"),
        (HEADING + "sa,0,lung,A,train\nsa,1, ,A,train\n", "row 2: 'label' may not be empty"),
        (HEADING + ",0,lung,A,train\n", "row 1: 'source' may not be empty"),
        (HEADING + "sa,-1,lung,A,train\n", "row 1: 'slice' is a whole number .* found '-1'"),
        (HEADING + "sa,1.5,lung,A,train\n", "found '1.5'"),
        (HEADING + "sa,²,lung,A,train\n", "found '²'"),
        (HEADING + "sa,0,lung,A,train,more\n", "row 1: more cells than the heading has; quote"),
        (HEADING + "sa,0,lung,A,dev\n", "'split' is one of train, validation, test, found 'dev'"),
        # Python 3.10's csv refuses NUL itself.
        (HEADING + "s\0,0,lung,A,train\n", "row 1: 'source' holds a character that no text has|line contains NUL"),
        (HEADING + "sa,0,lu\0ng,A,train\n", "row 1: 'label' holds a character that no text has|line contains NUL"),
        (HEADING + "x" * 5000 + ",0,lung,A,train\n", "row 1: the source 'xx.* has 5000 characters, more than a path"),
        (HEADING + "y/" * 2500 + ",0,lung,A,train\n", "row 1: the source 'y/.* has 5000 characters, more than a path"),
        (HEADING + "sa,0,NaN,A,train\n", "row 1: the class 'NaN' is how pandas writes a missing value"),
        (HEADING + "sa,0,lung,nan,train\n", "row 1: the patient 'nan' is how pandas writes a missing value"),
        (HEADING + "sa,0,lung,A,train\nsa,0,liver,A,train\n", "row 2: slice 0 of sa .*'liver', but row 1 .*'lung'"),
        (HEADING + "sa,0,lung,A,train\nsa,,liver,A,train\n", "row 2: every slice of sa"),
        (HEADING + "sa,,lung,A,train\nsa,1,liver,A,train\n", "row 2: slice 1 of sa"),
        (HEADING + "sa,0,$__import__('os'),A,train\n", "row 1: the class .* must not begin with"),
        (HEADING + "sa,0,@network,A,train\n", "row 1: the class '@network' must not begin with"),
        (HEADING + "sa,0,lung,A,train\nsa,1,lung#2,A,train\n", "row 2: the class 'lung#2'"),
        (HEADING + "sa,0,lung,A,train\nsb,0,Lung,B,train\n", "row 2: the class 'Lung' differs from 'lung' in row 1"),
        (HEADING + "sa,0,lung,A,train\nsb,0,lung,A,test\n", "row 2: the patient is in the split 'test', but in row 1"),
    ],
)
def test_a_faulty_table_is_refused_by_file_row_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LabelError, match=message) as caught:
        read_labels(_write(tmp_path, text))
    assert str(tmp_path / "labels.csv") in str(caught.value)
    assert ";" in str(caught.value)  # a remedy follows


def test_spellings_of_splits(tmp_path: Path) -> None:
    spelt = {"train": "Train TRAINING", "validation": "val Valid VALIDATION", "test": "TEST testing"}
    for split, words in spelt.items():
        for word in words.split():
            assert read_labels(_write(tmp_path, f"{HEADING}sa,0,lung,A,{word}\n")).rows[0].split == split


def test_unicode_forms_of_a_name_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = "h\u00e9matome", "he\u0301matome"
    table = read_labels(_write(tmp_path, f"source,label\nsa,{composed}\nsb,{decomposed}\n"))
    assert table.classes == (composed,)
    assert any("is written in 2 Unicode forms" in sentence for sentence in table.statements)
    # One form alone is composed without a word, also among several labels.
    several = [{"source": "sa", "label": [decomposed, "a"]}, {"source": "sb", "label": f"{decomposed}|b"}]
    table = read_labels(_write(tmp_path, json.dumps(several), "labels.json"), multilabel=True)
    assert [row.names for row in table.rows] == [("a", composed), ("b", composed)]
    assert not any("Unicode" in sentence for sentence in table.statements)


def test_spaces_around_a_heading_do_not_hide_its_column(tmp_path: Path) -> None:
    text = "source , slice ,label\t,patient ,split , note,,\nsa,2,lung,A,train,x,,\n"
    from_csv = read_labels(_write(tmp_path, text))
    assert [(row.slice, row.label, row.patient, row.split) for row in from_csv.rows] == [(2, "lung", "A", "train")]
    row = {"source": "sa", "slice ": 2, " label": "lung", "patient\u00a0": "A", "split ": "train"}
    assert read_labels(_write(tmp_path, json.dumps([row]), "labels.json")).rows == from_csv.rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSON"),
        ("{}", "list of objects"),
        (
            r'[{"source": "sa", "label": "lung", "patient": "\udc80"}]',
            "row 1: 'patient' holds a character that no text",
        ),
        ("[1]", "list of objects"),
        (
            '[{"source": "sa", "label": "lung"}, {"source": "sb", "Patient": "A"}]',
            "row 2: the column 'Patient' must be",
        ),
        ('[{"source": "sa", "slice": 0, "label": "lung", "slice": 1}]', "row 1: the column 'slice' appears 2 times"),
        ('[{"source": "sa", "slice": 0, "label": "lung", "slice ": 1}]', "row 1: the column 'slice' appears 2 times"),
        ('[{"source": "sa", "label": "lung", "patient": NaN}]', "NaN is not a finite number; write null"),
        ('[{"source": "sa", "label": "lung", "patient": 1e999}]', "1e999 is not a finite number"),
        ('[{"source": "sa", "label": -Infinity}]', "-Infinity is not a finite number"),
    ],
)
def test_faulty_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_labels(_write(tmp_path, text, "labels.json"))


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="No such file"):
        read_labels(tmp_path / "missing.csv")
    (tmp_path / "image.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabelError, match="not UTF-8"):
        read_labels(tmp_path / "image.csv")


def test_rows_come_in_the_indexs_order_with_label_patient_and_split(tmp_path: Path) -> None:
    text = HEADING + "sb,,liver,B,test\nsa,2,lung,A,train\nsa,0,liver,A,train\nsa,2,lung,A,train\n"
    table = read_labels(_write(tmp_path, text))
    rows = _resolve(table)
    got = [(r["series_id"], r["slice"], r["label"], r["label_name"], r["patient"], r["split"]) for r in rows]
    assert got == [
        ("sa", 0, 0, "liver", "A", "train"),
        ("sa", 2, 1, "lung", "A", "train"),
        ("sb", 0, 0, "liver", "B", "test"),
        ("sb", 1, 0, "liver", "B", "test"),
        ("sb", 2, 0, "liver", "B", "test"),
    ]
    assert rows[1]["z_mm"] == 10.0
    assert _resolve(table, "test") == rows[2:]
    assert _resolve(table, "validation") == []


def test_unknown_patient_and_split_are_stated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = read_labels(_write(tmp_path, "source,label\nsa,lung\nsb,liver\n"))
    assert not table.has_split and not table.has_patient
    with caplog.at_level(logging.WARNING):
        rows = _resolve(table)
    assert {row["patient"] for row in rows} == {"pa", "pb"}
    assert {row["split"] for row in rows} == {""}
    assert "patient unknown in 2 of 2 rows" in caplog.text and "split unknown in 2 of 2 rows" in caplog.text


def test_only_the_split_asked_for_must_be_in_the_store(tmp_path: Path) -> None:
    table = read_labels(_write(tmp_path, HEADING + "sa,0,lung,A,train\nelsewhere,0,lung,Z,test\n"))
    assert len(_resolve(table, "train")) == 1
    for split in (None, "test"):
        with pytest.raises(LabelError, match="row 2: the source elsewhere is not in the store; ingest it"):
            _resolve(table, split)


def test_rows_without_their_source_are_left_out_on_demand(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    others = "old/else,0,lung,Z,test\nold/else,1,lung,Z,test\n"
    table = read_labels(_write(tmp_path, f"{HEADING}sa,0,lung,A,test\n{others}"))
    assert [row["series_id"] for row in _resolve(table, "test", without_missing=True)] == ["sa"]
    (message,) = caplog.messages
    assert "2 of 3 test rows name sources (1, the first in row 2: else) that are not in store" in message
    table = read_labels(_write(tmp_path, HEADING + "sa,0,lung,A,train\nelse,0,lung,Z,test\n"))
    with pytest.raises(LabelError, match=r"1 of 1 test rows name sources .* that are not in store .*; ingest them"):
        _resolve(table, "test", without_missing=True)


def test_a_source_that_is_elsewhere_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look-up may open all files of a folder, and a folder has a row for each of its slices."""
    asked: list[str] = []

    def find(store: FakeStore, source: str, key: bytes | None = None) -> str:
        asked.append(source)
        return _find_series(store, source, key)

    monkeypatch.setattr("medssl_monai.labels.labelled_slices.find_series", find)
    others = "".join(f"elsewhere,{number},lung,Z,test\n" for number in range(9))
    table = read_labels(_write(tmp_path, f"{HEADING}sa,0,lung,A,train\nsa,1,lung,A,train\n{others}"))
    assert len(_resolve(table, "train")) == 2
    assert sorted(asked) == ["elsewhere", "sa"]


def test_a_slice_that_the_store_lacks_is_refused(tmp_path: Path) -> None:
    table = read_labels(_write(tmp_path, HEADING + "sa,3,lung,A,train\n"))
    with pytest.raises(LabelError, match=r"row 1: sa has slices 0 to 2 in the store, not 3; .* correct"):
        _resolve(table)


def test_leaks_that_only_the_store_can_tell_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_names = HEADING + "sa,0,lung,,train\nx/sa.nii.gz,1,lung,,test\n"
    with pytest.raises(LabelError, match="row 2: the series is in the split 'test'"):
        _resolve(read_labels(_write(tmp_path, two_names)), "train")
    monkeypatch.setattr(FakeStore, "series", {"sa": "pa", "sb": "pa"})
    with pytest.raises(LabelError, match="row 2: the patient is in the split 'test', but in row 1 in 'train'"):
        _resolve(read_labels(_write(tmp_path, HEADING + "sa,0,lung,,train\nsb,0,lung,,test\n")), "train")


def test_patients_that_the_table_tells_apart_against_the_tags_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(FakeStore, "series", {"sa": "anonymous", "sb": "anonymous"})
    table = read_labels(_write(tmp_path, HEADING + "sa,0,lung,A,train\nsb,0,lung,B,test\n"))
    assert len(_resolve(table)) == 2
    assert "1 patient(s) by the images' own identifiers are in two splits" in caplog.text


def test_two_sources_of_one_series_may_not_contradict(tmp_path: Path) -> None:
    table = read_labels(_write(tmp_path, HEADING + "sa,0,lung,A,train\nx/sa.nii.gz,0,liver,A,train\n"))
    with pytest.raises(LabelError, match=r"row 2: slice 0 of .*'liver', but row 1 labels it 'lung'"):
        _resolve(table)


_CELLS = st.tuples(st.sampled_from(["sa", "sb", "sc"]), st.integers(0, 2), st.sampled_from(["a", "b", "c"]))


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(_CELLS, min_size=1, max_size=9, unique_by=lambda row: row[:2]), seed=st.randoms())
def test_the_order_of_rows_does_not_matter_and_splits_part_the_table(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, str]], seed: Any
) -> None:
    split = {"sa": "train", "sb": "test", "sc": "validation"}
    lines = [f"{source},{number},{label},{source},{split[source]}\n" for source, number, label in rows]
    folder = tmp_path_factory.mktemp("labels")
    first = _resolve(read_labels(_write(folder, HEADING + "".join(lines))))
    seed.shuffle(lines)
    table = read_labels(_write(folder, HEADING + "".join(lines)))
    assert _resolve(table) == first
    parts = [row for name in ("train", "test", "validation") for row in _resolve(table, name)]
    assert sorted(parts, key=lambda row: (row["series_id"], row["slice"])) == first
    assert {(r["series_id"], r["slice"], r["label_name"]) for r in first} == set(rows)

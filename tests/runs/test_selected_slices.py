"""How much the filters of a pre-training leave is said before it starts."""

import logging

import pytest

from medssl_monai.ingest import SliceStore
from medssl_monai.runs.selected_slices import selected_slices


def test_what_the_filters_leave_is_said(phantom_store: SliceStore, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = selected_slices(phantom_store, [["modality", "==", "CT"]])
    assert found == {"slices_in_store": 30, "patients_in_store": 5}
    assert caplog.messages == ["the filters leave 30 of 30 slices, of 5 patients (in the store: 5 patients)"]
    assert caplog.records[0].levelno == logging.INFO


def test_little_is_left_by_a_filter_that_is_named(phantom_store: SliceStore, caplog: pytest.LogCaptureFixture) -> None:
    selected_slices(phantom_store, [["plane", "==", "axial"], ["slice", "<", 1], ["slice", "<", 4]])
    (message,) = caplog.messages
    assert message.startswith("the filters leave 5 of 30 slices, of 5 patients")
    assert "; ['slice', '<', 1] removes most, 25 slices: change filters" in message
    selected_slices(phantom_store, [[["slice", "==", 0]], [["slice", "==", 1]]])  # alternatives: none removes anything
    assert "removes most" not in caplog.messages[-1]

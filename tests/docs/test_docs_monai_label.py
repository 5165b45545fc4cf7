"""The snippet for 3D Slicer's console labels the volume that is shown, and fails when the server refuses."""

import json
import re
import textwrap
from typing import Any
from unittest.mock import MagicMock

import pytest
import requests

from tests.docs.pages import DOCS


def run_snippet(monkeypatch: pytest.MonkeyPatch, status: int) -> list[Any]:
    """Requests of the snippet in a scene of two volumes, where the red view shows the second."""
    first, second = MagicMock(), MagicMock()
    first.GetName.return_value, second.GetName.return_value = "first-patient", "shown-patient"
    slicer = MagicMock()
    slicer.mrmlScene.GetFirstNodeByClass.return_value = first
    slicer.mrmlScene.GetNodeByID.side_effect = {"node 1": first, "node 2": second}.__getitem__
    red = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    red.GetBackgroundVolumeID.return_value = "node 2"
    answer = requests.Response()
    answer.status_code = status
    sent = MagicMock(return_value=answer)
    monkeypatch.setattr(requests, "put", sent)
    page = (DOCS / "monai_label.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^  ```python\n(.*?)^  ```$", page, re.DOTALL | re.MULTILINE)
    exec(textwrap.dedent(snippet), {"slicer": slicer})
    return sent.call_args_list


def test_the_volume_that_is_shown_is_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    (call,) = run_snippet(monkeypatch, 200)
    assert call.args == ("http://127.0.0.1:8000/datastore/label?image=shown-patient&tag=final",)
    assert json.loads(call.kwargs["files"]["label"][1]) == {"label": "thorax"}


def test_a_refused_label_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(requests.HTTPError):
        run_snippet(monkeypatch, 404)

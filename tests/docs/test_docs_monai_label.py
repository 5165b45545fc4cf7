"""The snippet for 3D Slicer's console labels the volume that is shown, and says when the server refuses."""

import json
import re
import textwrap
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from tests.docs.pages import DOCS


class Scene:
    """As much of Slicer as the snippet uses: two volumes were loaded; the red view shows the second."""

    nodes = {"vtkMRMLScalarVolumeNode1": "first-patient", "vtkMRMLScalarVolumeNode2": "shown-patient"}

    def __init__(self) -> None:
        self.mrmlScene = self
        self.app = self

    def GetFirstNodeByClass(self, name: str) -> Any:
        return self.GetNodeByID("vtkMRMLScalarVolumeNode1")

    def GetNodeByID(self, node: str) -> Any:
        return SimpleNamespace(GetName=lambda: self.nodes[node])

    def layoutManager(self) -> Any:
        composite = SimpleNamespace(GetBackgroundVolumeID=lambda: "vtkMRMLScalarVolumeNode2")
        logic = SimpleNamespace(GetSliceCompositeNode=lambda: composite)
        return SimpleNamespace(sliceWidget=lambda name: {"Red": SimpleNamespace(sliceLogic=lambda: logic)}[name])


def run_snippet(monkeypatch: pytest.MonkeyPatch, status: int) -> list[Any]:
    sent: list[Any] = []

    def put(address: str, files: Any) -> requests.Response:
        sent.append((address, files))
        answer = requests.Response()
        answer.status_code = status
        return answer

    monkeypatch.setattr(requests, "put", put)
    page = (DOCS / "monai_label.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^  ```python\n(.*?)^  ```$", page, re.DOTALL | re.MULTILINE)
    exec(textwrap.dedent(snippet), {"slicer": Scene()})
    return sent


def test_the_volume_that_is_shown_is_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    ((address, files),) = run_snippet(monkeypatch, 200)
    assert address == "http://127.0.0.1:8000/datastore/label?image=shown-patient&tag=final"
    assert json.loads(files["label"][1]) == {"label": "thorax"}


def test_a_refused_label_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(requests.HTTPError):
        run_snippet(monkeypatch, 404)

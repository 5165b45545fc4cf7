"""Nothing in a file of weights is run, and a file that is no good fails with one sentence."""

import os
import pickle
import struct
import sys
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl_monai.checkpoints import files
from medssl_monai.checkpoints.load import load_encoder, load_exactly, load_into_resnet, preprocessing_of
from medssl_monai.errors import CheckpointError
from medssl_monai.networks.classifier import classifier
from tests.checkpoints.published import fake_modules, hyper_parameters, named_class
from tests.checkpoints.test_import_formats import assert_same, constants, saved


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., Any], *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


ATTACKS: dict[str, tuple[Callable[..., Any], tuple[object, ...]]] = {
    "os.system": (os.system, ("touch executed",)),
    "exec": (exec, ("open('executed', 'w')",)),
    "eval": (eval, ("open('executed', 'w')",)),
    "Path.touch": (Path.touch, (Path("executed"),)),
    "getattr": (getattr, (Path("executed"), "touch")),
    "torch.load": (torch.load, ("executed",)),
    "open": (open, ("executed", "w")),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_no_call_in_a_pickle_is_run(attack: str, legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    function, args = ATTACKS[attack]
    content = {"state_dict": constants("resnet18", "model."), "hyper_parameters": Namespace(a=Call(function, *args))}
    torch.save(content, "evil.ckpt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="unsafe") as caught:
        load_encoder("evil.ckpt")
    assert "\n" not in str(caught.value)
    assert not Path("executed").exists()


def test_what_other_libraries_allowed_does_not_hold_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = torch.serialization.get_safe_globals()
    torch.save({"model": {"x": Call(Path.touch, Path("executed"))}}, "evil.pt")
    with torch.serialization.safe_globals([Path.touch, type(Path("a"))]):
        with pytest.raises(CheckpointError, match=r"unsafe: it wants to build"):
            load_encoder("evil.pt")
        assert Path.touch in torch.serialization.get_safe_globals(), "the list is put back"
    assert not Path("executed").exists()
    assert set(torch.serialization.get_safe_globals()) == set(before)


def test_calls_of_a_stand_in_build_nothing(tmp_path: Path) -> None:
    content = {"model": constants("resnet18"), "args": [Namespace(a=1), Path("/etc/passwd"), np.float64(3.0)]}
    path = saved(tmp_path / "file.pt", content)
    loaded, _ = files.read_weights(path)
    assert [type(value).__name__ for value in loaded["args"]] == ["_Ignored"] * 3
    assert not any(vars(value) for value in loaded["args"])


def test_a_lightning_file_with_objects_for_hyper_parameters_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Lightning 0.9 to 2 write them: attribute dictionaries, namespaces, callbacks by class, NumPy scalars."""
    names = [name for name in files.STAND_INS if name.startswith(("pytorch_lightning", "lightning"))]
    classes = [named_class(name) for name in names]
    for name, module in fake_modules(*classes).items():
        monkeypatch.setitem(sys.modules, name, module)
    found = {
        "state_dict": constants("resnet18", "model."),
        "hyper_parameters": hyper_parameters({"arch": "resnet18"}),
        "attributes": [cls(lr=0.1, nested={"a": [1, 2]}) for cls in classes if cls.__name__ == "AttributeDict"],
        "callbacks": {cls: {"best": np.float32(0.3)} for cls in classes if cls.__name__ != "AttributeDict"},
        "counts": defaultdict(dict, {"a": {"b": 1}}),
        "ordered": OrderedDict(a=1),
    }
    path = saved(tmp_path / "old.ckpt", found)
    for name in [name for name in sys.modules if name.startswith(("pytorch_lightning", "lightning"))]:
        monkeypatch.delitem(sys.modules, name)
    state, report = load_encoder(path)
    assert_same(state)
    assert report.format == "lightning" and not report.metadata and "callbacks" in report.beside
    assert not any(name.startswith("pytorch_lightning") for name in sys.modules), "no package is imported for a file"


def test_omegaconf_s_objects_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """solo-learn's hyper-parameters: state by attributes, with types of values among them."""
    names = [name for name in files.STAND_INS if name.startswith("omegaconf")]
    classes = {name.rpartition(".")[2]: named_class(name, (object,)) for name in names}
    for name, module in fake_modules(*classes.values()).items():
        monkeypatch.setitem(sys.modules, name, module)
    node = classes["AnyNode"]()
    vars(node).update(_val=3, _metadata=classes["Metadata"]())
    config = classes["DictConfig"]()
    vars(config).update(_content={"lr": node}, _metadata=classes["ContainerMetadata"](), kinds=[Any, dict, list, int])
    path = saved(tmp_path / "solo.ckpt", {"state_dict": constants("resnet18", "backbone."), "hyper_parameters": config})
    assert_same(load_encoder(path)[0])


def test_too_large_a_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("huge.pt", "huge.safetensors"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(files.MAX_BYTES + 1)  # a hole: takes no room on disk
        with pytest.raises(CheckpointError, match=r"take at most 4 GiB, found 4.0 GiB on disk; save the model's"):
            load_encoder(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2**20))
    assert (tmp_path / "bomb.pt").stat().st_size < 2**12
    monkeypatch.setattr(files, "MAX_BYTES", 2**16)
    with pytest.raises(CheckpointError, match="unpacked"):
        load_encoder(tmp_path / "bomb.pt")


def test_a_claim_of_more_than_there_is_fails(tmp_path: Path) -> None:
    """A storage that says it is larger than its bytes, and a view far beyond its storage."""
    path = saved(tmp_path / "small.pt", {"conv1.weight": torch.zeros(4)})
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    claim = next(name for name in entries if name.endswith("data.pkl"))
    assert b"K\x04" in entries[claim]
    for large in (struct.pack("<BI", ord("J"), 2**30), struct.pack("<BH", ord("M"), 2**15)):
        entries[claim] = entries[claim].replace(b"K\x04", large)
        with zipfile.ZipFile(tmp_path / "claim.pt", "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        with pytest.raises(CheckpointError):
            load_encoder(tmp_path / "claim.pt")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_truncated_and_garbled_files_fail_with_one_sentence(legacy: bool, tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    state = {name: value.clone() for name, value in constants("resnet18").items()}
    torch.save(state, whole, _use_new_zipfile_serialization=not legacy)
    assert_same(load_encoder(whole)[0])
    content = whole.read_bytes()
    cut = tmp_path / "cut.pt"
    network = classifier("resnet18")
    calls: list[Callable[[Path], object]] = [
        load_encoder,
        preprocessing_of,
        lambda path: load_into_resnet(network, path),
        lambda path: load_exactly(network, path),
    ]
    for i, share in enumerate((0.0, 1e-7, 1e-5, 1e-4, 0.01, 0.5, 0.9, 0.999, 0.99999)):
        cut.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(CheckpointError, match=r"cut\.pt: .*copy or export it again") as caught:
            calls[i % len(calls)](cut)
        assert "\n" not in str(caught.value)


def test_other_kinds_of_file_are_refused(tmp_path: Path) -> None:
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(pickle.dumps({"conv1.weight": [1, 2]}, protocol=4))
    with pytest.raises(CheckpointError, match="not readable"):
        load_encoder(plain)
    with pytest.raises(CheckpointError, match="found Tensor; save a state_dict"):
        load_encoder(saved(tmp_path / "tensor.pt", torch.zeros(3)))  # type: ignore[arg-type]
    odd: dict[Any, Tensor] = {3: torch.zeros(1), ("a", "b"): torch.zeros(1)}
    with pytest.raises(CheckpointError, match="no encoder in any known format"):
        load_encoder(saved(tmp_path / "odd.pt", odd))
    state, report = load_encoder(saved(tmp_path / "mixed.pt", {**constants("resnet18"), **odd, "note": "x"}))
    assert_same(state)
    assert report.unexpected == {"other": ("3", "('a', 'b')"), "not a tensor": ("note",)}

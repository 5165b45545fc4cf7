"""The same on a CUDA device, in bfloat16 and in float16 with a scaler; skipped where there is none."""

from pathlib import Path

import pytest
import torch

from medssl_monai.ingest import SliceStore
from tests.bundles.runs import finetune, pretrain

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_pretraining_and_finetuning_in_mixed_precision(
    phantom_labels: Path, phantom_store: SliceStore, tmp_path: Path
) -> None:
    workflow = pretrain(phantom_store, tmp_path / "pretrain", device="cuda", amp=True)
    trainer = workflow.parser.get_parsed_content("train::trainer")
    assert next(trainer.method.parameters()).is_cuda
    settings = {"store_dir": str(phantom_store.path), "encoder_weights": str(tmp_path / "pretrain"), "amp": True}
    finetune(phantom_labels, tmp_path / "half", device="cuda", max_epochs=1, **settings)
    finetune(phantom_labels, tmp_path / "half", device="cuda", max_epochs=2, **settings)
    saved = torch.load(tmp_path / "half" / "checkpoints" / "last.pt", weights_only=True)
    assert saved["scaler"]["scale"] > 0

"""One pre-training and one fine-tuning that the tests of runs share."""

from pathlib import Path

import pytest

from medssl_monai.ingest import SliceStore
from tests.bundles.runs import finetune, pretrain


@pytest.fixture(scope="session")
def pretrained(phantom_store: SliceStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "pretrain"
    workflow = pretrain(phantom_store, out)
    assert workflow.check_properties() == []
    return out


@pytest.fixture(scope="session")
def finetuned(
    phantom_labels: Path, phantom_store: SliceStore, pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finetune"
    workflow = finetune(phantom_labels, out, store_dir=str(phantom_store.path), encoder_weights=str(pretrained))
    assert workflow.check_properties() == []
    return out

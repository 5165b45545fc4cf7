"""Fine-tuning in bfloat16 on a CPU."""

from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.inferers.inferer import SimpleInferer
from torch import Tensor, nn

from medssl_monai.engines.finetune import FinetuneTrainer
from medssl_monai.engines.loader import StepLoader
from medssl_monai.engines.precision import Bfloat16Inferer
from medssl_monai.errors import ConfigError
from medssl_monai.store.epochs import SampleKey


class Images:
    """Twelve images of two classes, told by their brightness."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        noise = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(key.index))
        return {"image": noise + 2 * (key.index % 2), "label": key.index % 2}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))


def trained(amp: bool) -> tuple[list[float], set[torch.dtype], nn.Module]:
    model, losses, seen = network(), [], set()
    model[0].register_forward_hook(lambda module, given, out: seen.add(out.dtype))
    trainer = FinetuneTrainer(
        "cpu",
        StepLoader(Images(), 4, 0),  # type: ignore[arg-type]  # a dataset by its methods
        amp=amp,
        max_epochs=3,
        network=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        loss_function=nn.CrossEntropyLoss(),
        decollate=False,
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output["loss"])))
    trainer.run()
    return losses, seen, model


def test_bfloat16_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl_monai.engines.precision.cpu_has_bfloat16", lambda: True)
    exact, half = trained(False), trained(True)
    assert exact[1] == {torch.float32} and half[1] == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in half[2].parameters())
    assert half[0] != exact[0] and half[0] == pytest.approx(exact[0], abs=0.05)
    assert half[0][-1] < 0.5 * half[0][0], "it learns"


def test_weights_are_channels_last_with_amp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl_monai.engines.precision.cpu_has_bfloat16", lambda: True)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 2))
    how: dict[str, Any] = {"train_data_loader": StepLoader(Images(), 4, 0), "max_epochs": 1}  # type: ignore[arg-type]
    how |= {"optimizer": torch.optim.Adam(model.parameters()), "loss_function": nn.CrossEntropyLoss()}

    def last(**settings: Any) -> bool:
        model.to(memory_format=torch.contiguous_format)
        FinetuneTrainer("cpu", network=model, **how, **settings)
        return next(model.parameters()).is_contiguous(memory_format=torch.channels_last)

    assert last(amp=True)
    assert not last()
    assert last(channels_last=True)
    assert not last(amp=True, channels_last=False)


def test_a_cpu_without_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl_monai.engines.precision.cpu_has_bfloat16", lambda: False)
    with pytest.raises(ConfigError, match="CPU with bfloat16 instructions"):
        trained(True)


def test_the_loss_is_given_float32() -> None:
    predicted: Tensor = Bfloat16Inferer(SimpleInferer())(torch.randn(2, 1, 8, 8), network())
    assert predicted.dtype == torch.float32
    assert torch.equal(predicted, predicted.bfloat16().float()), "computed in bfloat16"

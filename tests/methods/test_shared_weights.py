"""What of a method is exchanged between sites: all that is learned, and nothing of the slices."""

from collections.abc import Callable

import pytest
import torch

from medssl_monai.methods.base import Method
from medssl_monai.methods.byol import BYOL
from medssl_monai.methods.moco import MoCo
from medssl_monai.methods.shared_weights import SharedWeights
from medssl_monai.methods.spark import SparK
from medssl_monai.methods.swav import SwAV
from medssl_monai.networks.process_batch_norm import use_process_batch_norm

METHODS: dict[str, Callable[[], Method]] = {
    "spark": lambda: SparK("resnet18", decoder_width=32),
    "swav": lambda: SwAV("resnet18", hidden_dim=16, embedding_dim=8, prototypes=6, queue_length=4),
    "moco": lambda: MoCo("resnet18", embedding_dim=8, queue_length=4, origins=torch.arange(4)),
    "byol": lambda: BYOL("resnet18", hidden_dim=16, embedding_dim=8, target_predictor=True),
}
AT_HOME = {
    "swav": {"queue.features", "queue.filled"},
    "moco": {"queue.features", "queue.pointer", "queue.origins"},
}


@pytest.mark.parametrize("name", METHODS)
def test_queues_and_counters_stay_and_all_else_is_exchanged(name: str) -> None:
    method = METHODS[name]()
    use_process_batch_norm(method)  # as with several GPUs at a site
    shared = SharedWeights(method).state_dict()
    stay = {key for key in method.state_dict() if key not in shared}
    assert {key for key in stay if not key.endswith("num_batches_tracked")} == AT_HOME.get(name, set())
    assert all(value.is_floating_point() for value in shared.values())
    assert {key for key, _ in method.named_parameters()} < set(shared)


def test_loading_leaves_what_stays_as_it_is() -> None:
    torch.manual_seed(0)
    method, other = (MoCo("resnet18", embedding_dim=8, queue_length=4) for _ in range(2))
    queue, exchanged = method.queue.features.clone(), SharedWeights(other).state_dict()
    SharedWeights(method).load_state_dict(exchanged)
    assert torch.equal(method.queue.features, queue)
    assert all(torch.equal(value, exchanged[key]) for key, value in SharedWeights(method).state_dict().items())
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"encoder.conv1.weight\""):
        SharedWeights(method).load_state_dict({k: v for k, v in exchanged.items() if k != "encoder.conv1.weight"})
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"encoder.conv2.weight\""):
        SharedWeights(method).load_state_dict(exchanged | {"encoder.conv2.weight": torch.zeros(1)})


def test_it_computes_what_the_method_computes() -> None:
    method = METHODS["byol"]().eval()
    batch = {"views": [torch.randn(2, 1, 32, 32) for _ in range(2)]}
    assert torch.equal(SharedWeights(method)(batch)["loss"], method(batch)["loss"])

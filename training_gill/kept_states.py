"""What a graph keeps for its backward pass, counted on any device, the meta device included."""

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef


class KeptStorages:
    """Counts the bytes of tensors that a graph keeps, each once and without the weights, on any device."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.weights = {StorageWeakRef(weight.untyped_storage()) for weight in module.parameters()}
        self.found: dict[StorageWeakRef, torch.UntypedStorage] = {}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    @property
    def num_bytes(self) -> int:
        return sum(storage.nbytes() for reference, storage in self.found.items() if reference not in self.weights)

    def __enter__(self) -> None:
        self.hooks.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self.found[StorageWeakRef(storage)] = storage
        return tensor


__all__ = ["KeptStorages"]

"""How the memory of PyTorch tensors travels: as bytes beside the stream, like arrays, each storage once however many
tensors share it. PyTorch's own way copies it into the stream, and loads a tensor of a GPU only where there is one.
"""

from __future__ import annotations

import functools
import pickle
import sys
import warnings
from typing import Any

VIEW_OF = 4
"""A tensor whose storage is so many times larger than itself leaves the rest at home."""
SMALL = 1024 * 1024


class Tensors:
    """Of one stream. ``reduced`` is asked for every object that is pickled."""

    def __init__(self) -> None:
        self._storages: dict[int, Any] = {}

    def reduced(self, item: Any) -> Any:
        """As ``__reduce__`` would; None for what is none of its business."""
        torch = sys.modules.get("torch")
        if torch is None or not hasattr(torch, "UntypedStorage"):  # not in use, or being imported
            return None
        if isinstance(item, torch.storage.TypedStorage):
            return _typed, (self._one(item._untyped_storage), item.dtype)
        if isinstance(item, torch.UntypedStorage):
            return _untyped, (_bytes_of(item), item.device.type, item.device.index or 0)
        if type(item) is torch.Tensor and self._is_small_part(item):
            return _as_it_was, (item.detach().clone(), item.requires_grad)
        return None

    def _one(self, storage: Any) -> Any:
        """The same object for the same memory, so that the stream's memo knows it."""
        return self._storages.setdefault(storage._cdata, storage)

    def _is_small_part(self, tensor: Any) -> bool:
        if not tensor.is_leaf or tensor.layout is not sys.modules["torch"].strided or tensor.is_meta:
            return False
        storage, size = tensor.untyped_storage(), tensor.numel() * tensor.element_size()
        return storage._cdata not in self._storages and storage.nbytes() > max(SMALL, VIEW_OF * size)


def _bytes_of(storage: Any) -> pickle.PickleBuffer:
    torch = sys.modules["torch"]
    here = storage.cpu()  # a copy of a GPU's; the CPU's own as it is
    return pickle.PickleBuffer(torch.empty(0, dtype=torch.uint8).set_(here).numpy())


def _untyped(data: Any, device: str, index: int) -> Any:
    import torch

    view = memoryview(data)
    storage = torch.frombuffer(view, dtype=torch.uint8).untyped_storage() if view.nbytes else torch.UntypedStorage(0)
    if device == "cpu":
        return storage
    if device != "cuda" or not torch.cuda.is_available():
        _warn_once(device)
        return storage
    # The devices of a job are numbered from 0; the notebook may have had others.
    return storage.cuda(index if index < torch.cuda.device_count() else 0)


def _typed(storage: Any, dtype: Any) -> Any:
    from torch.storage import TypedStorage

    return TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def _as_it_was(tensor: Any, requires_grad: bool) -> Any:
    return tensor.requires_grad_(requires_grad)


@functools.cache
def _warn_once(device: str) -> None:
    warnings.warn(f"tensors that were on a {device} device are on the CPU here: there is no such device", stacklevel=2)

"""Reads the tensors of a checkpoint of unknown origin; nothing in it is ever run."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from export.finite import listed, require_finite
from runtime.errors import UsageError

_NESTED = ("state_dict", "model_state_dict", "model")  # where training code puts the tensors


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name: floats as float32, names without wrappers' prefixes.

    Args:
        file: of safetensors, or of `torch.save`: a state dict, or a dict that holds one.

    Raises:
        UsageError: it cannot be read, would run code, holds no tensors, or a tensor has values that are not finite.
    """
    content = _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
    for key in _NESTED:
        inner = content.get(key)
        if isinstance(inner, Mapping) and inner:
            content = inner
            break
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UsageError(f"{file}: no state dict; it holds {listed(map(str, content))}")
    for wrapper in ("module.", "model."):  # of data parallel training, of Lightning
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    require_finite(str(file), tensors)
    return {name: value.detach().float() if value.is_floating_point() else value for name, value in tensors.items()}


def _safetensors(file: Path) -> Mapping[str, object]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as fault:
        raise UsageError(f"{file}: {fault}") from fault


def _pickled(file: Path) -> Mapping[str, object]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old formats
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as fault:
        first = str(fault).splitlines()[0]
        raise UsageError(f"{file}: holds more than tensors, and nothing of a checkpoint is run: {first}") from fault
    except Exception as fault:  # what zip, tar and unpickling raise on garbage has no common base
        raise UsageError(f"{file}: no checkpoint that torch can read: {fault}") from fault
    if not isinstance(content, Mapping):
        raise UsageError(f"{file}: holds a {type(content).__name__}, not a state dict")
    return content

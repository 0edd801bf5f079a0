"""Makes a torchvision that was built for CUDA importable beside a CPU-only torch, as far as its transforms go."""

from __future__ import annotations

import importlib.util
import sys

import torch

# torchvision's Python registers meta kernels for these operators of its C++ library, which such a torch cannot load.
OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input) -> Tensor",
    "_roi_align_backward(Tensor grad) -> Tensor",
    "ps_roi_align(Tensor input) -> Tensor",
    "_ps_roi_align_backward(Tensor grad) -> Tensor",
    "roi_pool(Tensor input) -> Tensor",
    "_roi_pool_backward(Tensor grad) -> Tensor",
    "ps_roi_pool(Tensor input) -> Tensor",
    "_ps_roi_pool_backward(Tensor grad) -> Tensor",
    "qroi_align(Tensor input) -> Tensor",
    "deform_conv2d(Tensor input) -> Tensor",
    "_deform_conv2d_backward(Tensor grad) -> Tensor",
)
_libraries: list[torch.library.Library] = []


def installed() -> bool:
    """Whether there is a torchvision; after this call it can be imported."""
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        _libraries.append(torch.library.Library("torchvision", "DEF"))
        for operator in OPERATORS:
            _libraries[0].define(operator)
        importlib.import_module("torchvision")
    return True

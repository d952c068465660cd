"""Memory-bound detector: in seconds, what this machine's memory and matrix units do to a decode step.

The one part of the gate that needs torch, hence not imported by the gate itself.
"""

from .choice import KERNELS, Tried
from .detect import Detection, detect
from .kernel import Gemm, GemmKernel
from .ridge import Ridge, fit_ridge
from .shapes import LayerShape, layer_shapes

__all__ = [
    "KERNELS",
    "Detection",
    "Gemm",
    "GemmKernel",
    "LayerShape",
    "Ridge",
    "Tried",
    "detect",
    "fit_ridge",
    "layer_shapes",
]

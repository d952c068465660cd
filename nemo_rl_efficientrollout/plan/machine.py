"""Seconds of a step on a machine that was not measured, and on one that was.

Guessed, a GEMM curve by data sheet takes the place of a probe's, and the prior from which an engine's gate starts is
made of it (`gate.model_constants.seeded`). A drafter's step is a plain step of a smaller model that reads the same KV
cache.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..gate.action import SELF
from ..gate.cost_model import CostModel
from ..gate.model_constants import seeded
from ..gate.prior import Prior
from ..gate.terms import Terms, Vector
from ..simulate import Costs, ModelCosts, Overhead
from .assumptions import MACHINE, REQUEST_US
from .gpus import Gpu
from .models import Model
from .weights import byte_ratio, forward

if TYPE_CHECKING:  # it imports torch
    from ..drafter.formats import Format

_TERMS = Terms()
_DRAFT = f"draft.{SELF}"


def guessed(model: Model, gpu: Gpu, tensor_parallel: int, form: "Format | None", normal: Mapping[str, float]) -> Costs:
    """What a step costs by data sheet and assumptions, each `normal` standard deviations above its middle.

    Without a format nothing can be drafted for; plain steps cost the same whatever the format.
    """
    value = {name: spread.at(normal[name]) for name, spread in MACHINE.items()}
    shape = model.shape(tensor_parallel)
    target = _prior(model, gpu, tensor_parallel, None, value)
    own = target
    if form is not None:
        kernel = value["kernel_4bit" if form.bits == 4 else "kernel_8bit"] if form.bits < 16 else 1.0
        smaller = _prior(model, gpu, tensor_parallel, form, value)
        curve = tuple((rows, kernel * seconds) for rows, seconds in smaller.curve)
        kv_s = target.kv_per_ktoken * target.plain_seconds
        own = replace(smaller, plain_seconds=curve[0][1], curve=curve, kv_per_ktoken=kv_s / curve[0][1])
    theta = _scaled(target).mean(_TERMS)
    step = _scaled(own).mean(_TERMS)
    theta[_TERMS.block(_DRAFT)] = [*step[_TERMS.block("target")], *step[_TERMS.block("plain")][1:]]
    for name, most in REQUEST_US.items():
        block = _DRAFT if name == "draft" else name
        theta[_TERMS.names.index(f"{block}.request_s")] = 1e-6 * most * value["request"]
    layers = shape.linears[0].count
    costs = ModelCosts(CostModel(_TERMS, theta, np.zeros((0, 0)), 0.0))
    return Overhead(costs, 1e-6 * layers * value["target_layer_us"], 1e-6 * layers * value["draft_layer_us"])


def measured(model: CostModel, normal: Vector) -> Costs:
    """A cost model's terms, drawn from its covariance; `normal` are standard normal numbers, shape [terms]."""
    return ModelCosts(
        CostModel(model.terms, np.maximum(model.mean + _root(model.covariance) @ normal, 0.0), model.covariance, 0.0),
        model.terms.drafters[0],
    )


def _root(covariance: Vector) -> Vector:
    """A matrix whose product with its transpose is the covariance, which rounding may have left without one."""
    deviation = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    values, vectors = np.linalg.eigh(covariance / np.outer(deviation, deviation))
    return deviation[:, None] * vectors * np.sqrt(np.maximum(values, 0.0))


def _prior(model: Model, gpu: Gpu, tensor_parallel: int, form: "Format | None", value: Mapping[str, float]) -> Prior:
    """Of a model whose weights have this format: the target's own, or a drafter's."""
    shape = model.shape(tensor_parallel)
    bytes_per_s = value["bandwidth"] * gpu.bytes_per_s
    flops_per_s = value["flops"] * (gpu.flops(form.name) if form is not None else gpu.bf16_flops)
    curve = forward(shape, model.routed, form).seconds(bytes_per_s, flops_per_s)
    constants = model.constants(tensor_parallel, byte_ratio(shape, form))
    prior = seeded(constants, curve, flops_per_s / bytes_per_s, 1e-6 * value["all_reduce_us"])
    return replace(prior, kv_per_ktoken=value["kv"] * prior.kv_per_ktoken)


def _scaled(prior: Prior) -> Prior:
    """The prior leaves room for a launch that is not part of the curve: here both are known apart."""
    return prior.scaled(_TERMS, 1, 0.0, prior.plain_seconds + prior.all_reduce_s + prior.all_reduce_s_per_row)

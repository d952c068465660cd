"""What an architecture says about costs before anything is measured: bytes and FLOPs of a decode step.

`efficientrollout gate fit --model-constants FILE` reads the JSON that the authors of arXiv 2606.18967 publish with
their sweeps, and only its architecture: D, D_ff, L, n_heads, n_kv, d_h, V, tp and quant_ratio. Its derived numbers are
left alone: they count the embedding table, of which a step reads one row per token, and no scales of the drafter, and
they count the lm_head, which the published times leave out.

    weights w     = L·(2·D·n_heads·d_h + 2·D·n_kv·d_h + 3·D·D_ff) / tp                        linear layers
    target bytes  = 2·w + 2·D·V/tp                                                            the latter with lm_head
    drafter bytes = 2·quant_ratio·w + groups + 2·D·V/tp                                       lm_head stays 16-bit
    KV bytes      = 2·2·L·max(n_kv/tp, 1)·d_h                                                 per token of context
    row FLOPs     = 2·w + 2·D·V/tp        query FLOPs = 4·L·n_heads·d_h/tp                    per token of context
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import UserError, shown
from ..files import read_json
from .prior import Prior

GROUP = 128
"""Weights that share a 16-bit scale and a zero point as wide as a weight (AWQ storage), below 8 bits."""
KERNEL_EFFICIENCIES = (1.0, 1.6, 2.5)
"""Drafter time over what its bytes allow: from a perfect kernel to one that unpacks as long as it reads."""
KERNEL_EFFICIENCY = 1.3
"""The same before anything says more: small kernels, quantized activations."""
ALL_REDUCE_LATENCY_S, ALL_REDUCE_BYTES_PER_S = 34e-6, 100e9
"""An all-reduce before it is measured. The paper's bench has 36 µs for 229 kB between two A100s over NVLink."""
_BYTES = 2
_KTOKEN = 1000


class ModelConstants(BaseModel):
    """Architecture of a dense decoder, per the published file's names."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)  # other keys are derived numbers

    model: str = ""
    hidden: int = Field(alias="D", ge=1, le=10**6)
    intermediate: int = Field(alias="D_ff", ge=1, le=10**7)
    layers: int = Field(alias="L", ge=1, le=10**4)
    heads: int = Field(alias="n_heads", ge=1, le=10**4)
    kv_heads: int = Field(alias="n_kv", ge=1, le=10**4)
    head_dim: int = Field(alias="d_h", ge=1, le=10**5)
    vocabulary: int = Field(alias="V", ge=1, le=10**8)
    tensor_parallel: int = Field(alias="tp", ge=1, le=10**4)
    quant_ratio: float = Field(gt=0.0, le=1.0)
    """Bits of a drafter weight over 16."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "ModelConstants":
        if self.kv_heads > self.heads or self.heads % self.kv_heads:
            raise ValueError(f"n_heads {self.heads} is no multiple of n_kv {self.kv_heads}")
        if self.heads % self.tensor_parallel:
            raise ValueError(f"n_heads {self.heads} does not divide among tp {self.tensor_parallel} GPUs")
        return self

    @property
    def linear_weights(self) -> float:
        """w: weights in one GPU's part of the quantized layers."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) / self.tensor_parallel

    def target_bytes(self, lm_head: bool = False) -> float:
        """Weight bytes that a step of the target reads."""
        return _BYTES * self.linear_weights + lm_head * self._lm_head_bytes

    def drafter_bytes(self, lm_head: bool = False) -> float:
        """Weight bytes that a step of the drafter reads, scales and zero points included."""
        each = _BYTES * self.quant_ratio
        if self.quant_ratio < 0.5:
            each += (_BYTES + _BYTES * self.quant_ratio) / GROUP
        return each * self.linear_weights + lm_head * self._lm_head_bytes

    def draft_ratio(self, lm_head: bool = False) -> float:
        """Drafter bytes over target bytes: T_D / T_T of a kernel that is as fast as memory."""
        return self.drafter_bytes(lm_head) / self.target_bytes(lm_head)

    def kv_per_ktoken(self, lm_head: bool = False) -> float:
        """KV bytes of a thousand tokens, in units of the target's weight bytes."""
        heads = max(self.kv_heads / self.tensor_parallel, 1.0)
        return _KTOKEN * 2 * _BYTES * self.layers * heads * self.head_dim / self.target_bytes(lm_head)

    def attention_per_ktoken(self, ridge_rows: float, lm_head: bool = False) -> float:
        """Attention FLOPs of one query over a thousand tokens, in units of the time of reading the weights.

        Reading the weights takes as long as the GEMMs of `ridge_rows` rows, so the unit is that many rows' FLOPs.
        """
        query = 4 * self.layers * self.heads * self.head_dim / self.tensor_parallel
        return _KTOKEN * query / (self.target_bytes(lm_head) * ridge_rows)  # 2 bytes per weight, 2 FLOP per weight

    def all_reduce(self, latency_s: float, bytes_per_s: float) -> tuple[float, float]:
        """Seconds of a step's all-reduces for no rows, and for each row: two per layer, 16-bit activations."""
        if self.tensor_parallel == 1:
            return 0.0, 0.0
        count = 2 * self.layers
        return count * latency_s, count * _BYTES * self.hidden / bytes_per_s

    @property
    def _lm_head_bytes(self) -> float:
        return _BYTES * self.hidden * self.vocabulary / self.tensor_parallel


def read_model_constants(path: Path) -> ModelConstants:
    """The architecture in a file of model constants.

    Raises:
        UserError: one line with file, key and what was expected.
    """
    content = read_json(path, "give a JSON file of model constants such as D, D_ff, L, n_heads, n_kv, d_h, V, tp")
    try:
        return ModelConstants.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise UserError(f"{path} has no key '{key}'; add it") from None
        if first["type"] == "value_error":
            raise UserError(f"{path}: {first.get('ctx', {})['error']}; correct the file") from None
        raise UserError(f"{path}: {key} is {shown(first['input'])}, {_lower(first['msg'])}; correct the file") from None


def sharpened(priors: Sequence[Prior], constants: ModelConstants, lm_head: bool = False) -> list[Prior]:
    """The hypotheses over the ridge as they were, those over the drafter narrowed, KV traffic twice.

    KV traffic stays a question: where all requests of a sweep have the same prompt, caches serve most of it, and the
    published sweeps show 0.2 to 0.5 of what the architecture says.

    Args:
        priors: hypotheses as the fit makes them; what they say of the drafter is replaced.
        constants: of the model that was measured.
        lm_head: whether the times include the lm_head; those of the published sweeps do not.
    """
    machines = list(dict.fromkeys(replace(prior, draft_ratio=1.0) for prior in priors))
    physical = [replace(prior, kv_per_ktoken=constants.kv_per_ktoken(lm_head)) for prior in machines]
    drafts = [constants.draft_ratio(lm_head) * efficiency for efficiency in KERNEL_EFFICIENCIES]
    return [replace(prior, draft_ratio=ratio) for prior in machines + physical for ratio in drafts]


def seeded(
    constants: ModelConstants,
    curve: Sequence[tuple[float, float]],
    ridge_rows: float | None,
    all_reduce_latency_s: float = ALL_REDUCE_LATENCY_S,
) -> Prior:
    """What is believed of this architecture on a machine of which only GEMM times are known, output head included.

    Args:
        constants: of the model and the drafter's bytes.
        curve: (rows, seconds) of all GEMMs of a step, from one row on.
        ridge_rows: where weights stop being free; None if beyond the curve.
        all_reduce_latency_s: of one all-reduce of nothing.
    """
    efficiency = 1.0 if constants.quant_ratio == 1.0 else KERNEL_EFFICIENCY
    fixed, per_row = constants.all_reduce(all_reduce_latency_s, ALL_REDUCE_BYTES_PER_S)
    prior = Prior(
        all_reduce_s=fixed,
        all_reduce_s_per_row=per_row,
        plain_seconds=curve[0][1],
        draft_ratio=constants.quant_ratio * efficiency,
        kv_per_ktoken=constants.kv_per_ktoken(lm_head=True),
        curve=tuple(curve) if len(curve) > 1 else (),
    )
    if ridge_rows is None:
        return prior
    attention = constants.attention_per_ktoken(ridge_rows, lm_head=True)
    return replace(prior, ridge_rows=ridge_rows, attention_per_ktoken=attention)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]

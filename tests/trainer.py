"""What a trainer sends at a refit."""

import torch

from nemo_rl_efficientrollout.drafter.formats import FORMATS
from nemo_rl_efficientrollout.drafter.packing import named_parts, parts

Stream = dict[str, torch.Tensor]


def with_drafter(weights: Stream, name: str) -> Stream:
    """The policy's tensors and, after them, the drafter's in the format `name`, under their Hugging Face names."""
    form, stream = FORMATS[name], dict(weights)
    for weight, tensor in weights.items():
        if weight.endswith(("_proj.weight", "lm_head.weight", ".w1.weight", ".w2.weight", ".w3.weight")):
            stream |= dict(named_parts(weight, parts(form, form.quantize(tensor))))
    return stream

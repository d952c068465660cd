"""vLLM on CPU packs expert weights in place of the originals: nothing could be refitted or quantized from.

Keep the originals on the layer and the packed ones beside the kernel, which each version keeps elsewhere: see
`keep_expert_originals` in `vllm_*.py`. Remove when vLLM-CPU can reload experts itself.
"""

EXPERT_WEIGHTS = ("w13_weight", "w2_weight")
"""vLLM's parameters: [experts, 2·intermediate, hidden] gate over up, and [experts, hidden, intermediate]."""

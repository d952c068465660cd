"""Number formats of the drafter, one file each: the pure-torch specification that every kernel must match.

`bf16`, the identity, has no file: there the drafter shares the policy's own weights.
"""

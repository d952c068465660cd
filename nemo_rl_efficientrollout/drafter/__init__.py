"""How a drafter is made from weights. Torch only: imports no engine."""

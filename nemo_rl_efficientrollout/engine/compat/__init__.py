"""What stock vLLM gets wrong or does not offer, one file each; every file says when it can go."""

"""What stock vLLM gets wrong or does not offer, and what differs between its versions, one file each."""

"""How a rule runs over many tensors. One backend so far: `reference`, with torch operations."""

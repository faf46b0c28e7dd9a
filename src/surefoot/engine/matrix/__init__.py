"""Preconditioning of whole matrices, for Muon, SOAP and Shampoo: torch operations on stacks of one shape."""

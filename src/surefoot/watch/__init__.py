"""Signals: what is measured at a step, how it is kept, at what cost. Knows no symptom."""

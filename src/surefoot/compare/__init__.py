"""Comparing trainings fairly: paired runs and their statistics."""

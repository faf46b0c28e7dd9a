"""What is wrong with a training, why, and what to do."""

"""The mathematics of every optimizer: pure functions of one element, as its paper states it."""

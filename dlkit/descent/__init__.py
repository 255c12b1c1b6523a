"""Gradient descent on losses of two parameters: paths, what became of them and why, and maps. Without torch.

torch.optim and autograd are the oracles in the tests: each path is theirs, to the last digits.
"""

"""How the backward steps are taken: one file for each source of gradients, and the torch shell.

A source of gradients is a callable from images, float32 [N, C, H, W] in model space, to the model's
raw output as float32, differentiable by torch.
"""

"""How the backward steps are taken: one file for each source of gradients, and the torch bridge.

A source of gradients is given masked images (images and baselines, float32 [N, C, H, W] in model
space), and returns a `MaskedModel`: a function from masks right after these images, float32
[N, 1, h, w] of any grid, to the model's raw outputs, and its vector-Jacobian products. Torch is
loaded only where a source is a torch program.
"""

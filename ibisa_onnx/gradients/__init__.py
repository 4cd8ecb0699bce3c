"""Sources of gradients, one per file, and the bridge to PyTorch's autograd.

A source of gradients receives masked images (images and baselines, float32 [N, C, H, W] in model
space) and returns a `MaskedModel`: a function from masks applied to these images, float32
[N, 1, h, w] on any grid, to the model's raw outputs, with vector-Jacobian products. torch is
imported only if the source is a torch program.
"""

"""How the backward steps are taken: one file for each source of gradients, and the torch shell.

A source of gradients is given a bottleneck (an image and its baseline, float32 [1, C, H, W] in
model space), and returns a `VectorJacobian`: a function from masks right after that image, float32
[N, 1, h, w] of any grid, to the model's raw output as float32, and its vector-Jacobian products.
Torch is loaded only where a source is a torch program.
"""

"""Images: MNIST (fully connected, convolutional, residual), CIFAR-10, and the digits of scikit-learn.

download ─► idx_files (the format of MNIST) ─► mnist ─► residual; cifar and digits have their own data
"""

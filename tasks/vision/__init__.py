"""Images: MNIST, CIFAR-10 and digits."""

"""A Gaussian process of a few hundred points, on numpy and scipy alone."""

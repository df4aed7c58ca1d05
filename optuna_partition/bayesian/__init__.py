"""Bayesian optimization on BoTorch: model, acquisition functions, and the rule that a sampler asks.

It needs the extra `gp`; nothing else imports it before a sampler of it is asked for.
"""

"""Language models: base weights and the adapters that are trained over them."""

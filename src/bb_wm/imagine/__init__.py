"""Imagination on any object that answers the protocols: latent -> trajectory -> return and risk."""

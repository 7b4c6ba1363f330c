"""The network: observation -> modality -> posterior -> latent -> heads. Knows nothing of deciding."""

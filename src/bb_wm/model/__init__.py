"""The network: observation -> modality -> posterior -> latent -> heads; it decides nothing."""

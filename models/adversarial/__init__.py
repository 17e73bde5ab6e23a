"""Adversarial learning: a modality discriminator on the embeddings."""

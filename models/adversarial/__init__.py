"""Adversarial learning: a modality discriminator in the common space."""

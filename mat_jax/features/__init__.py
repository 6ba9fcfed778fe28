"""Frozen feature networks: VGG, AlexNet, Inception, vision transformers."""

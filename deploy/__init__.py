"""What composes the tiers: images, manifests, the one-machine launcher."""

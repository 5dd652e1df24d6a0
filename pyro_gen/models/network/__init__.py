"""Networks: block models, whose nodes have groups, and positions in a latent space."""

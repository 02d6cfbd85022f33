"""EPIC: purity of mixed channels, equal logits, and shares in logits."""

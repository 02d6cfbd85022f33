"""What every training loop here needs: checkpoints, seeds, logs, and the caller's state put back."""

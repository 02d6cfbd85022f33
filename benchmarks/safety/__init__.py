"""Safe use: threads, interrupts, changed files, and faults known from pytorch-grad-cam."""

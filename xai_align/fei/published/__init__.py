"""Published FEI (arXiv 2509.04588): the nested solver, and gradient clipping. The curve solver uses none of it."""

"""Error of a training that diverged."""


class DivergedError(ArithmeticError):
    """Error of a loss or gradient that is NaN or infinite."""

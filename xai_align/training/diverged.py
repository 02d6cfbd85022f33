"""What is raised when there is no use in going on."""


class DivergedError(ArithmeticError):
    """The loss is no number any more."""

"""The one exception for input that is wrong: what a user reads instead of a traceback."""


class InputError(ValueError):
    """Something handed to us (option, file, environment) cannot be used.

    The message is one sentence for the screen: what was expected, what came, what to do.
    Every command line of this project prints it and exits with code 2.
    """

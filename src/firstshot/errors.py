"""The one error a user can cause and mend."""


class UserError(ValueError):
    """Bad input: the message names the file or key, what was found, what was expected and what to do."""

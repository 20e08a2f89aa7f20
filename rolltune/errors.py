"""The one exception for what a person can put right: its message is all they see."""


class UserError(Exception):
    """Names the file, the line and the value, what was expected, and what to do. Shown without a traceback."""

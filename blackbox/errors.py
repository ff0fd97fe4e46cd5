"""The errors a user can cause; their messages say what is wrong, where, and what would be right."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in a configuration, a call or a file. The command line prints it without a traceback."""


class StaleAnswerError(UserError):
    """An answer to a query of an older version of the parameters, or one already acted on."""


class JournalError(UserError):
    """A run folder that cannot be opened, resumed or written."""


class BudgetSpent(UserError):
    """More was about to be asked than a budget allows; nothing was asked."""

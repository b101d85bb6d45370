"""The errors a user can mend; commands print them without a traceback and exit with code 2."""


class ConfigError(ValueError):
    """The configuration asks for something that does not exist or does not fit."""


class DataError(ValueError):
    """A data file is there, but its content is not what the configuration says."""


class DataNotFoundError(FileNotFoundError):
    """A data file or a run folder is not there."""


USER_ERRORS = (ConfigError, DataError, DataNotFoundError)


class JobError(RuntimeError):
    """A job ran and failed; commands print it without a traceback and exit with code 1."""

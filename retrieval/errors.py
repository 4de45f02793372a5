"""What can be wrong with images: the whole source, or a single one of them."""


class ImageSourceError(ValueError):
    """A source as a whole cannot be used. The message is one line: what is wrong and what to do."""


class NotLocalError(ImageSourceError):
    """A name has a scheme, such as `https:`. The message ends before what to name instead."""


class UnreadableImageError(Exception):
    """One image cannot be read. The message is the short reason that lands in `failures.parquet`."""


class MissingModelError(ValueError):
    """The model that made an index is not where it was, or nobody here has asked for it yet."""


class EvaluationError(ValueError):
    """Queries whose accuracy against this corpus cannot be measured."""


class LessonsError(ValueError):
    """What is asked of learning contradicts itself."""


class MissingExtraError(RuntimeError):
    """An optional package is needed. The message says which extra brings it."""


class OutputExistsError(ValueError):
    """A folder to write into is in use."""


class LostProcessError(RuntimeError):
    """A process that helps ended before it had anything to work on."""

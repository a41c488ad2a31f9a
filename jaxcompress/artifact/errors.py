"""The one exception of the room."""


class ArtifactError(ValueError):
    """A file that cannot be trusted, read or written; the text says what is wrong and what to do."""

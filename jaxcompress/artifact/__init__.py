"""The file format: one self-describing, verified file for a compressed model."""

from jaxcompress.artifact.errors import ArtifactError
from jaxcompress.artifact.reading import Artifact, inspect, load
from jaxcompress.artifact.writing import save

__all__ = ["Artifact", "ArtifactError", "inspect", "load", "save"]

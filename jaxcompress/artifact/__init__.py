"""The file format: one self-describing, verified file for a compressed model."""

from jaxcompress.artifact.artifact import Artifact, inspect, load, save
from jaxcompress.artifact.errors import ArtifactError

__all__ = ["Artifact", "ArtifactError", "inspect", "load", "save"]

"""The `jaxcompress` command."""

from jaxcompress.cli.command import main as main

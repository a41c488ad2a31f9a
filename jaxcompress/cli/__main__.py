"""`python -m jaxcompress.cli`."""

import sys

from jaxcompress.cli.command import main

sys.exit(main())

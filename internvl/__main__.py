"""`python -m internvl` is the `internvl` command."""

import sys

from internvl.cli.main import main

sys.exit(main())

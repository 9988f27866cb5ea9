"""python -m minimistral: the command `minimistral`."""

import sys

from minimistral.cli import main

sys.exit(main())

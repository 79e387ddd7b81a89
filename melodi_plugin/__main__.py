"""`python -m melodi_plugin` is `melodi`."""

import sys

from melodi_plugin.cli.main import main

if __name__ == "__main__":
  sys.exit(main())

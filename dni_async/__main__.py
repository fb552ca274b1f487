"""`python -m dni_async COMMAND` and `dni-async COMMAND`: the same commands as `python -m launch.COMMAND`.

The only module of this package that imports upwards: the console script needs a name that is the same in the
repository and in the wheel (see setup.py).
"""

from __future__ import annotations

from launch.cli import main

if __name__ == "__main__":
    main()

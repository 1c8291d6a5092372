"""One entry on any number of processes: `torchrun --nproc-per-node N -m faithfulfaces.train --recipe R --out DIR`."""

import sys

from faithfulfaces.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()

"""`python -m faithfulfaces.cli`, which torchrun starts."""

from faithfulfaces.cli import main

main()

"""``python -m medssl_monai`` is ``medssl``."""

from medssl_monai.cli.main import main

main()

"""``python -m engine`` is ``offhook``."""

from engine.cli import main

main()

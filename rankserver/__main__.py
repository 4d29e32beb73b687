"""``python -m rankserver``."""

from rankserver.cli import main

raise SystemExit(main())

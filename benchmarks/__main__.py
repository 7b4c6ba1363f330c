"""python -m benchmarks {worlds,exact,import-time,report}; see benchmarks/foundation.py."""

from benchmarks.foundation import main

raise SystemExit(main())

"""python -m benchmarks {worlds,exact,import-time,report,quality}.

See benchmarks/foundation.py; quality is benchmarks/quality.py.
"""

import sys

from benchmarks import foundation, quality

if sys.argv[1:2] == ["quality"]:
    raise SystemExit(quality.main(sys.argv[2:]))
raise SystemExit(foundation.main())

"""Makes the module importable that `test_jax` runs in a process of its own, too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

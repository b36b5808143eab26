"""Where things are: the checkout, the programs of its environment, real data beside it."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SHARED_DATA = ROOT.parent / "shared" / "data"

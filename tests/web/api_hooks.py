"""What schemathesis has to know besides the document: how people spell phone numbers. Loaded in its own process."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies as st

LINES = st.integers(0, 99).map(lambda n: f"{n:02}")
SPELLINGS = ("+155501000{}", "+1 (555) 010-00{}", "001 555 010 00{}", "(555) 010-00{}", "+44 20 7946 00{}")

schemathesis.openapi.format("phone", st.builds(lambda form, line: form.format(line), st.sampled_from(SPELLINGS), LINES))

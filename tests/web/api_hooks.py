"""What schemathesis has to know besides the document: how people spell phone numbers. Loaded in its own process."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies as st

from tests.web.api_judge import LINES, SPELLINGS

schemathesis.openapi.format("phone", st.builds(str.format, st.sampled_from(SPELLINGS), st.sampled_from(LINES)))

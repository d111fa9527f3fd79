"""The one import of ``audioop``: part of Python before 3.13, the package ``audioop-lts`` from then on."""

import warnings

with warnings.catch_warnings():
    # 3.11 and 3.12 announce the move at every import; the dependency on audioop-lts has dealt with it.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop as audioop  # noqa: PLC0414 - an explicit re-export

error = audioop.error
"""What the functions of audioop raise for audio that is not whole samples."""

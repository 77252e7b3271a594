"""The only room that imports Ray."""

from pipeline.execution.token import use_token

use_token()  # here, because it must come before the first import of ray

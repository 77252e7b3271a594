"""The only room that imports Ray."""

import os

from pipeline.execution.token import use_token

use_token()  # here, because it must come before the first import of ray

# Some versions of Ray Data unpickle what a Parquet file's tensor columns say of themselves, if this variable asks for
# it. It is read when Ray Data is imported, by us or by the workers that this process starts.
os.environ["RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA"] = "0"
